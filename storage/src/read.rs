//! Reads of segment files, from the local disk or from another replica.
//!
//! A read uses the local file when there is one. Otherwise it requests the byte range from the other
//! replicas, one after the other. When the local file turns out to be damaged, it goes to quarantine and the
//! read continues on another replica, which has the same bytes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use moka::sync::Cache;
use plexus_index::KeyIndex;
use plexus_memory::inherit_in;
use plexus_model::{
    DeletionVectorData, Error, ErrorKind, FileData, NodeId, Result, Segment, SegmentData, SegmentId, Table,
};
use vortex::array::buffer::BufferHandle;
use vortex::buffer::{Alignment, ByteBuffer, ByteBufferMut};
use vortex::error::{VortexError, VortexResult};
use vortex::file::Footer;
use vortex::io::{CoalesceConfig, VortexReadAt};
use vortex::session::VortexSession;

use crate::deletion_vectors::DeletionVectorCache;
use crate::point_lookup::OpenColumns;
use crate::single_flight::SingleFlightCache;
use crate::store::{ReferenceSource, SegmentStore};
use crate::vortex_runtime::vortex_session;

/// A reference to a file: its id, its checksum, and the nodes that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Id of the file.
    pub id: SegmentId,
    /// Size and checksum of the file.
    pub data: FileData,
    /// The replicas of the shard, by descending rendezvous score.
    pub replicas: Vec<NodeId>,
}

impl SegmentRef {
    /// The file with the rows of a segment; `None` for an inline segment.
    pub fn data_file(table: &Table, segment: &Segment) -> Option<Self> {
        match segment.data {
            SegmentData::File(data) => {
                Some(Self { id: segment.id, data, replicas: replicas(table, segment) })
            }
            SegmentData::Inline(_) => None,
        }
    }

    /// All files of a segment: its rows, its deletion vectors and its indexes.
    pub fn all_files(table: &Table, segment: &Segment) -> impl Iterator<Item = Self> {
        let replicas = replicas(table, segment);
        let deletions = segment.deletions.iter().filter_map(|deletion| match deletion.rows {
            DeletionVectorData::File { id, data, .. } => Some((id, data)),
            DeletionVectorData::Inline(_) => None,
        });
        let indexes = segment.indexes.iter().map(|index| (index.file, index.data));
        let auxiliary: Vec<_> = deletions.chain(indexes).collect();
        let rows = Self::data_file(table, segment);
        rows.into_iter().chain(auxiliary.into_iter().map(move |(id, data)| Self {
            id,
            data,
            replicas: replicas.clone(),
        }))
    }

    /// The index file of a segment for the definition with the id `index`; `None` when it has none.
    pub fn index_file(table: &Table, segment: &Segment, index: u32) -> Option<Self> {
        let index = segment.indexes.iter().find(|i| i.index == index)?;
        Some(Self { id: index.file, data: index.data, replicas: replicas(table, segment) })
    }
}

fn replicas(table: &Table, segment: &Segment) -> Vec<NodeId> {
    table.shards.get(segment.shard as usize).map(|s| s.replicas.clone()).unwrap_or_default()
}

/// How the errors of reads begin that no replica could serve. The format's reader passes on their text alone.
pub const LOST_SEGMENT: &str = "every replica of segment ";
/// The same where other nodes may still have the file.
pub const UNREADABLE_SEGMENT: &str = "no replica of segment ";

/// Access to files on other nodes.
#[async_trait]
pub trait RemoteSegments: Send + Sync + 'static {
    /// Reads `length` bytes from `offset` of a file on `node`.
    ///
    /// # Errors
    /// `Unavailable` when the node cannot be reached. `NotFound` or `Corrupt` when its copy is missing or
    /// damaged.
    async fn read(&self, node: NodeId, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes>;

    /// The other nodes that hold a file, in the order in which to try them: the most likely to answer first.
    fn order(&self, segment: &SegmentRef) -> Vec<NodeId>;
}

