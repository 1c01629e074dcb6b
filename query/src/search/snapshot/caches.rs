//! TODO module docs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::sync::Cache;
use plexus_index::graph::{Graph, NodeFilter};
use plexus_index::text::TextIndex;
use plexus_model::{Result, RowSet, SegmentId, Version};
use tokio::sync::OnceCell;

use crate::search::snapshot::term_statistics_cache::TermStatisticsCache;
use crate::search::snapshot::vectors::Vectors;

/// Bytes of indexes, and of vectors, that a node keeps in memory.
pub const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// After so long what nobody asked for is forgotten, and with it the file that it may be in.
pub const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Bytes of sets of nodes.
pub const NODE_FILTER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Values that are made at once: more are made twice.
pub const IN_FLIGHT_MAX: u64 = 1_024;

/// Values by their keys, up to a number of bytes. One that is asked for by several is made once.
#[derive(Clone)]
pub struct SingleFlightCache<K, V> {
    ready: Cache<K, V>,
    in_flight: Cache<K, Arc<OnceCell<V>>>,
}

impl<K, V> SingleFlightCache<K, V>
where
    K: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub fn new(bytes: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        let weight = move |_: &K, value: &V| u32::try_from(bytes(value)).unwrap_or(u32::MAX);
        let ready =
            Cache::builder().max_capacity(CACHE_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build();
        Self { ready, in_flight: Cache::new(IN_FLIGHT_MAX) }
    }

    pub async fn get(&self, key: K, make: impl Future<Output = Result<V>>) -> Result<V> {
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

/// What was read of segments, which never changes. Cheap to clone.
#[derive(Clone)]
pub struct SearchCaches {
    pub texts: SingleFlightCache<TextKey, TextIndex>,
    pub vectors: SingleFlightCache<(SegmentId, u32, u64), Arc<Vectors>>,
    /// By their files, with the bytes of those that are in memory.
    pub graphs: SingleFlightCache<(SegmentId, u64), (Arc<Graph>, usize)>,
    /// By the file of the graph and the set of rows, as long as that is there.
    pub node_filters: Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)>,
    pub filter_results: Cache<FilterKey, Arc<RowSet>>,
    pub term_statistics: TermStatisticsCache,
}

pub fn node_filter_cache() -> Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)> {
    let weight = |_: &(SegmentId, usize), (_, chosen): &(Weak<RowSet>, Arc<NodeFilter>)| {
        u32::try_from(chosen.bytes() + 128).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(NODE_FILTER_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build()
}

impl SearchCaches {
    /// Forgets what was not asked for in a while, also when nobody asks for anything.
    pub fn forget_idle(&self) {
        self.texts.ready.run_pending_tasks();
        self.vectors.ready.run_pending_tasks();
        self.graphs.ready.run_pending_tasks();
        self.node_filters.run_pending_tasks();
        self.term_statistics.forget_idle();
    }

    /// The nodes of a graph that are some rows.
    pub fn node_filter(&self, file: SegmentId, graph: &Graph, rows: &Arc<RowSet>) -> Arc<NodeFilter> {
        // As long as somebody knows the set, no other is at its place.
        let key = (file, Arc::as_ptr(rows) as usize);
        if let Some((of, chosen)) = self.node_filters.get(&key)
            && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, rows))
        {
            return chosen;
        }
        let chosen = Arc::new(NodeFilter::new(graph, rows));
        self.node_filters.insert(key, (Arc::downgrade(rows), chosen.clone()));
        chosen
    }
}

/// A segment, an analyzer, the columns, and how many files were found to be damaged: what was read before is read again.
pub type TextKey = (SegmentId, String, Vec<u32>, u64);

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

/// Bytes of filter results that a node keeps.
const FILTER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A segment, a predicate, and what of the segment was seen.
pub type FilterKey = (SegmentId, String, (u64, Version));

fn filter_cache() -> Cache<FilterKey, Arc<RowSet>> {
    let weight = |key: &FilterKey, rows: &Arc<RowSet>| {
        u32::try_from(rows.serialized_size() + key.1.len() + 64).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(FILTER_BYTES_MAX).weigher(weight).build()
}
