//! Reading again what was written: disks lose bits without a word, and a copy that is found to be damaged while
//! others are whole costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plexus_model::NodeId;
use plexus_raft::Meta;
use plexus_storage::{SegmentCondition, SegmentRef, SegmentStore};
use tokio::time::sleep;

use crate::limits::{MAINTENANCE_INTERVAL, SCRUB_BYTES_PER_SECOND, SCRUB_INTERVAL};
use crate::maintenance::kept_by;

/// Checks the files that a node keeps, and when it is through begins again. What is damaged is set aside, and
/// pulled from another replica.
pub async fn run(node: NodeId, meta: &Meta, store: &Arc<SegmentStore>) {
    loop {
        let begun = Instant::now();
        let manifest = meta.manifest();
        let files: Vec<SegmentRef> =
            manifest.tables.values().flat_map(|table| kept_by(table, node)).collect();
        drop(manifest);
        let pause = if files.is_empty() { MAINTENANCE_INTERVAL } else { SCRUB_INTERVAL };
        for file in files {
            // What was vacuumed meanwhile is gone.
            if store.contains(file.id) {
                check(store, &file).await;
                sleep(Duration::from_secs_f64(file.data.bytes as f64 / SCRUB_BYTES_PER_SECOND as f64)).await;
            }
        }
        sleep(pause.saturating_sub(begun.elapsed())).await;
    }
}

async fn check(store: &Arc<SegmentStore>, file: &SegmentRef) {
    let (id, data, store) = (file.id, file.data, store.clone());
    let read = move || store.check(id, data.bytes, &data.checksum);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(SegmentCondition::Intact)) => {}
        Ok(Ok(condition)) => tracing::warn!(segment = %id, ?condition, "scrubbing found a bad copy"),
        Ok(Err(error)) => tracing::warn!(segment = %id, %error, "a copy could not be checked"),
        Err(error) => tracing::warn!(segment = %id, %error, "scrubbing broke off"),
    }
}
