//! Repair: fetches segments that this node should hold and lacks from the nodes that have them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use plexus_model::{Error, NodeId, Result, SegmentId};
use plexus_storage::{RemoteSegments, SegmentRef, SegmentStore};

use crate::limits::{PARTIAL_REPAIRS_MAX, REPAIR_CHUNK_BYTES};

/// Fetches segments chunk by chunk. When a transfer fails, the chunks that arrived are kept, and the next
/// replica or the next attempt resumes after them.
pub struct Repairer {
    node: NodeId,
    remote: Arc<dyn RemoteSegments>,
    /// The bytes so far of segments whose transfer failed.
    partial: Mutex<HashMap<SegmentId, Vec<u8>>>,
}

impl Repairer {
    /// A repairer for `node`, which fetches from other nodes through `remote`.
    pub fn new(node: NodeId, remote: Arc<dyn RemoteSegments>) -> Self {
        Self { node, remote, partial: Mutex::default() }
    }

    /// Fetches a segment and makes it durable in `store`, which verifies the checksum.
    ///
    /// # Errors
    /// `Unavailable` when no replica could send the rest of the segment. `Corrupt` when the bytes do not
    /// match the checksum; they are discarded, and the next attempt starts over.
    pub(crate) async fn repair(&self, store: &Arc<SegmentStore>, segment: &SegmentRef) -> Result<()> {
        let mut bytes = self.lock_partial().remove(&segment.id).unwrap_or_default();
        if let Err(error) = self.fetch(segment, &mut bytes).await {
            let mut partial = self.lock_partial();
            // Bounds the memory of failed transfers. Transfers above the bound start over.
            if partial.len() < PARTIAL_REPAIRS_MAX {
                partial.insert(segment.id, bytes);
            }
            return Err(error);
        }
        let (store, segment) = (store.clone(), segment.clone());
        tokio::task::spawn_blocking(move || store.put(segment.id, &bytes, &segment.data.checksum))
            .await
            .map_err(|e| Error::internal(format!("storing a repaired segment: {e}")))?
    }

    /// Appends to `bytes` until they are the whole segment.
    async fn fetch(&self, segment: &SegmentRef, bytes: &mut Vec<u8>) -> Result<()> {
        let mut last_error = Error::unavailable(format!("segment {} has no other replica", segment.id));
        for node in self.remote.order(segment).into_iter().filter(|n| *n != self.node) {
            while (bytes.len() as u64) < segment.data.bytes {
                let length = (segment.data.bytes as usize - bytes.len()).min(REPAIR_CHUNK_BYTES);
                match self.remote.read(node, segment, bytes.len() as u64, length).await {
                    Ok(chunk) if !chunk.is_empty() => bytes.extend_from_slice(&chunk),
                    Ok(_) => break,
                    Err(e) => {
                        last_error = e;
                        break;
                    }
                }
            }
            if bytes.len() as u64 >= segment.data.bytes {
                return Ok(());
            }
        }
        Err(last_error)
    }

    fn lock_partial(&self) -> MutexGuard<'_, HashMap<SegmentId, Vec<u8>>> {
        self.partial.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use plexus_model::FileData;

    use super::*;

    /// Replicas that fail after a number of chunks.
    struct FlakyReplicas {
        bytes: Vec<u8>,
        /// How many more chunks each node serves.
        chunks_left: Mutex<HashMap<NodeId, usize>>,
        /// Offsets of the chunks served, in order.
        offsets: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl RemoteSegments for FlakyReplicas {
        async fn read(&self, node: NodeId, _: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
            let mut left = self.chunks_left.lock().unwrap();
            let left = left.entry(node).or_default();
            if *left == 0 {
                return Err(Error::unavailable(format!("node {node} is gone")));
            }
            *left -= 1;
            self.offsets.lock().unwrap().push(offset);
            Ok(Bytes::copy_from_slice(&self.bytes[offset as usize..offset as usize + length]))
        }

        fn order(&self, segment: &SegmentRef) -> Vec<NodeId> {
            segment.replicas.clone()
        }
    }

    fn file(bytes: u64, checksum: [u8; 32]) -> FileData {
        FileData { bytes, checksum, column_bytes: bytes }
    }

    #[tokio::test]
    async fn a_failed_transfer_resumes_after_the_last_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SegmentStore::open(dir.path()).unwrap());
        let bytes: Vec<u8> = (0..REPAIR_CHUNK_BYTES * 5 + 17).map(|i| (i % 251) as u8).collect();
        let segment = SegmentRef {
            id: SegmentId::generate(),
            data: file(bytes.len() as u64, *blake3::hash(&bytes).as_bytes()),
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        };
        let chunks_left = Mutex::new(HashMap::from([(NodeId(1), 9), (NodeId(2), 2), (NodeId(3), 1)]));
        let remote = Arc::new(FlakyReplicas { bytes, chunks_left, offsets: Mutex::default() });
        // Node 1 is the local node. Nodes 2 and 3 serve three of the six chunks, then fail.
        let repairer = Repairer::new(NodeId(1), remote.clone());
        assert!(repairer.repair(&store, &segment).await.unwrap_err().message().contains("node 3 is gone"));
        assert!(!store.contains(segment.id));
        remote.chunks_left.lock().unwrap().insert(NodeId(2), 3);
        repairer.repair(&store, &segment).await.unwrap();
        assert!(store.contains(segment.id));
        let chunks: Vec<u64> =
            remote.offsets.lock().unwrap().iter().map(|o| o / REPAIR_CHUNK_BYTES as u64).collect();
        assert_eq!(chunks, [0, 1, 2, 3, 4, 5], "each chunk is fetched once");
    }

    #[tokio::test]
    async fn bytes_with_a_wrong_checksum_are_discarded_and_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SegmentStore::open(dir.path()).unwrap());
        let segment =
            SegmentRef { id: SegmentId::generate(), data: file(10, [0; 32]), replicas: vec![NodeId(2)] };
        let chunks_left = Mutex::new(HashMap::from([(NodeId(2), 9)]));
        let remote = Arc::new(FlakyReplicas { bytes: vec![1; 10], chunks_left, offsets: Mutex::default() });
        let repairer = Repairer::new(NodeId(1), remote.clone());
        for attempts in 1..3 {
            let error = repairer.repair(&store, &segment).await.unwrap_err();
            assert_eq!(error.kind(), plexus_model::ErrorKind::Corrupt);
            assert_eq!(remote.offsets.lock().unwrap().len(), attempts);
        }
    }
}
