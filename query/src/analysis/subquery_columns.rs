//! Scalar subqueries in `ORDER BY`, `GROUP BY`, join conditions, and arguments of aggregates and windows.
//!
//! Distributed plans have no scalar subqueries: DataFusion makes joins of them, but only of those in `WHERE`
//! and in select lists. Here the others become columns of a projection below.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr};
use datafusion::optimizer::AnalyzerRule;

/// The rule; runs after those that make scalar subqueries.
#[derive(Debug)]
pub(crate) struct SubqueryColumns;

impl AnalyzerRule for SubqueryColumns {
    fn name(&self) -> &str {
        "subquery_columns"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite).map(|transformed| transformed.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let keeps_columns = match &plan {
        LogicalPlan::Aggregate(_) => false,
        LogicalPlan::Sort(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_) => true,
        _ => return Ok(Transformed::no(plan)),
    };
    let plan = match plan {
        LogicalPlan::Join(join) => LogicalPlan::Join(with_subqueries_in_filter(join)),
        plan => plan,
    };
    let mut columns = SubqueriesAsColumns::default();
    let names = NamePreserver::new(&plan);
    let schema = plan.schema().clone();
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(columns.replace(expr)?.update_data(|expr| name.restore(expr)))
    })?;
    if columns.subqueries.is_empty() {
        return Ok(rewritten);
    }
    let plan = rewritten.data;
    let mut inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
    // A condition of a join is evaluated for pairs of rows, which have the columns of the left side.
    let Some(input) = inputs.first_mut() else {
        return Ok(Transformed::no(plan));
    };
    *input = columns.project(input.clone())?;
    let plan = plan.with_new_exprs(plan.expressions(), inputs)?;
    let plan = if keeps_columns { select(plan, &schema)? } else { plan };
    Ok(Transformed::yes(plan))
}

/// A join whose keys have no subqueries: each key has to belong to its own side.
fn with_subqueries_in_filter(mut join: Join) -> Join {
    let equals = match join.null_equality {
        NullEquality::NullEqualsNothing => Operator::Eq,
        NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
    };
    let (moved, kept): (Vec<_>, Vec<_>) =
        join.on.into_iter().partition(|(left, right)| has_subquery(left) || has_subquery(right));
    join.on = kept;
    for (left, right) in moved {
        let condition = binary_expr(left, equals, right);
        join.filter = Some(match join.filter {
            Some(filter) => filter.and(condition),
            None => condition,
        });
    }
    join
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(matches!(expr, Expr::ScalarSubquery(_)))).unwrap_or(false)
}

/// The subqueries of expressions, and the columns that take their places.
#[derive(Default)]
struct SubqueriesAsColumns {
    subqueries: Vec<(Expr, Column)>,
}

impl SubqueriesAsColumns {
    /// An expression with columns in the place of its scalar subqueries.
    fn replace(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| {
            if !matches!(expr, Expr::ScalarSubquery(_)) {
                return Ok(Transformed::no(expr));
            }
            let known = self.subqueries.iter().find(|(subquery, _)| *subquery == expr);
            let column = match known {
                Some((_, column)) => column.clone(),
                None => {
                    // Of this node alone: a projection above, or the aggregate itself, drops it.
                    let column = Column::from_name(format!("$subquery_{}", self.subqueries.len()));
                    self.subqueries.push((expr, column.clone()));
                    column
                }
            };
            Ok(Transformed::new(Expr::Column(column), true, TreeNodeRecursion::Jump))
        })
    }

    /// A plan with the values of the subqueries as further columns.
    fn project(self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let own = plan.schema().columns().into_iter().map(Expr::Column);
        let values = self.subqueries.into_iter().map(|(subquery, column)| subquery.alias(column.name));
        let exprs: Vec<Expr> = own.chain(values).collect();
        LogicalPlanBuilder::from(plan).project(exprs)?.build()
    }
}

/// The columns of a schema.
fn select(plan: LogicalPlan, schema: &Arc<DFSchema>) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
