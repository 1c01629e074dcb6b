//! What a node caches between searches: indexes, vectors, filter results and term statistics.

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::sync::Cache;
use plexus_index::graph::{Graph, NodeFilter};
use plexus_index::text::TextIndex;
use plexus_model::{Result, RowSet, SegmentId, Version};
use tokio::sync::OnceCell;

use crate::search::snapshot::term_statistics_cache::TermStatisticsCache;
use crate::search::snapshot::vectors::Vectors;

/// Memory for each cache of indexes and vectors, in bytes.
const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Entries that are not used for this long are dropped, and with them the memory-mapped file that they may
/// keep open.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Memory for node filters, in bytes.
const NODE_FILTER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Values that are computed at the same time. Beyond that, a value may be computed twice.
const IN_FLIGHT_MAX: u64 = 1_024;

/// A cache that is bounded in bytes. Concurrent requests for a missing value compute it once. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SingleFlightCache<K, V> {
    ready: Cache<K, V>,
    in_flight: Cache<K, Arc<OnceCell<V>>>,
}

impl<K, V> SingleFlightCache<K, V>
where
    K: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty cache; `bytes` is the size of a value.
    pub(crate) fn new(bytes: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        let weight = move |_: &K, value: &V| u32::try_from(bytes(value)).unwrap_or(u32::MAX);
        let ready =
            Cache::builder().max_capacity(CACHE_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build();
        Self { ready, in_flight: Cache::new(IN_FLIGHT_MAX) }
    }

    /// The value of a key, computed by `make` if it is not cached.
    ///
    /// # Errors
    /// What `make` fails with. Failures are not cached.
    pub(crate) async fn get(&self, key: K, make: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(value) = self.ready.get(&key) {
            return Ok(value);
        }
        let cell = self.in_flight.get_with(key.clone(), Arc::default);
        let value = cell.get_or_try_init(|| make).await?.clone();
        self.ready.insert(key.clone(), value.clone());
        self.in_flight.invalidate(&key);
        Ok(value)
    }
}

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
}

fn node_filter_cache() -> Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)> {
    let weight = |_: &(SegmentId, usize), (_, nodes): &(Weak<RowSet>, Arc<NodeFilter>)| {
        u32::try_from(nodes.bytes() + 128).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(NODE_FILTER_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build()
}

impl SearchCaches {
    /// Drops idle entries. The caches expire entries lazily, so without searches nothing else would.
    pub(crate) fn evict_idle(&self) {
        self.texts.ready.run_pending_tasks();
        self.vectors.ready.run_pending_tasks();
        self.graphs.ready.run_pending_tasks();
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

impl Default for SearchCaches {
    fn default() -> Self {
        Self {
            texts: SingleFlightCache::new(TextIndex::bytes),
            vectors: SingleFlightCache::new(|vectors: &Arc<Vectors>| vectors.bytes()),
            graphs: SingleFlightCache::new(|(graph, bytes): &(Arc<Graph>, usize)| graph.bytes() + bytes),
            node_filters: node_filter_cache(),
            filter_results: filter_cache(),
            term_statistics: TermStatisticsCache::default(),
        }
    }
}

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
