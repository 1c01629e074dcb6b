//! The fast path: a statement that consists of one search runs without physical planning, which would take
//! longer than the search.

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

/// A search and the columns of its result that a plan selects, by position.
struct FastPath<'a> {
    search: &'a SearchNode,
    columns: Vec<usize>,
}

/// The search that a node of a plan is, if it is one.
fn search_of(node: &LogicalPlan) -> Option<&SearchNode> {
    match node {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

impl<'a> FastPath<'a> {
    /// Recognizes a plan that only selects columns of a search with constant arguments.
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Projection(projection) => {
                let below = Self::of(&projection.input)?;
                let position = |expr: &Expr| {
                    let index = projection.input.schema().maybe_index_of_column(column_of(expr)?)?;
                    below.columns.get(index).copied()
                };
                let columns = projection.expr.iter().map(position).collect::<Option<_>>()?;
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

/// The column that an expression selects, under any alias.
fn column_of(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

/// Runs a plan that consists of one search. `None` when the plan is something else.
///
/// # Errors
/// What the search fails with.
pub async fn run_fast_path(plan: &LogicalPlan, state: &dyn Session) -> Result<Option<RecordBatch>> {
    let Some(FastPath { search, columns }) = FastPath::of(plan) else {
        return Ok(None);
    };
    let rows = search.rows(state, &columns).await?;
    let schema = Arc::new(plan.schema().as_arrow().clone());
    let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(Some(RecordBatch::try_new_with_options(schema, rows.columns().to_vec(), &count)?))
}

/// Whether an unoptimized plan may be cached and run several times. It reads only tables and searches, and no
/// full-text function: running one fills in the bindings of its table.
///
/// # Errors
/// When the plan cannot be traversed.
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

/// Replaces parameters that are whole arguments of a search by their values. As expressions in the plan,
/// large vectors would be copied and printed at every rewrite.
///
/// # Errors
/// When the plan cannot be traversed.
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
