//! What a node caches between searches: indexes, vectors, filter results and term statistics.

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::sync::Cache;
use plexus_index::graph::{Graph, NodeFilter};
use plexus_index::text::TextIndex;
use plexus_model::{Error, Result, RowSet, SegmentId, Version};
use plexus_storage::SingleFlightCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::search::snapshot::term_statistics_cache::TermStatisticsCache;
use crate::search::snapshot::vectors::Vectors;

/// Memory for each cache of indexes and vectors, in bytes. Less on a node with little memory for queries, of
/// which it takes [`CACHE_PART`].
const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const CACHE_PART: u64 = 8;

/// Entries that are not used for this long are dropped.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Memory for node filters, in bytes.
const NODE_FILTER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The search caches of a node. Segments never change, so entries do not become stale. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SearchCaches {
    /// Text indexes, from a file or built in memory.
    pub texts: SingleFlightCache<TextKey, TextIndex>,
    /// Vectors by segment, column id and the number of lost files.
    pub vectors: SingleFlightCache<(SegmentId, u32, u64), Arc<Vectors>>,
    /// Graphs by index file and the number of lost files, each with the bytes of its file that are in memory.
    pub graphs: SingleFlightCache<(SegmentId, u64), (Arc<Graph>, usize)>,
    /// Node filters by graph file and address of the row set. An entry is valid as long as its row set is
    /// alive.
    pub node_filters: Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)>,
    /// The rows of a segment that satisfy a predicate.
    pub filter_results: Cache<FilterKey, Arc<RowSet>>,
    /// Statistics of terms by table version.
    pub term_statistics: TermStatisticsCache,
    /// Memory of the build of a text index, in bytes.
    pub build_bytes_max: usize,
    /// As many text indexes are built for searches at once as half of the memory has room for.
    builds: Arc<Semaphore>,
}

/// Memory of the build of a text index on a node whose queries have `memory_bytes` together, in bytes.
pub fn build_bytes_max(memory_bytes: usize) -> usize {
    const BYTES_MIN: usize = 64 << 20;
    const BYTES_MAX: usize = 1 << 30;
    (memory_bytes / 2).clamp(BYTES_MIN, BYTES_MAX)
}

fn node_filter_cache() -> Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)> {
    let weight = |_: &(SegmentId, usize), (_, nodes): &(Weak<RowSet>, Arc<NodeFilter>)| {
        u32::try_from(nodes.bytes() + 128).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(NODE_FILTER_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build()
}

impl SearchCaches {
    /// Empty caches of a node whose queries have `memory_bytes` together.
    pub(crate) fn new(memory_bytes: usize) -> Self {
        let bytes_max = (memory_bytes as u64 / CACHE_PART).min(CACHE_BYTES_MAX);
        Self {
            texts: SingleFlightCache::new(bytes_max, TextIndex::bytes),
            vectors: SingleFlightCache::new(bytes_max, |vectors: &Arc<Vectors>| vectors.bytes()),
            graphs: SingleFlightCache::new(bytes_max, |(graph, bytes): &(Arc<Graph>, usize)| {
                graph.bytes() + bytes
            }),
            node_filters: node_filter_cache(),
            filter_results: filter_cache(),
            term_statistics: TermStatisticsCache::default(),
            build_bytes_max: build_bytes_max(memory_bytes),
            builds: Arc::new(Semaphore::new((memory_bytes / 2 / build_bytes_max(memory_bytes)).clamp(1, 16))),
        }
    }

    /// Waits until there is memory to build a text index.
    pub(crate) async fn build_permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.builds.clone().acquire_owned().await;
        permit.map_err(|_| Error::unavailable("the node stops"))
    }

    /// Drops idle entries. The caches expire entries lazily, so without searches nothing else would.
    pub(crate) fn evict_idle(&self) {
        self.texts.evict_idle();
        self.vectors.evict_idle();
        self.graphs.evict_idle();
        self.node_filters.run_pending_tasks();
        self.term_statistics.evict_idle();
    }

    /// The nodes of a graph that stand for the rows of a set.
    pub(crate) fn node_filter(&self, file: SegmentId, graph: &Graph, rows: &Arc<RowSet>) -> Arc<NodeFilter> {
        // The entry holds a weak reference, which keeps the address of the set from being reused.
        let key = (file, Arc::as_ptr(rows) as usize);
        if let Some((of, nodes)) = self.node_filters.get(&key)
            && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, rows))
        {
            return nodes;
        }
        let nodes = Arc::new(NodeFilter::new(graph, rows));
        self.node_filters.insert(key, (Arc::downgrade(rows), nodes.clone()));
        nodes
    }
}

/// A segment, the analyzer, the column ids, and the number of lost files. The last one makes a node read
/// again what it read before a file was found to be damaged.
pub(crate) type TextKey = (SegmentId, String, Vec<u32>, u64);

/// Memory for filter results, in bytes.
const FILTER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A segment, a predicate, and the fingerprint of the rows of the segment that are visible.
pub(crate) type FilterKey = (SegmentId, String, (u64, Version));

fn filter_cache() -> Cache<FilterKey, Arc<RowSet>> {
    let weight = |key: &FilterKey, rows: &Arc<RowSet>| {
        u32::try_from(rows.serialized_size() + key.1.len() + 64).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(FILTER_BYTES_MAX).weigher(weight).build()
}
