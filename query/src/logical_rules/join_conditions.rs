//! Joins whose condition is never true, such as `l.a = r.a AND l.b > NULL`, of which the optimizer makes
//! `l.a = r.a AND NULL`. A sort-merge join that is outer on both sides does not look at a
//! filter without columns (after apache/datafusion#21660).

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Join, LogicalPlan, lit};

/// The plan with false in place of each condition that has a null in a conjunction: neither joins rows. There
/// are no equal keys either, which would make it a merge join.
///
/// # Errors
/// Never in practice: the plan can be visited.
pub(super) fn without_nulls(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_never_true(&join) => {
            Ok(Transformed::yes(LogicalPlan::Join(Join { on: vec![], filter: Some(lit(false)), ..join })))
        }
        node => Ok(Transformed::no(node)),
    })
    .data()
}

fn is_never_true(join: &Join) -> bool {
    let mut conjuncts = join.filter.iter().flat_map(split_conjunction);
    conjuncts.any(|conjunct| conjunct.as_literal().is_some_and(|value| value.is_null()))
}
