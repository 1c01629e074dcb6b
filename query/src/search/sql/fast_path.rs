//! Statements that are nothing but a search: they run without the engine's planner, which would take longer than they do.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};

use crate::search::sql::binding::text_call;
use crate::search::sql::relation::SearchNode;
use crate::tables::pinned::PinnedTable;

/// A search and the columns that are wanted of it, by their places.
struct FastPath<'a> {
    search: &'a SearchNode,
    columns: Vec<usize>,
}

fn search_of(node: &LogicalPlan) -> Option<&SearchNode> {
    match node {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

impl<'a> FastPath<'a> {
    /// A plan that does nothing but choose columns of a search whose arguments are known.
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Projection(projection) => {
                let below = Self::of(&projection.input)?;
                let place = |expr: &Expr| {
                    let place = projection.input.schema().maybe_index_of_column(column_of(expr)?)?;
                    below.columns.get(place).copied()
                };
                let columns = projection.expr.iter().map(place).collect::<Option<_>>()?;
                Some(Self { columns, ..below })
            }
            node => {
                let search = search_of(node).filter(|search| search.is_known())?;
                let columns = (0..node.schema().fields().len()).collect();
                Some(Self { search, columns })
            }
        }
    }
}

/// The column that an expression is, by whatever name.
fn column_of(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

/// The rows of a plan that is nothing but a search; `None` when it is something else.
pub async fn run_fast_path(plan: &LogicalPlan, state: &dyn Session) -> Result<Option<RecordBatch>> {
    let Some(FastPath { search, columns }) = FastPath::of(plan) else {
        return Ok(None);
    };
    let rows = search.rows(state, &columns).await?;
    let schema = Arc::new(plan.schema().as_arrow().clone());
    let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(Some(RecordBatch::try_new_with_options(schema, rows.columns().to_vec(), &count)?))
}

/// Whether a plan that is not optimized yet may be run several times: it reads tables and searches alone, and keeps nothing
/// of a run, as tables do of the texts that they are asked for.
pub fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut repeatable = true;
    plan.apply_with_subqueries(|node| {
        repeatable &= match node {
            LogicalPlan::TableScan(scan) => {
                source_as_provider(&scan.source)?.downcast_ref::<PinnedTable>().is_some()
            }
            LogicalPlan::Extension(_) => search_of(node).is_some(),
            _ => true,
        };
        node.apply_expressions(|expr| {
            repeatable &= !expr.exists(|e| Ok(text_call(e).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if repeatable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(repeatable)
}

/// Puts parameters among the arguments of searches, where they are only values: as expressions they would be written out
/// again and again.
pub fn bind_searches(plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<LogicalPlan> {
    let bound = plan.transform_up_with_subqueries(|node| match search_of(&node) {
        Some(search) => {
            let node = Arc::new(search.with_parameters(parameters));
            Ok(Transformed::yes(LogicalPlan::Extension(Extension { node })))
        }
        None => Ok(Transformed::no(node)),
    })?;
    Ok(bound.data)
}
