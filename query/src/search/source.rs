//! What a search reads: the segments that a version of a table sees, and of each its words and vectors.
//!
//! A segment whose index is a file is searched by that; one that has none yet, or is still in the log, by the same kind
//! of index made on the spot and kept for a while. So by words results never depend on what has been
//! indexed; vectors without a graph are all looked at.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow_schema::DataType;
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_index::graph::{Graph, NodeFilter};
use plexus_index::text::{Analyzer, TextIndex, build_text};
use plexus_model::{
    Error, ErrorKind, NodeId, Result, RowSelection, RowSet, Segment, SegmentId, Table, Version,
};
use plexus_storage::{SegmentReads, SegmentRef, project};
use tokio::sync::OnceCell;

use super::vectors::Vectors;
use crate::scan::ScanContext;

/// Bytes of indexes, and of vectors, that a node keeps in memory.
const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// After so long what nobody asked for is forgotten, and with it the file that it may be in.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// Bytes of sets of nodes.
const CHOSEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Values that are made at once: more are made twice.
const MAKING_MAX: u64 = 1_024;

/// Values by their keys, up to a number of bytes. One that is asked for by several is made once.
#[derive(Clone)]
pub(super) struct Kept<K, V> {
    ready: Cache<K, V>,
    making: Cache<K, Arc<OnceCell<V>>>,
}

impl<K, V> Kept<K, V>
where
    K: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn new(bytes: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        let weight = move |_: &K, value: &V| u32::try_from(bytes(value)).unwrap_or(u32::MAX);
        let ready =
            Cache::builder().max_capacity(CACHE_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build();
        Self { ready, making: Cache::new(MAKING_MAX) }
    }

    pub async fn get(&self, key: K, make: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(value) = self.ready.get(&key) {
            return Ok(value);
        }
        let cell = self.making.get_with(key.clone(), Arc::default);
        let value = cell.get_or_try_init(|| make).await?.clone();
        self.ready.insert(key.clone(), value.clone());
        self.making.invalidate(&key);
        Ok(value)
    }
}

/// What was read of segments, which never changes. Cheap to clone.
#[derive(Clone)]
pub struct SearchCaches {
    texts: Kept<TextKey, TextIndex>,
    pub(super) vectors: Kept<(SegmentId, u32, u64), Arc<Vectors>>,
    /// By their files, with the bytes of those that are in memory.
    pub(super) graphs: Kept<(SegmentId, u64), (Arc<Graph>, usize)>,
    /// By the file of the graph and the set of rows, as long as that is there.
    pub(super) chosen: Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)>,
    pub(super) filtered: Cache<super::filter::FilterKey, Arc<RowSet>>,
    pub(super) counts: super::statistics::Counts,
}

fn chosen() -> Cache<(SegmentId, usize), (Weak<RowSet>, Arc<NodeFilter>)> {
    let weight = |_: &(SegmentId, usize), (_, chosen): &(Weak<RowSet>, Arc<NodeFilter>)| {
        u32::try_from(chosen.bytes() + 128).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(CHOSEN_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build()
}

impl SearchCaches {
    /// Forgets what was not asked for in a while, also when nobody asks for anything.
    pub fn forget_idle(&self) {
        self.texts.ready.run_pending_tasks();
        self.vectors.ready.run_pending_tasks();
        self.graphs.ready.run_pending_tasks();
        self.chosen.run_pending_tasks();
        self.counts.forget_idle();
    }

    /// The nodes of a graph that are some rows.
    pub(super) fn chosen(&self, file: SegmentId, graph: &Graph, rows: &Arc<RowSet>) -> Arc<NodeFilter> {
        // As long as somebody knows the set, no other is at its place.
        let key = (file, Arc::as_ptr(rows) as usize);
        if let Some((of, chosen)) = self.chosen.get(&key)
            && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, rows))
        {
            return chosen;
        }
        let chosen = Arc::new(NodeFilter::new(graph, rows));
        self.chosen.insert(key, (Arc::downgrade(rows), chosen.clone()));
        chosen
    }
}

/// A segment, an analyzer, the columns, and how many files were found to be damaged: what was read before is read again.
type TextKey = (SegmentId, String, Vec<u32>, u64);

impl Default for SearchCaches {
    fn default() -> Self {
        Self {
            texts: Kept::new(TextIndex::bytes),
            vectors: Kept::new(|vectors: &Arc<Vectors>| vectors.bytes()),
            graphs: Kept::new(|(graph, bytes): &(Arc<Graph>, usize)| graph.bytes() + bytes),
            chosen: chosen(),
            filtered: super::filter::cache(),
            counts: super::statistics::Counts::default(),
        }
    }
}

/// How the words of some columns are found.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFields {
    /// Their ids.
    pub columns: Vec<u32>,
    pub analyzer: Analyzer,
    /// The index whose files can be used.
    pub index: Option<u32>,
}

/// A segment and what of it a version does not see.
#[derive(Clone, Debug)]
pub struct Part {
    pub segment: Arc<Segment>,
    pub hidden: Arc<RowSet>,
}

impl Part {
    /// How many rows the version sees.
    pub fn live(&self) -> u64 {
        self.segment.rows - self.hidden.len()
    }
}

