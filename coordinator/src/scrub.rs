//! Reading again what was written: disks lose bits without a word, and a copy that is found to be damaged while
//! others are whole costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plexus_model::{NodeId, SegmentId};
use plexus_raft::Meta;
use plexus_storage::{Condition, SegmentRef, SegmentStore};
use tokio::time::sleep;

use crate::limits::{MAINTENANCE_INTERVAL, SCRUB_BYTES_PER_SECOND, SCRUB_INTERVAL};
use crate::maintenance::kept_by;

/// Checks the files that a node keeps in the order of their ids, and begins again when it is through. What is
/// damaged is set aside, and pulled from another replica.
pub async fn run(node: NodeId, meta: &Meta, store: &Arc<SegmentStore>) {
    let mut begun = Instant::now();
    let mut last = None;
    loop {
        let Some(file) = next_file(node, meta, store, last) else {
            let idle = if last.is_none() { MAINTENANCE_INTERVAL } else { SCRUB_INTERVAL };
            sleep(idle.saturating_sub(begun.elapsed())).await;
            (begun, last) = (Instant::now(), None);
            continue;
        };
        last = Some(file.id);
        let bytes = file.data.bytes;
        let store = store.clone();
        let check = move || store.check(file.id, file.data.bytes, &file.data.checksum);
        match tokio::task::spawn_blocking(check).await {
            Ok(Ok(Condition::Whole)) => {}
            Ok(Ok(condition)) => tracing::warn!(segment = ?last, ?condition, "scrubbing found a bad copy"),
            Ok(Err(error)) => tracing::warn!(segment = ?last, %error, "a copy could not be checked"),
            Err(error) => tracing::warn!(%error, "scrubbing broke off"),
        }
        sleep(Duration::from_secs_f64(bytes as f64 / SCRUB_BYTES_PER_SECOND as f64)).await;
    }
}

/// The file after `last`, of those that are here and should be.
fn next_file(node: NodeId, meta: &Meta, store: &SegmentStore, last: Option<SegmentId>) -> Option<SegmentRef> {
    let manifest = meta.manifest();
    let files = manifest.tables.values().flat_map(|table| kept_by(table, node));
    let rest = files.filter(|f| last.is_none_or(|last| f.id > last) && store.contains(f.id));
    rest.min_by_key(|f| f.id)
}
