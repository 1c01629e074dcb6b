//! Reading the bytes of a segment, wherever they are.
//!
//! From this node's disk when it has them; otherwise, range by range, from a replica. A copy that turns
//! out to be damaged is set aside and the read goes on elsewhere: the bytes are the same everywhere.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use moka::sync::Cache;
use plexus_model::{
    DeletionVectorData, Error, ErrorKind, FileData, NodeId, Result, Segment, SegmentData, SegmentId, Table,
};
use vortex::VortexSessionDefault;
use vortex::array::buffer::BufferHandle;
use vortex::buffer::{Alignment, ByteBuffer, ByteBufferMut};
use vortex::error::{VortexError, VortexResult};
use vortex::file::Footer;
use vortex::io::session::RuntimeSessionExt;
use vortex::io::{CoalesceConfig, VortexReadAt};
use vortex::session::VortexSession;

use crate::deletion_vectors::DeletionVectorCache;
use crate::point_lookup::OpenColumns;
use crate::store::{Reference, SegmentStore};

/// What identifies the bytes of a segment and says who keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    pub id: SegmentId,
    pub data: FileData,
    pub replicas: Vec<NodeId>,
}

impl SegmentRef {
    /// Where the rows of a segment are, if they are in a file.
    pub fn of(table: &Table, segment: &Segment) -> Option<Self> {
        match segment.data {
            SegmentData::File(data) => {
                Some(Self { id: segment.id, data, replicas: replicas(table, segment) })
            }
            SegmentData::Inline(_) => None,
        }
    }

    /// The files of a segment: of its rows, its deletions and its indexes.
    pub fn all_of(table: &Table, segment: &Segment) -> impl Iterator<Item = Self> {
        let replicas = replicas(table, segment);
        let deletions = segment.deletions.iter().filter_map(|deletion| match deletion.rows {
            DeletionVectorData::File { id, data, .. } => Some((id, data)),
            DeletionVectorData::Inline(_) => None,
        });
        let indexes = segment.indexes.iter().map(|index| (index.file, index.data));
        let beside: Vec<_> = deletions.chain(indexes).collect();
        let rows = Self::of(table, segment);
        rows.into_iter().chain(beside.into_iter().map(move |(id, data)| Self {
            id,
            data,
            replicas: replicas.clone(),
        }))
    }

    /// The file of an index of a segment, by the id of its definition.
    pub fn of_index(table: &Table, segment: &Segment, index: u32) -> Option<Self> {
        let found = segment.indexes.iter().find(|i| i.index == index)?;
        Some(Self { id: found.file, data: found.data, replicas: replicas(table, segment) })
    }
}

fn replicas(table: &Table, segment: &Segment) -> Vec<NodeId> {
    table.shards.get(segment.shard as usize).map(|s| s.replicas.clone()).unwrap_or_default()
}

/// Reads ranges of segments that other nodes keep.
#[async_trait]
pub trait RemoteSegments: Send + Sync + 'static {
    async fn read(&self, node: NodeId, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes>;

    /// The replicas of a file to ask, those most likely to answer first; without this node.
    fn order(&self, segment: &SegmentRef) -> Vec<NodeId>;
}

/// Opens segments for scans on this node.
#[derive(Clone)]
pub struct SegmentReads {
    store: Option<Arc<SegmentStore>>,
    remote: Arc<dyn RemoteSegments>,
    pub(crate) hidden: DeletionVectorCache,
    mapped: bool,
    /// What reads the format. Making it takes longer than a small read.
    pub(crate) session: VortexSession,
    /// Where columns lie in files.
    pub(crate) footers: Cache<SegmentId, Footer>,
    /// Columns of which rows are taken one by one.
    pub(crate) open: OpenColumns,
}

/// Footers that are kept.
const FOOTERS_MAX: u64 = 4_096;

impl std::fmt::Debug for SegmentReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReads").field("local", &self.store.is_some()).finish_non_exhaustive()
    }
}

impl SegmentReads {
    /// `store` is absent on a node without the data role.
    pub fn new(store: Option<Arc<SegmentStore>>, remote: Arc<dyn RemoteSegments>) -> Self {
        let session = VortexSession::default().with_tokio();
        let (hidden, footers) = (DeletionVectorCache::default(), Cache::new(FOOTERS_MAX));
        Self { store, remote, hidden, mapped: false, session, footers, open: OpenColumns::default() }
    }

    /// Reads that do not copy what is in files of this node: what they give stays in the files, and is fetched from there
    /// when it is looked at. For what is kept long and looked at here and there.
    pub fn mapped(&self) -> Self {
        Self { mapped: true, ..self.clone() }
    }

    pub fn open(&self, segment: SegmentRef) -> Arc<dyn VortexReadAt> {
        Arc::new(SegmentReadAt { reads: self.clone(), segment: Arc::new(segment) })
    }

