//! What the loads of a node may take, where a load is a write that is too large for the log. They share
//! memory: the more there are, the earlier each encodes what it has buffered.

use std::sync::Arc;

use plexus_model::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{
    LOAD_BUFFER_BYTES_MAX, LOAD_BUFFER_BYTES_MIN, LOAD_WAIT_MAX, LOADS_BYTES_MAX, LOADS_MAX,
    SEGMENT_BYTES_TARGET, UPLOADS_MAX,
};

/// The loads of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct LoadSlots {
    /// One permit for each load.
    loads: Arc<Semaphore>,
    /// One permit for each segment that is encoded or sent.
    uploads: Arc<Semaphore>,
    /// What all may buffer.
    bytes: usize,
}

impl LoadSlots {
    /// Loads of a node whose queries have `memory_bytes` together. Loads buffer about half as much at most.
    pub fn new(memory_bytes: usize) -> Self {
        // Beside its rows, an upload takes what the encoder makes of them.
        let uploads = memory_bytes / (4 * SEGMENT_BYTES_TARGET);
        Self {
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            uploads: Arc::new(Semaphore::new(uploads.clamp(1, 8 * UPLOADS_MAX))),
            bytes: (memory_bytes / 2).min(LOADS_BYTES_MAX),
        }
    }

    /// Waits until fewer than [`LOADS_MAX`] loads are in progress.
    ///
    /// # Errors
    /// `ResourceExhausted` when that takes longer than [`LOAD_WAIT_MAX`].
    pub(crate) async fn load(&self) -> Result<OwnedSemaphorePermit> {
        let permit = timeout(LOAD_WAIT_MAX, self.loads.clone().acquire_owned()).await.map_err(|_| {
            Error::exhausted(format!(
                "{LOADS_MAX} loads are in progress on this node, and none has ended in {LOAD_WAIT_MAX:?}"
            ))
        })?;
        permit.map_err(|_| Error::unavailable("the node is stopping"))
    }

    /// Waits until one more segment may be encoded and sent.
    pub(crate) async fn upload(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.uploads.clone().acquire_owned().await;
        permit.map_err(|_| Error::unavailable("the node is stopping"))
    }

    /// Bytes that each load may buffer now.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let loads = LOADS_MAX - self.loads.available_permits();
        (self.bytes / loads.max(1)).clamp(LOAD_BUFFER_BYTES_MIN, LOAD_BUFFER_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loads_share_what_there_is() {
        let slots = LoadSlots::new(256 * 1024 * 1024);
        assert_eq!(slots.buffer_bytes(), 128 * 1024 * 1024);
        let first = slots.load().await.unwrap();
        assert_eq!(slots.buffer_bytes(), 128 * 1024 * 1024);
        let second = slots.load().await.unwrap();
        assert_eq!(slots.buffer_bytes(), 64 * 1024 * 1024);
        let mut more = vec![];
        for _ in 2..LOADS_MAX {
            more.push(slots.load().await.unwrap());
        }
        assert_eq!(slots.buffer_bytes(), LOAD_BUFFER_BYTES_MIN);
        drop((first, second, more));
        assert_eq!(slots.buffer_bytes(), 128 * 1024 * 1024);
        assert_eq!(LoadSlots::new(usize::MAX).buffer_bytes(), LOAD_BUFFER_BYTES_MAX);
    }
}