/// Reads segments on this node: scans, point lookups and byte ranges. A clone is cheap and shares all caches.
#[derive(Clone)]
pub struct SegmentReader {
    store: Option<Arc<SegmentStore>>,
    remote: Arc<dyn RemoteSegments>,
    pub(crate) deletion_vectors: DeletionVectorCache,
    /// Whether reads of local files return memory-mapped bytes.
    mapped: bool,
    /// Shared by all reads, because creating a session takes longer than a small read.
    pub(crate) session: VortexSession,
    /// Vortex footers, which locate the columns in a file.
    pub(crate) footers: Cache<SegmentId, Footer>,
    /// Columns that point lookups have opened.
    pub(crate) open_columns: OpenColumns,
    /// Key indexes, weighed by their bytes.
    pub(crate) key_indexes: SingleFlightCache<SegmentId, KeyIndex>,
}

/// Bytes of key indexes that a node caches in memory. An index takes 12 bytes per row.
const KEY_INDEX_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Cached footers.
const FOOTERS_MAX: u64 = 4_096;

impl std::fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader").field("local", &self.store.is_some()).finish_non_exhaustive()
    }
}

impl SegmentReader {
    /// Reads from `store` and `remote`. `store` is `None` on a node without the data role.
    pub fn new(store: Option<Arc<SegmentStore>>, remote: Arc<dyn RemoteSegments>) -> Self {
        Self {
            store,
            remote,
            deletion_vectors: DeletionVectorCache::default(),
            mapped: false,
            session: vortex_session(),
            footers: Cache::new(FOOTERS_MAX),
            open_columns: OpenColumns::default(),
            key_indexes: SingleFlightCache::new(KEY_INDEX_BYTES_MAX, |index: &KeyIndex| index.bytes() + 64),
        }
    }

    /// Reads that memory-map local files instead of copying from them. The bytes that they return stay in the
    /// page cache and are loaded on access. Suits data that is kept for long and accessed sparsely.
    pub fn memory_mapped(&self) -> Self {
        Self { mapped: true, ..self.clone() }
    }

    /// Opens a file for Vortex. Its size there is that of the columns, without the key index.
    pub fn open(&self, segment: SegmentRef) -> Arc<dyn VortexReadAt> {
        Arc::new(SegmentReadAt { reads: self.clone(), segment: Arc::new(segment) })
    }

    /// Reads a byte range from the local file, or else from another replica.
    async fn read_aligned(
        &self,
        segment: &SegmentRef,
        offset: u64,
        length: usize,
        alignment: Alignment,
    ) -> Result<BufferHandle> {
        if let Some(store) = self.store.clone().filter(|store| store.contains(segment.id)) {
            let (segment, mapped) = (segment.clone(), self.mapped);
            let id = segment.id;
            let copy = move || {
                let SegmentRef { id, data, .. } = segment;
                let manifest = ReferenceSource::Manifest;
                // Copy when the system cannot map the file, or the range is not aligned.
                if mapped
                    && let Ok(map) = store.segment(id, data.bytes, &data.checksum, manifest)?.map()
                    && let Some(bytes) = aligned_slice(&map, offset, length, alignment)
                {
                    return Ok(BufferHandle::new_host(ByteBuffer::from_bytes_aligned(bytes, alignment)));
                }
                let mut buffer = ByteBufferMut::zeroed_aligned(length, alignment);
                let content = buffer.as_mut_slice();
                store.read_exact_at(id, data.bytes, &data.checksum, manifest, content, offset)?;
                Ok(BufferHandle::new_host(buffer.freeze()))
            };
            let read = tokio::task::spawn_blocking(inherit_in(copy))
                .await
                .map_err(|e| Error::internal(format!("reading segment {id}: {e}")))?;
            match read {
                Err(error) => {
                    tracing::warn!(segment = %id, %error, "local file is unreadable; trying replicas");
                }
                read => return read,
            }
        }
        let bytes = self.read_remote(segment, offset, length).await?;
        let mut buffer = ByteBufferMut::with_capacity_aligned(bytes.len(), alignment);
        buffer.extend_from_slice(&bytes);
        Ok(BufferHandle::new_host(buffer.freeze()))
    }

    /// Number of local files that were found damaged or missing since the start. When it grows, memory-mapped
    /// bytes from before may belong to a damaged file.
    pub fn lost_file_count(&self) -> u64 {
        self.store.as_ref().map_or(0, |store| store.lost_file_count())
    }

