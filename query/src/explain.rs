//! `EXPLAIN`: the plan with its stages, the node of every task, and the segments that it reads.

use std::fmt::Write;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion_distributed::{NetworkBoundaryExt, display_plan_ascii};

use crate::distribute::Placement;

/// Plans `plan` as it would run and describes it.
pub async fn explain(state: &SessionState, plan: &LogicalPlan) -> Result<String> {
    let physical = state.create_physical_plan(plan).await?;
    let mut text = display_plan_ascii(physical.as_ref(), false);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let placement = state.config().get_extension::<Placement>();
    let workers = placement.as_deref().map(|p| p.workers.as_slice()).unwrap_or_default();
    physical.apply(|node| {
        if let Some(boundary) = node.as_network_boundary() {
            let stage = boundary.input_stage();
            for task in 0..stage.task_count() {
                // The same rule as `distribute::route`.
                if let Some(worker) = workers.get(task % workers.len().max(1)) {
                    let _ = writeln!(
                        text,
                        "stage {} task {task}: node {} at {}",
                        stage.num(),
                        worker.node,
                        worker.url
                    );
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(text)
}
