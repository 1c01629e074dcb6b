//! Long conditions as balanced trees.
//!
//! DataFusion takes conditions apart to push them down, and puts what stays together as a chain. Whatever
//! asks for the type of each part of a chain walks the rest of it each time, and as deep as the chain is
//! long.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Shorter chains stay as they are.
const CHAIN_MIN: usize = 64;

/// The rule; runs after the rules that make chains.
#[derive(Debug)]
pub(super) struct BalancedConditions;

impl OptimizerRule for BalancedConditions {
    fn name(&self) -> &str {
        "balanced_conditions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, mut plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let condition = match &mut plan {
            LogicalPlan::Filter(filter) => Some(&mut filter.predicate),
            LogicalPlan::Join(join) => join.filter.as_mut(),
            _ => None,
        };
        let Some(condition) = condition.filter(|condition| is_chain(condition)) else {
            return Ok(Transformed::no(plan));
        };
        let parts = split_conjunction_owned(std::mem::take(condition));
        let count = parts.len();
        *condition = balanced(&mut parts.into_iter(), count);
        Ok(Transformed::yes(plan))
    }
}

/// Whether a condition begins with a long chain of `AND`.
fn is_chain(mut condition: &Expr) -> bool {
    let mut length = 1;
    while let Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, .. }) = condition {
        length += 1;
        condition = left;
    }
    length >= CHAIN_MIN
}

/// A tree of the next `count` parts, in their order.
fn balanced(parts: &mut impl Iterator<Item = Expr>, count: usize) -> Expr {
    if count <= 1 {
        return parts.next().unwrap_or_default();
    }
    let left = balanced(parts, count / 2);
    left.and(balanced(parts, count - count / 2))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::utils::{conjunction, split_conjunction};
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};
    use datafusion::optimizer::OptimizerContext;

    use super::*;

    #[test]
    fn chains_become_flat_and_keep_their_order() {
        let parts: Vec<Expr> = (0..1_000).map(|n| lit(n).not_eq(lit(n + 1))).collect();
        let chain = conjunction(parts.clone()).unwrap();
        let plan = LogicalPlanBuilder::empty(true).filter(chain).unwrap().build().unwrap();
        let rewritten = BalancedConditions.rewrite(plan, &OptimizerContext::new()).unwrap();
        assert!(rewritten.transformed);
        let LogicalPlan::Filter(filter) = &rewritten.data else { panic!("{}", rewritten.data) };
        assert!(!is_chain(&filter.predicate));
        assert_eq!(split_conjunction(&filter.predicate), parts.iter().collect::<Vec<_>>());
        assert!(!BalancedConditions.rewrite(rewritten.data, &OptimizerContext::new()).unwrap().transformed);
        assert!(!is_chain(&col("a").and(col("b"))));
    }
}
