//! Limits that DataFusion pushes into aggregates over ordered rows, which lose groups there. `SELECT DISTINCT
//! x ... ORDER BY x LIMIT 3` over sorted parts then misses rows. See apache/datafusion#24927.
//!
//! With a limit, an aggregate keeps the best groups in a heap and returns them in no order, although it
//! announces the order of its input. And the limit reaches the sort between the two steps of an aggregate,
//! where a group has a row from each partition. Over ordered rows the plain aggregate is as lazy.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode, replace_children_if_necessary};

/// The rule; runs after those of DataFusion.
#[derive(Debug)]
pub(super) struct OrderedLimits;

impl PhysicalOptimizerRule for OrderedLimits {
    fn name(&self) -> &str {
        "ordered_limits"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
                return Ok(Transformed::no(plan));
            };
            let is_ordered = *aggregate.input_order_mode() != InputOrderMode::Linear;
            if aggregate.limit_options().is_some() && is_ordered {
                return Ok(Transformed::yes(Arc::new(aggregate.with_new_limit_options(None)) as _));
            }
            if !matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::FinalPartitioned) {
                return Ok(Transformed::no(plan));
            }
            let between = without_limits(aggregate.input().clone())?;
            match between.transformed {
                true => replace_children_if_necessary(plan, vec![between.data]).map(Transformed::yes),
                false => Ok(Transformed::no(plan)),
            }
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The nodes between the two steps of an aggregate, without limits.
fn without_limits(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    plan.transform_down(|plan| {
        if plan.is::<AggregateExec>() {
            return Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump));
        }
        Ok(match plan.fetch().and_then(|_| plan.with_fetch(None)) {
            Some(unlimited) => Transformed::yes(unlimited),
            None => Transformed::no(plan),
        })
    })
}
