//! Keeps projections above sort-merge joins. The engine pushes them below, and the condition of the join then
//! reads the columns that stood in the places of its own (apache/datafusion#24414).

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNode;
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::SortMergeJoinExec;

use crate::physical_rules::Plan;

/// The rule of the engine that pushes projections down.
pub(super) const REPLACED: &str = "ProjectionPushdown";

/// The rule, for plans without such joins.
#[derive(Debug)]
pub(super) struct ProjectionsAboveMergeJoins(pub(super) Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for ProjectionsAboveMergeJoins {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }

    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        match plan.exists(|node| Ok(node.is::<SortMergeJoinExec>()))? {
            true => Ok(plan),
            false => self.0.optimize(plan, config),
        }
    }
}
