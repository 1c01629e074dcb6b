//! Rows are not dealt out to more partitions where all of them are merged: at the root of a plan, and below
//! operators that merge.
//!
//! It is of no use there, and wrong in plans for several nodes: datafusion-distributed 4.0.0 counts the
//! partitions of such an exchange, and then takes it out of the stage below the one that merges. The stage is
//! asked for partitions that it does not have.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::replace_children_if_necessary;

use super::Plan;

/// The rule; runs after DataFusion planned exchanges.
#[derive(Debug)]
pub(super) struct MergedExchanges;

impl PhysicalOptimizerRule for MergedExchanges {
    fn name(&self) -> &str {
        "merged_exchanges"
    }

    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let below_merges = plan.transform_down(|node| {
            if !node.is::<CoalescePartitionsExec>() && !node.is::<AnalyzeExec>() {
                return Ok(Transformed::no(node));
            }
            let inputs: Vec<Plan> = node.children().into_iter().cloned().map(not_dealt_out).collect();
            replace_children_if_necessary(node, inputs).map(Transformed::yes)
        });
        below_merges.data().map(not_dealt_out)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What is below exchanges that deal rows out in turn.
fn not_dealt_out(mut plan: Plan) -> Plan {
    while let Some(exchange) = plan.downcast_ref::<RepartitionExec>()
        && matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_))
    {
        plan = exchange.input().clone();
    }
    plan
}
