//! Assembles the background work of a node.
//!
//! A run of a task works on a pinned manifest. It may be interrupted at any point: the next run finds
//! unfinished work again.

use tokio_util::sync::CancellationToken;

use super::compaction::CompactionTask;
use super::context::TaskContext;
use super::flush::FlushTask;
use super::garbage::GarbageTask;
use super::index_build::IndexBuildTask;
use super::liveness::{HeartbeatTask, LivenessTask, VotersTask};
use super::repair_task::RepairTask;
use super::retention::RetentionTask;
use super::runner::{Runner, TaskMetrics};
use super::scrub::ScrubTask;

/// The background work of one node.
pub struct Maintenance {
    /// The components that the tasks work with.
    pub context: TaskContext,
    /// Counts the runs of the tasks.
    pub metrics: TaskMetrics,
}

impl Maintenance {
    /// Runs the tasks that keep this node in the cluster until `stop` is canceled. They must not wait for
    /// anything that computes.
    pub fn run_membership(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let context = &self.context;
        let mut runner = Runner::new(self.metrics.clone());
        runner.add(HeartbeatTask(context.clone()));
        runner.add(VotersTask(context.clone()));
        runner.add(LivenessTask::new(context.clone()));
        runner.run(stop)
    }

    /// Runs all other tasks until `stop` is canceled.
    pub async fn run(self, stop: CancellationToken) {
        let Self { context, metrics } = self;
        let mut runner = Runner::new(metrics);
        runner.add(RetentionTask(context.clone()));
        runner.add(RepairTask::new(context.clone()));
        runner.add(FlushTask(context.clone()));
        runner.add(CompactionTask(context.clone()));
        runner.add(IndexBuildTask::new(context.clone()));
        runner.add(GarbageTask::new(context.clone()));
        runner.add(ScrubTask::new(context));
        runner.run(stop).await;
    }
}
