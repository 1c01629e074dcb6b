//! Scrubbing: reads the local files again and verifies their checksums. Disks lose bits silently, and a
//! damaged replica is harmless only as long as another one is intact.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::Result;
use plexus_storage::{ReferenceSource, SegmentCondition, SegmentRef, SegmentStore};
use tokio::time::sleep;

use super::context::TaskContext;
use super::files::files_held_by;
use super::runner::BackgroundTask;
use crate::limits::{MAINTENANCE_INTERVAL, SCRUB_BYTES_PER_SECOND, SCRUB_INTERVAL};

/// Verifies the files of this node at a bounded rate. The store quarantines a damaged file, and
/// [`RepairTask`](super::repair::RepairTask) fetches it from another replica.
pub(crate) struct ScrubTask {
    context: TaskContext,
    /// Remaining files of the current pass.
    pending: VecDeque<SegmentRef>,
    /// When the current or last pass started.
    pass_started: Option<Instant>,
}

impl ScrubTask {
    /// A task that starts its first pass immediately.
    pub(crate) fn new(context: TaskContext) -> Self {
        Self { context, pending: VecDeque::new(), pass_started: None }
    }

    /// The next file to verify. Starts a pass when the previous one is finished and began at least
    /// [`SCRUB_INTERVAL`] ago.
    fn next(&mut self) -> Option<SegmentRef> {
        let due = self.pass_started.is_none_or(|started| started.elapsed() >= SCRUB_INTERVAL);
        if self.pending.is_empty() && due {
            let manifest = self.context.meta.manifest();
            self.pending =
                manifest.tables.values().flat_map(|table| files_held_by(table, self.context.node)).collect();
            // A node without files does not start a pass: its first file should not wait a day.
            self.pass_started = (!self.pending.is_empty()).then(Instant::now);
        }
        self.pending.pop_front()
    }
}

#[async_trait]
impl BackgroundTask for ScrubTask {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        let Some(store) = self.context.store.clone() else {
            return Ok(());
        };
        while let Some(file) = self.next() {
            // The file may have been vacuumed during the pass.
            if store.contains(file.id) {
                verify(&store, &file).await;
                let seconds = file.data.bytes as f64 / SCRUB_BYTES_PER_SECOND as f64;
                sleep(Duration::from_secs_f64(seconds)).await;
            }
        }
        Ok(())
    }
}

/// Verifies one file and logs when it is not intact.
async fn verify(store: &Arc<SegmentStore>, file: &SegmentRef) {
    let (id, data, store) = (file.id, file.data, store.clone());
    let read = move || store.check(id, data.bytes, &data.checksum, ReferenceSource::Manifest);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(SegmentCondition::Intact)) => {}
        Ok(Ok(condition)) => {
            tracing::warn!(segment = %id, ?condition, "scrubbing found a damaged or missing replica");
        }
        Ok(Err(error)) => tracing::warn!(segment = %id, %error, "a replica could not be verified"),
        Err(error) => tracing::warn!(segment = %id, %error, "scrubbing was interrupted"),
    }
}
