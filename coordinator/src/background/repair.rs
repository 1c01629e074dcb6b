//! Pulling a segment that this node should keep from the nodes that have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use plexus_model::{Error, NodeId, Result, SegmentId, Table, TableId};
use plexus_storage::{RemoteSegments, SegmentRef, SegmentStore};

use super::context::TaskContext;
use super::files::kept_by;
use super::runner::BackgroundTask;
use crate::limits::{MAINTENANCE_INTERVAL, REPAIR_CHUNK_BYTES, REPAIR_PARTS_MAX, REPAIRS_MAX};

/// Fetches segments chunk by chunk. What has come stays when a pull breaks off: the next replica, or the
/// next attempt, goes on from there.
pub struct Repairer {
    node: NodeId,
    remote: Arc<dyn RemoteSegments>,
    parts: Mutex<HashMap<SegmentId, Vec<u8>>>,
}

impl Repairer {
    pub fn new(node: NodeId, remote: Arc<dyn RemoteSegments>) -> Self {
        Self { node, remote, parts: Mutex::default() }
    }

    /// Makes a segment durable here. The whole is checked before it is kept.
    ///
    /// # Errors
    /// `Unavailable` when no replica gives all of it; `Corrupt` when what they gave does not have the
    /// checksum, after which it is fetched anew.
    pub async fn repair(&self, store: &Arc<SegmentStore>, segment: &SegmentRef) -> Result<()> {
        let mut bytes = self.parts().remove(&segment.id).unwrap_or_default();
        if let Err(error) = self.fetch(segment, &mut bytes).await {
            let mut parts = self.parts();
            // Too many broken pulls would hold too much memory: those beyond begin again.
            if parts.len() < REPAIR_PARTS_MAX {
                parts.insert(segment.id, bytes);
            }
            return Err(error);
        }
        let (store, segment) = (store.clone(), segment.clone());
        tokio::task::spawn_blocking(move || store.put(segment.id, &bytes, &segment.data.checksum))
            .await
            .map_err(|e| Error::internal(format!("storing a pulled segment: {e}")))?
    }

    /// Appends to `bytes` until they are the whole segment.
    async fn fetch(&self, segment: &SegmentRef, bytes: &mut Vec<u8>) -> Result<()> {
        let mut last = Error::unavailable(format!("segment {} has no other replica", segment.id));
        for node in self.remote.order(segment).into_iter().filter(|n| *n != self.node) {
            while (bytes.len() as u64) < segment.data.bytes {
                let rest = (segment.data.bytes as usize - bytes.len()).min(REPAIR_CHUNK_BYTES);
                match self.remote.read(node, segment, bytes.len() as u64, rest).await {
                    Ok(chunk) if !chunk.is_empty() => bytes.extend_from_slice(&chunk),
                    Ok(_) => break,
                    Err(e) => {
                        last = e;
                        break;
                    }
                }
            }
            if bytes.len() as u64 >= segment.data.bytes {
                return Ok(());
            }
        }
        Err(last)
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<SegmentId, Vec<u8>>> {
        self.parts.lock().expect("no code panics while it holds this lock")
    }
}

/// Fetches the segments that this node should hold and lacks.
pub struct RepairTask {
    context: TaskContext,
    complete: CompleteTables,
}

impl RepairTask {
    /// A task that has seen no table yet.
    pub fn new(context: TaskContext) -> Self {
        Self { context, complete: CompleteTables::default() }
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
            if !complete.tables.get(&table.id).is_some_and(|seen| Arc::ptr_eq(seen, table)) {
                let known = missing.len();
                missing.extend(kept_by(table, self.context.node).filter(|s| !store.contains(s.id)));
                if missing.len() > known {
                    continue;
                }
            }
            tables.insert(table.id, table.clone());
        }
        complete.tables = tables;
        self.context.missing.set(manifest.version, missing.iter().map(|s| s.id));
        if missing.is_empty() {
            return Ok(());
        }
        tracing::info!(segments = missing.len(), "pulling segments that this node lacks");
        let (repairer, absent) = (&self.context.repairer, &self.context.missing);
        let pulls = missing.into_iter().map(|segment| async move {
            let pulled = repairer.repair(store, &segment).await;
            if pulled.is_ok() {
                absent.found(segment.id);
            }
            pulled
        });
        let results: Vec<Result<()>> =
            futures::stream::iter(pulls).buffer_unordered(REPAIRS_MAX).collect().await;
        results.into_iter().collect()
    }
}

/// Tables of which this node had all that it should keep. A table is a new value after every change, so
/// that the same value need not be looked at again.
#[derive(Default)]
pub struct CompleteTables {
    tables: HashMap<TableId, Arc<Table>>,
    /// [`SegmentStore::lost_file_count`] at that time.
    lost_file_count: u64,
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use plexus_model::FileData;

    use super::*;

    /// Replicas that break off: each serves so many chunks in all.
    struct Flaky {
        bytes: Vec<u8>,
        left: Mutex<HashMap<NodeId, usize>>,
        offsets: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl RemoteSegments for Flaky {
        async fn read(&self, node: NodeId, _: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
            let mut left = self.left.lock().unwrap();
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
    async fn a_pull_goes_on_where_it_broke_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SegmentStore::open(dir.path()).unwrap());
        let bytes: Vec<u8> = (0..REPAIR_CHUNK_BYTES * 5 + 17).map(|i| (i % 251) as u8).collect();
        let segment = SegmentRef {
            id: SegmentId::generate(),
            data: file(bytes.len() as u64, *blake3::hash(&bytes).as_bytes()),
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        };
        let left = HashMap::from([(NodeId(1), 9), (NodeId(2), 2), (NodeId(3), 1)]);
        let remote = Arc::new(Flaky { bytes, left: Mutex::new(left), offsets: Mutex::default() });
        // Node 1 is this one; 2 and 3 give half of it, then nothing.
        let repairer = Repairer::new(NodeId(1), remote.clone());
        assert!(repairer.repair(&store, &segment).await.unwrap_err().message().contains("node 3 is gone"));
        assert!(!store.contains(segment.id));
        remote.left.lock().unwrap().insert(NodeId(2), 3);
        repairer.repair(&store, &segment).await.unwrap();
        assert!(store.contains(segment.id));
        let chunks: Vec<u64> =
            remote.offsets.lock().unwrap().iter().map(|o| o / REPAIR_CHUNK_BYTES as u64).collect();
        assert_eq!(chunks, [0, 1, 2, 3, 4, 5], "something was fetched twice");
    }

    #[tokio::test]
    async fn bytes_of_another_checksum_are_not_kept_and_fetched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SegmentStore::open(dir.path()).unwrap());
        let segment =
            SegmentRef { id: SegmentId::generate(), data: file(10, [0; 32]), replicas: vec![NodeId(2)] };
        let left = Mutex::new(HashMap::from([(NodeId(2), 9)]));
        let remote = Arc::new(Flaky { bytes: vec![1; 10], left, offsets: Mutex::default() });
        let repairer = Repairer::new(NodeId(1), remote.clone());
        for attempts in 1..3 {
            let error = repairer.repair(&store, &segment).await.unwrap_err();
            assert_eq!(error.kind(), plexus_model::ErrorKind::Corrupt);
            assert_eq!(remote.offsets.lock().unwrap().len(), attempts);
        }
    }
}
