//! The background work of a node, assembled.
//!
//! Each task works on one pinned manifest per run. All of it may be interrupted at any point: what is half done is found
//! again by the next run.

use tokio_util::sync::CancellationToken;

use super::compaction::CompactionTask;
use super::context::TaskContext;
use super::flush::FlushTask;
use super::garbage::GarbageTask;
use super::index_build::IndexBuildTask;
use super::liveness::{Heartbeat, Liveness, Voters};
use super::repair::RepairTask;
use super::retention::Retention;
use super::runner::{Runner, TaskMetrics};
use super::scrub::ScrubTask;

/// The background work of one node.
pub struct Maintenance {
    /// What the tasks work with.
    pub context: TaskContext,
    /// Where runs are counted.
    pub metrics: TaskMetrics,
}

impl Maintenance {
    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let Self { context, metrics } = self;
        let mut runner = Runner::new(metrics);
        runner.add(Heartbeat(context.clone()));
        runner.add(Voters(context.clone()));
        runner.add(Liveness::new(context.clone()));
        runner.add(Retention(context.clone()));
        runner.add(RepairTask::new(context.clone()));
        runner.add(FlushTask(context.clone()));
        runner.add(CompactionTask(context.clone()));
        runner.add(IndexBuildTask::new(context.clone()));
        runner.add(GarbageTask::new(context.clone()));
        runner.add(ScrubTask::new(context));
        runner.run(stop).await;
    }
}
