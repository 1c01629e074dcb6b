//! `EXPLAIN`: the stages of a plan, the node of every task, the segments that each reads, and how its
//! searches ran.

use std::fmt::Write;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion_distributed::{NetworkBoundaryExt, display_plan_ascii};

use crate::logical_rules::physical_plan;
use crate::scan::distribution::WorkerSlots;
use crate::search::{SearchReport, without_carried};

/// Plans a query as it would run and describes the plan. Searches run during planning, so they are described
/// with their results.
///
/// # Errors
/// What planning fails with.
pub async fn explain(state: &SessionState, plan: &LogicalPlan) -> Result<String> {
    let physical = physical_plan(state, plan).await?;
    let mut text = without_carried(&display_plan_ascii(physical.as_ref(), false));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for line in state.config().get_extension::<SearchReport>().map(|r| r.take()).unwrap_or_default() {
        let _ = writeln!(text, "{line}");
    }
    let worker_slots = state.config().get_extension::<WorkerSlots>();
    physical.apply(|node| {
        if let Some(boundary) = node.as_network_boundary() {
            let stage = boundary.input_stage();
            let workers = worker_slots
                .as_deref()
                .zip(stage.local_plan())
                .and_then(|(worker_slots, plan)| worker_slots.of_stage(plan, stage.task_count()));
            match workers {
                Some(workers) => {
                    for (task, worker) in workers.into_iter().enumerate() {
                        let (stage, node, url) = (stage.num(), worker.node, &worker.url);
                        let _ = writeln!(text, "stage {stage} task {task}: node {node} at {url}");
                    }
                }
                None => {
                    let _ = writeln!(text, "stage {} task 0: beside the coordinator", stage.num());
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(text)
}