    /// The other nodes that hold a file, the most likely to answer first.
    pub fn order(&self, segment: &SegmentRef) -> Vec<NodeId> {
        self.remote.order(segment)
    }

    /// Whether a file is on the local disk.
    pub fn has(&self, segment: &SegmentRef) -> bool {
        self.store.as_ref().is_some_and(|store| store.contains(segment.id))
    }

    /// Closes columns that no point lookup has used for ten minutes. Call it periodically.
    pub fn close_idle(&self) {
        self.open_columns.close_idle();
        self.key_indexes.evict_idle();
    }

    /// Whether `bytes` are part of the memory-mapped local file, rather than a copy.
    pub fn is_mapped(&self, segment: &SegmentRef, bytes: &[u8]) -> bool {
        let store = self.store.as_ref().filter(|_| self.mapped);
        let map = store.and_then(|store| store.mapped(segment.id));
        map.is_some_and(|map| {
            let (map, bytes) = (map.as_ptr_range(), bytes.as_ptr_range());
            map.start <= bytes.start && bytes.end <= map.end
        })
    }

    /// Reads `length` bytes from `offset` of a file.
    ///
    /// # Errors
    /// `Unavailable` when no replica can be read.
    pub async fn read_range(&self, segment: &SegmentRef, offset: u64, length: u64) -> Result<Bytes> {
        let length = usize::try_from(length).map_err(|_| {
            Error::internal(format!(
                "segment {}: a range of {length} bytes does not fit in memory",
                segment.id
            ))
        })?;
        let buffer = self.read_aligned(segment, offset, length, Alignment::none()).await?;
        buffer
            .try_to_host_sync()
            .map(|host| host.into_bytes())
            .map_err(|e| Error::internal(format!("segment {}: {e}", segment.id)).with_source(e))
    }

    /// Reads a byte range from the other replicas, one after the other.
    async fn read_remote(&self, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
        let mut failures = Vec::new();
        // Whether each of the other nodes says that it has no intact file.
        let mut is_lost = true;
        for node in self.remote.order(segment) {
            match self.remote.read(node, segment, offset, length).await {
                Ok(bytes) if bytes.len() == length => return Ok(bytes),
                Ok(bytes) => failures.push(format!("node {node}: {} of {length} bytes", bytes.len())),
                Err(e) => {
                    is_lost &= matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt);
                    failures.push(e.message().to_owned());
                }
            }
        }
        let (id, reasons) = (segment.id, failures.join("; "));
        Err(match is_lost {
            true => Error::corrupt(format!("{LOST_SEGMENT}{id} is lost or damaged: {reasons}")),
            false => Error::unavailable(format!("{UNREADABLE_SEGMENT}{id} could be read: {reasons}")),
        })
    }
}

/// A range of a memory-mapped file; `None` when it is out of bounds or not aligned.
fn aligned_slice(file: &Bytes, offset: u64, length: usize, alignment: Alignment) -> Option<Bytes> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length).filter(|end| *end <= file.len())?;
    let bytes = file.slice(start..end);
    alignment.is_ptr_aligned(bytes.as_ptr()).then_some(bytes)
}

/// A file as Vortex reads it.
#[derive(Clone)]
struct SegmentReadAt {
    reads: SegmentReader,
    segment: Arc<SegmentRef>,
}

/// Concurrent reads of one segment.
const READ_CONCURRENCY: usize = 16;

impl VortexReadAt for SegmentReadAt {
    fn coalesce_config(&self) -> Option<CoalesceConfig> {
        Some(CoalesceConfig::file())
    }

    fn concurrency(&self) -> usize {
        READ_CONCURRENCY
    }

    fn size(&self) -> BoxFuture<'static, VortexResult<u64>> {
        // Vortex expects its footer at the end of the file, so the key index after it must not count.
        let length = self.segment.data.column_bytes;
        async move { Ok(length) }.boxed()
    }

    fn read_at(
        &self,
        offset: u64,
        length: usize,
        alignment: Alignment,
    ) -> BoxFuture<'static, VortexResult<BufferHandle>> {
        let this = self.clone();
        async move {
            this.reads
                .read_aligned(&this.segment, offset, length, alignment)
                .await
                .map_err(|e| VortexError::from(std::io::Error::other(e)))
        }
        .boxed()
    }
}