    async fn read_range(
        &self,
        segment: &SegmentRef,
        offset: u64,
        length: usize,
        alignment: Alignment,
    ) -> Result<BufferHandle> {
        if let Some(store) = self.store.clone().filter(|store| store.contains(segment.id)) {
            let (wanted, mapped) = (segment.clone(), self.mapped);
            let read = tokio::task::spawn_blocking(move || {
                let file = store.segment(
                    wanted.id,
                    wanted.data.bytes,
                    &wanted.data.checksum,
                    Reference::Manifest,
                )?;
                // What cannot be mapped can be read still.
                if mapped
                    && let Ok(map) = file.map()
                    && let Some(bytes) = slice_of(&map, offset, length, alignment)
                {
                    return Ok(BufferHandle::new_host(ByteBuffer::from_bytes_aligned(bytes, alignment)));
                }
                let mut buffer = ByteBufferMut::zeroed_aligned(length, alignment);
                file.read_exact_at(buffer.as_mut_slice(), offset)?;
                Ok(BufferHandle::new_host(buffer.freeze()))
            })
            .await
            .map_err(|e| Error::internal(format!("reading segment {}: {e}", segment.id)))?;
            match read {
                Err(error) => {
                    tracing::warn!(segment = %segment.id, %error, "local copy cannot be read; trying the other replicas");
                }
                read => return read,
            }
        }
        let bytes = self.read_remote(segment, offset, length).await?;
        let mut buffer = ByteBufferMut::with_capacity_aligned(bytes.len(), alignment);
        buffer.extend_from_slice(&bytes);
        Ok(BufferHandle::new_host(buffer.freeze()))
    }

    /// How many files of this node were found to be damaged: what was mapped before that may be of one of them.
    pub fn lost_files(&self) -> u64 {
        self.store.as_ref().map_or(0, |store| store.lost_files())
    }

    /// Other nodes that keep a file, those most likely to answer first.
    pub fn order(&self, segment: &SegmentRef) -> Vec<NodeId> {
        self.remote.order(segment)
    }

    /// Whether a file is on this node.
    pub fn has(&self, segment: &SegmentRef) -> bool {
        self.store.as_ref().is_some_and(|store| store.contains(segment.id))
    }

    /// Closes columns of which nobody has taken rows in a while.
    pub fn close_idle(&self) {
        self.open.close_idle();
    }

    /// Whether bytes are those of a file of this node, where they lie in it.
    pub fn is_mapped(&self, segment: &SegmentRef, bytes: &[u8]) -> bool {
        let store = self.store.as_ref().filter(|_| self.mapped);
        let map = store.and_then(|store| store.mapped(segment.id));
        map.is_some_and(|map| {
            let (map, bytes) = (map.as_ptr_range(), bytes.as_ptr_range());
            map.start <= bytes.start && bytes.end <= map.end
        })
    }

    /// Reads a part of a file.
    pub async fn range(&self, segment: &SegmentRef, offset: u64, length: u64) -> Result<Bytes> {
        let length = usize::try_from(length)
            .map_err(|_| Error::internal(format!("segment {}: {length} bytes at once", segment.id)))?;
        let buffer = self.read_range(segment, offset, length, Alignment::none()).await?;
        buffer
            .try_to_host_sync()
            .map(|host| host.into_bytes())
            .map_err(|e| Error::internal(format!("segment {}: {e}", segment.id)).with_source(e))
    }

    async fn read_remote(&self, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
        let mut failures = Vec::new();
        for node in self.remote.order(segment) {
            match self.remote.read(node, segment, offset, length).await {
                Ok(bytes) if bytes.len() == length => return Ok(bytes),
                Ok(bytes) => failures.push(format!("node {node}: {} of {length} bytes", bytes.len())),
                Err(e) => failures.push(format!("node {node}: {e}")),
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("no replica of segment {} could be read: {}", segment.id, failures.join("; ")),
        ))
    }
}

/// A part of a file, if it is there and begins where it must.
fn slice_of(file: &Bytes, offset: u64, length: usize, alignment: Alignment) -> Option<Bytes> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length).filter(|end| *end <= file.len())?;
    let bytes = file.slice(start..end);
    alignment.is_ptr_aligned(bytes.as_ptr()).then_some(bytes)
}

#[derive(Clone)]
struct SegmentReadAt {
    reads: SegmentReads,
    segment: Arc<SegmentRef>,
}

/// Reads of one segment in flight at once.
const READ_CONCURRENCY: usize = 16;

impl VortexReadAt for SegmentReadAt {
    fn coalesce_config(&self) -> Option<CoalesceConfig> {
        Some(CoalesceConfig::file())
    }

    fn concurrency(&self) -> usize {
        READ_CONCURRENCY
    }

    fn size(&self) -> BoxFuture<'static, VortexResult<u64>> {
        // Vortex finds its footer at the end, and knows nothing of what follows.
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
                .read_range(&this.segment, offset, length, alignment)
                .await
                .map_err(|e| VortexError::from(std::io::Error::other(e)))
        }
        .boxed()
    }
}
