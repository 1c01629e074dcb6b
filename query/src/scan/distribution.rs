//! Splits scans over the nodes that hold the data.
//!
//! Slot `i` of every stage runs on worker `i` of the [`WorkerSlots`] of the query, so all leaves of a stage
//! agree on the node of each slot. A segment goes to the least loaded slot whose worker holds a replica.

use std::sync::Arc;

use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedLeafExec, RouteTasksEvent,
    RouteTasksEventResponse, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse, WorkerResolver,
};
use plexus_model::NodeId;
use url::Url;

use crate::scan::files::segment_of;
use crate::scan::leaf::{memory_source, segment_scan, spread};

/// A node that runs tasks of distributed plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The node.
    pub node: NodeId,
    /// URL of its worker service.
    pub url: Url,
}

/// The workers of one query in the order of slots. The coordinating node is the first if it holds data.
#[derive(Clone, Debug)]
pub struct WorkerSlots {
    /// The workers, in the order of slots.
    pub workers: Vec<Worker>,
    /// Bytes of segments per task. A scan gets one more task for each of them.
    pub task_bytes: u64,
}

impl WorkerResolver for WorkerSlots {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.workers.iter().map(|w| w.url.clone()).collect())
    }
}

/// The number of tasks for a leaf.
pub(crate) fn desired_tasks(event: DesiredTaskCountEvent) -> Option<Result<DesiredTaskCountEventResponse>> {
    if memory_source(event.plan).is_some() {
        return Some(Ok(DesiredTaskCountEventResponse::desired(1)));
    }
    let (config, _) = segment_scan(event.plan)?;
    let worker_slots = event.session_config.get_extension::<WorkerSlots>()?;
    let bytes: u64 =
        config.file_groups.iter().flat_map(|g| g.files()).map(PartitionedFile::effective_size).sum();
    let tasks =
        bytes.div_ceil(worker_slots.task_bytes.max(1)).clamp(1, worker_slots.workers.len().max(1) as u64);
    Some(Ok(DesiredTaskCountEventResponse::desired(tasks as usize)))
}

/// Splits a leaf over the slots of its stage.
pub(crate) fn scale_up(event: ScaleUpLeafNodeEvent) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let segments = segment_scan(event.plan).is_some();
    if !segments && memory_source(event.plan).is_none() {
        return None;
    }
    if event.task_count <= 1 {
        return Some(Ok(ScaleUpLeafNodeEventResponse::new(event.plan.clone())));
    }
    let variants = if segments { split_segments(&event) } else { split_memory(&event) };
    Some(variants.and_then(|variants| {
        DistributedLeafExec::try_new(event.plan.clone(), variants)
            .map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf)))
    }))
}

/// The scan of each slot, each with a share of the segments.
fn split_segments(event: &ScaleUpLeafNodeEvent) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    let (Some((config, _)), Some(worker_slots)) =
        (segment_scan(event.plan), event.session_config.get_extension::<WorkerSlots>())
    else {
        return datafusion::common::internal_err!("a segment scan without worker slots");
    };
    let partitions = event.plan.output_partitioning().partition_count().max(1);
    let mut slots: Vec<Slot> = vec![Slot::default(); event.task_count];
    let mut files: Vec<&PartitionedFile> = config.file_groups.iter().flat_map(|g| g.files()).collect();
    files.sort_by_key(|f| std::cmp::Reverse(f.effective_size()));
    for file in files {
        let segment = segment_of(file)?;
        let holds =
            |slot: usize| worker_slots.workers.get(slot).is_some_and(|w| segment.replicas.contains(&w.node));
        // Prefer a worker with a replica, since another one would read the segment over the network.
        let slot = (0..slots.len()).min_by_key(|&slot| (!holds(slot), slots[slot].bytes)).unwrap_or_default();
        slots[slot].bytes += file.effective_size();
        slots[slot].files.push(file.clone());
    }
    Ok(slots
        .into_iter()
        .map(|slot| {
            let mut config = config.clone();
            config.file_groups = spread(slot.files, partitions);
            // The planner requires the same number of partitions in all slots.
            config.file_groups.resize_with(partitions, || FileGroup::new(vec![]));
            DataSourceExec::from_data_source(config) as Arc<dyn ExecutionPlan>
        })
        .collect())
}

/// The files of one slot.
#[derive(Clone, Default)]
struct Slot {
    bytes: u64,
    files: Vec<PartitionedFile>,
}

/// Rows in memory are few: inline segments, literal values and system tables. The first slot reads them all.
fn split_memory(event: &ScaleUpLeafNodeEvent) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    let Some(source) = memory_source(event.plan) else {
        return datafusion::common::internal_err!("the leaf is not in memory");
    };
    let partitions = event.plan.output_partitioning().partition_count();
    let schema = source.original_schema();
    let empty = MemorySourceConfig::try_new(&vec![vec![]; partitions], schema, source.projection().clone())?;
    let mut variants: Vec<Arc<dyn ExecutionPlan>> = vec![event.plan.clone()];
    variants.resize_with(event.task_count, || DataSourceExec::from_data_source(empty.clone()));
    Ok(variants)
}

/// The worker of each slot of a stage.
pub(crate) fn route(event: RouteTasksEvent) -> Option<Result<RouteTasksEventResponse>> {
    let worker_slots = event.task_ctx.session_config().get_extension::<WorkerSlots>()?;
    let workers = worker_slots.of_stage(event.plan, event.task_count)?;
    let urls = workers.into_iter().map(|worker| worker.url.clone());
    Some(Ok(RouteTasksEventResponse::new(urls.collect())))
}

impl WorkerSlots {
    /// The worker of each task of a stage; `None` for a single task that reads no segments, which runs beside
    /// the coordinator.
    pub(crate) fn of_stage(&self, plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> Option<Vec<&Worker>> {
        if self.workers.is_empty() || (tasks == 1 && !reads(plan)) {
            return None;
        }
        Some((0..tasks).map(|slot| &self.workers[slot % self.workers.len()]).collect())
    }
}

/// Whether a stage has a leaf that was split over slots.
fn reads(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<DistributedLeafExec>() || plan.children().into_iter().any(reads)
}
