//! An aggregate in a subquery whose arguments are columns of the query around it alone is one of that query,
//! by the SQL standard: `(SELECT sum(o.a) FROM i)` sums the rows of `o`. DataFusion computes it over the rows
//! of the subquery. Such calls are refused.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    outer_call(node).is_some()
}

/// The rule; runs before subqueries become joins.
pub(crate) fn rewrite(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match outer_call(&node) {
        Some(call) => plan_err!(
            "{call} in a subquery has columns of the query around it alone, and is an aggregate of that \
             query: compute it there"
        ),
        None => Ok(Transformed::no(node)),
    }
}

/// An aggregate call of a node whose arguments are columns of the query around it alone.
fn outer_call(node: &LogicalPlan) -> Option<&Expr> {
    let LogicalPlan::Aggregate(aggregate) = node else {
        return None;
    };
    aggregate.aggr_expr.iter().find(|call| is_outer(call))
}

fn is_outer(call: &Expr) -> bool {
    let (mut outer, mut inner) = (false, false);
    let visited = call.apply(|expr| {
        outer |= matches!(expr, Expr::OuterReferenceColumn(..));
        inner |= matches!(expr, Expr::Column(_));
        Ok(TreeNodeRecursion::Continue)
    });
    visited.is_ok() && outer && !inner
}
