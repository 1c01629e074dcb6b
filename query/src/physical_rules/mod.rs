//! Rules for physical plans: what DataFusion plans wrongly, or does not know of plans that run on several
//! nodes.

use std::sync::Arc;

use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

mod ordered_limits;
mod two_partitions;
mod window_keys;

/// The rules of a session: ours around those of DataFusion.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(two_partitions::TwoPartitions)];
    rules.extend(PhysicalOptimizer::new().rules);
    rules.push(Arc::new(ordered_limits::OrderedLimits));
    rules.push(Arc::new(window_keys::WindowKeys));
    rules
}