/// A version of a table, as searches see it.
#[derive(Clone)]
pub struct Source {
    pub table: Arc<Table>,
    pub version: Version,
    pub context: ScanContext,
    pub parts: Arc<Vec<Part>>,
    /// Of the query that searches, for logs.
    pub query_id: String,
    /// Of each part the nodes that keep it, if this one does not; once that is known.
    pub(super) elsewhere: OnceLock<Vec<Option<Vec<NodeId>>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("table", &self.table.name).field("version", &self.version).finish()
    }
}

impl Source {
    /// Some segments of a table.
    pub fn of(table: Arc<Table>, version: Version, context: ScanContext, parts: Vec<Part>) -> Self {
        Self {
            table,
            version,
            context,
            parts: Arc::new(parts),
            query_id: String::new(),
            elsewhere: OnceLock::new(),
        }
    }

    pub async fn open(table: Arc<Table>, version: Version, context: ScanContext) -> Result<Self> {
        let mut parts = Vec::new();
        for segment in table.visible(version) {
            let hidden = context.reads.hidden_rows(&table, segment, version).await;
            let hidden = hidden.map_err(|e| e.context(format!("segment {}", segment.id)))?;
            if hidden.len() < segment.rows {
                parts.push(Part { segment: segment.clone(), hidden });
            }
        }
        Ok(Self::of(table, version, context, parts))
    }

    /// The same for a query.
    pub fn for_query(self, query_id: String) -> Self {
        Self { query_id, ..self }
    }

    pub fn reads(&self) -> &SegmentReads {
        &self.context.reads
    }

    pub(super) fn column_place(&self, id: u32) -> Result<usize> {
        let place = self.table.schema.columns.iter().position(|c| c.id == id);
        place.ok_or_else(|| Error::internal(format!("table {} has no column {id}", self.table.name)))
    }

    /// The words of a segment.
    pub async fn text(&self, part: &Part, fields: &TextFields) -> Result<TextIndex> {
        let key = (
            part.segment.id,
            fields.analyzer.name().to_owned(),
            fields.columns.clone(),
            self.reads().lost_files(),
        );
        let make = async {
            let file = fields.index.and_then(|id| SegmentRef::of_index(&self.table, &part.segment, id));
            if let Some(file) = file {
                match self.open_text(&file, part, fields).await {
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                        tracing::warn!(segment = %part.segment.id, error = %e, "a text index cannot be read; searching without");
                    }
                    opened => return opened,
                }
            }
            let texts = self.texts(part, fields).await?;
            let analyzer = fields.analyzer.clone();
            blocking(move || TextIndex::open(build_texts(&texts, &analyzer)?.into(), &analyzer)).await
        };
        self.context.caches.texts.get(key, make).await
    }

    async fn open_text(&self, file: &SegmentRef, part: &Part, fields: &TextFields) -> Result<TextIndex> {
        let bytes = self.reads().mapped().range(file, 0, file.data.bytes).await?;
        let analyzer = fields.analyzer.clone();
        let index = blocking(move || TextIndex::open(bytes, &analyzer)).await?;
        if u64::from(index.rows()) != part.segment.rows {
            return Err(Error::corrupt(format!("index {} is of {} rows", file.id, index.rows())));
        }
        Ok(index)
    }

    /// The texts of some columns, of all rows, also those that are hidden. Of each batch one array a column.
    pub async fn texts(&self, part: &Part, fields: &TextFields) -> Result<Vec<Vec<ArrayRef>>> {
        let places = fields.columns.iter().map(|id| self.column_place(*id)).collect::<Result<Vec<_>>>()?;
        let schema = project(&self.table.schema, &places);
        let all = RowSelection::all();
        let mut rows = self.reads().scan(&self.table, &part.segment, &schema, all).await?;
        let (mut texts, mut read) = (Vec::new(), 0);
        while let Some(found) = rows.try_next().await? {
            check_positions(part, read, &found.positions)?;
            read += found.positions.len() as u64;
            let columns = found.rows.columns().iter().map(|column| {
                compute::cast(column, &DataType::LargeUtf8)
                    .map_err(|e| Error::internal(format!("reading texts: {e}")).with_source(e))
            });
            texts.push(columns.collect::<Result<Vec<_>>>()?);
        }
        Ok(texts)
    }
}

/// Fails when rows are not all rows of a segment, from `first` on.
pub(super) fn check_positions(part: &Part, first: u64, positions: &[u64]) -> Result<()> {
    match positions.iter().copied().eq(first..first + positions.len() as u64) {
        true => Ok(()),
        false => Err(Error::internal(format!("segment {}: rows are not in their order", part.segment.id))),
    }
}

/// Indexes texts that were read by [`Source::texts`].
pub fn build_texts(texts: &[Vec<ArrayRef>], analyzer: &Analyzer) -> Result<Vec<u8>> {
    let fields = texts.first().map_or(0, Vec::len);
    let rows = texts.iter().flat_map(|columns| {
        let columns: Vec<_> = columns.iter().map(|column| column.as_string::<i64>()).collect();
        let rows = columns.first().map_or(0, |column| column.len());
        (0..rows).map(move |row| {
            columns.iter().map(|column| column.is_valid(row).then(|| column.value(row))).collect()
        })
    });
    build_text(fields, analyzer, rows)
}

/// Work that takes a while, off the async threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("a search was interrupted: {e}")))?
}
