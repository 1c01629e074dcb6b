//! Scrubbing: what was written is read again, since disks lose bits without a word, and a damaged copy that is found
//! while others are intact costs nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::Result;
use plexus_storage::{SegmentCondition, SegmentRef, SegmentStore};
use tokio::time::sleep;

use super::context::TaskContext;
use super::files::kept_by;
use super::runner::BackgroundTask;
use crate::limits::{MAINTENANCE_INTERVAL, SCRUB_BYTES_PER_SECOND, SCRUB_INTERVAL};

/// Verifies one file per run at a bounded rate. A damaged file is quarantined, and repaired from another replica.
pub struct ScrubTask {
    context: TaskContext,
    /// Files that are left of this pass.
    pending: VecDeque<SegmentRef>,
    pass_started: Option<Instant>,
}

impl ScrubTask {
    /// A task that begins its first pass at once.
    pub fn new(context: TaskContext) -> Self {
        Self { context, pending: VecDeque::new(), pass_started: None }
    }

    /// The next file to verify; begins a pass when the last one is done and [`SCRUB_INTERVAL`] has passed.
    fn next(&mut self) -> Option<SegmentRef> {
        let due = self.pass_started.is_none_or(|started| started.elapsed() >= SCRUB_INTERVAL);
        if self.pending.is_empty() && due {
            let manifest = self.context.meta.manifest();
            self.pending =
                manifest.tables.values().flat_map(|table| kept_by(table, self.context.node)).collect();
            // A node that holds nothing yet should not wait a day for its first file.
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
            // Vacuumed files are gone.
            if store.contains(file.id) {
                verify(&store, &file).await;
                let seconds = file.data.bytes as f64 / SCRUB_BYTES_PER_SECOND as f64;
                sleep(Duration::from_secs_f64(seconds)).await;
            }
        }
        Ok(())
    }
}

async fn verify(store: &Arc<SegmentStore>, file: &SegmentRef) {
    let (id, data, store) = (file.id, file.data, store.clone());
    let read = move || store.check(id, data.bytes, &data.checksum);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(SegmentCondition::Intact)) => {}
        Ok(Ok(condition)) => tracing::warn!(segment = %id, ?condition, "scrubbing found a bad copy"),
        Ok(Err(error)) => tracing::warn!(segment = %id, %error, "a copy could not be verified"),
        Err(error) => tracing::warn!(segment = %id, %error, "scrubbing was interrupted"),
    }
}
