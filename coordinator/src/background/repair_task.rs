//! The task that fetches what this node should hold and lacks: new segments, and files that were quarantined.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use plexus_model::{Result, Table, TableId};
use plexus_storage::SegmentRef;

use super::context::TaskContext;
use super::files::files_held_by;
use super::runner::BackgroundTask;
use crate::limits::{MAINTENANCE_INTERVAL, REPAIRS_MAX};

/// Fetches the segments that this node should hold and lacks.
pub(crate) struct RepairTask {
    context: TaskContext,
    complete: CompleteTables,
    /// How many missing segments were reported last.
    reported: usize,
}

impl RepairTask {
    /// A task that has not checked any table yet.
    pub(crate) fn new(context: TaskContext) -> Self {
        Self { context, complete: CompleteTables::default(), reported: 0 }
    }
}

#[async_trait]
impl BackgroundTask for RepairTask {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        let (manifest, complete) = (self.context.meta.manifest(), &mut self.complete);
        let Some(store) = &self.context.store else {
            self.context.missing.set(manifest.version, std::iter::empty());
            return Ok(());
        };
        if complete.lost_file_count != store.lost_file_count() {
            *complete = CompleteTables { lost_file_count: store.lost_file_count(), tables: HashMap::new() };
        }
        let mut missing: Vec<SegmentRef> = Vec::new();
        let mut tables = HashMap::new();
        for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
            if !complete.tables.get(&table.id).is_some_and(|checked| Arc::ptr_eq(checked, table)) {
                let count_before = missing.len();
                missing.extend(files_held_by(table, self.context.node).filter(|s| !store.contains(s.id)));
                if missing.len() > count_before {
                    continue;
                }
            }
            tables.insert(table.id, table.clone());
        }
        complete.tables = tables;
        self.context.missing.set(manifest.version, missing.iter().map(|s| s.id));
        if missing.is_empty() {
            self.reported = 0;
            return Ok(());
        }
        if self.reported != missing.len() {
            self.reported = missing.len();
            tracing::info!(segments = missing.len(), "fetching missing segments");
        }
        let (repairer, report) = (&self.context.repairer, &self.context.missing);
        let repairs = missing.into_iter().map(|segment| async move {
            let repaired = repairer.repair(store, &segment).await;
            if repaired.is_ok() {
                report.remove(segment.id);
            }
            repaired
        });
        let results: Vec<Result<()>> =
            futures::stream::iter(repairs).buffer_unordered(REPAIRS_MAX).collect().await;
        results.into_iter().collect()
    }
}

/// Tables of which this node holds all files that it should. Every change of a table creates a new [`Table`]
/// value, so a table with the same address needs no second check.
#[derive(Default)]
struct CompleteTables {
    tables: HashMap<TableId, Arc<Table>>,
    /// [`SegmentStore::lost_file_count`] when the tables were checked. When it has changed, a file of a
    /// checked table may be lost.
    lost_file_count: u64,
}
