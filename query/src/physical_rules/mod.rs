//! Rules for physical plans: what DataFusion plans wrongly, or does not know of plans that run on several
//! nodes.

use std::sync::Arc;

use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::interrupts::Interrupts;

mod interruptible_joins;
mod merge_join_projections;
mod merged_exchanges;
mod ordered_limits;
mod required_orders;
mod two_partitions;
mod window_keys;

type Plan = Arc<dyn ExecutionPlan>;

/// The rules of a session: ours around those of DataFusion.
pub(crate) fn physical_rules(
    interrupts: &Arc<Interrupts>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(two_partitions::TwoPartitions)];
    let theirs = PhysicalOptimizer::new().rules.into_iter();
    rules.extend(theirs.filter(|rule| rule.name() != required_orders::REPLACED).map(|rule| {
        match rule.name() == merge_join_projections::REPLACED {
            true => Arc::new(merge_join_projections::ProjectionsAboveMergeJoins(rule)),
            false => rule,
        }
    }));
    rules.push(Arc::new(ordered_limits::OrderedLimits));
    rules.push(Arc::new(window_keys::WindowKeys));
    rules.push(Arc::new(required_orders::RequiredOrders));
    rules.push(Arc::new(merged_exchanges::MergedExchanges));
    rules.push(Arc::new(interruptible_joins::InterruptibleJoins::new(interrupts.clone())));
    rules
}

/// The plan with each of its partitions sorted.
fn sorted(plan: Plan, keys: impl IntoIterator<Item = PhysicalSortExpr>) -> Plan {
    match LexOrdering::new(keys) {
        Some(ordering) => Arc::new(SortExec::new(ordering, plan).with_preserve_partitioning(true)),
        None => plan,
    }
}
