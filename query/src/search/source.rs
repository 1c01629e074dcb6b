//! What a search reads: the segments that a version of a table sees, and of each its words and vectors.
//!
//! A segment whose index is a file is searched by that; one that has none yet, or is still in the log, by the same kind
//! of index made on the spot and kept for a while. So results never depend on what has been indexed.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::{DataType, Field};
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_index::text::{Analyzer, TextIndex, build_text};
use plexus_model::{Error, ErrorKind, Result, Rows, Segment, SegmentId, Table, Version};
use plexus_storage::{Pick, SegmentReads, SegmentRef, project};
use tokio::sync::OnceCell;

use crate::scan::ScanContext;

/// Bytes of indexes and vectors that a node keeps in memory, of each kind.
const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

type Kept<K, V> = Cache<K, Arc<OnceCell<V>>>;

/// What was read of segments, which never changes. Cheap to clone.
#[derive(Clone)]
pub struct SearchCaches {
    texts: Kept<TextKey, TextIndex>,
    vectors: Kept<(SegmentId, u32), Arc<Vectors>>,
    pub(super) filtered: Cache<super::filter::FilterKey, Arc<Rows>>,
}

type TextKey = (SegmentId, String, Vec<u32>);

impl Default for SearchCaches {
    fn default() -> Self {
        // Entries are made empty, so what they will weigh is not known: bounded by their number, and by what is about
        // the size of a segment for each.
        let entries = CACHE_BYTES_MAX / SEGMENT_BYTES;
        Self { texts: Cache::new(entries), vectors: Cache::new(entries), filtered: super::filter::cache() }
    }
}

/// About what a segment takes in memory.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How the words of some columns are found.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFields {
    /// Their ids.
    pub columns: Vec<u32>,
    pub analyzer: Analyzer,
    /// The index whose files can be used.
    pub index: Option<u32>,
}

/// The vectors of a segment.
pub struct Vectors {
    length: usize,
    values: Vec<f32>,
    /// Rows whose vector is null, or is nowhere since a component is no finite number.
    nulls: Rows,
}

impl Vectors {
    /// The vector of a row, if it has one.
    pub fn get(&self, row: u32) -> Option<&[f32]> {
        let start = row as usize * self.length;
        self.values.get(start..start + self.length).filter(|_| !self.nulls.contains(row))
    }

    pub fn rows(&self) -> u32 {
        (self.values.len() / self.length.max(1)) as u32
    }

    pub fn nulls(&self) -> &Rows {
        &self.nulls
    }
}

/// A segment and what of it a version does not see.
#[derive(Clone, Debug)]
pub struct Part {
    pub segment: Arc<Segment>,
    pub hidden: Arc<Rows>,
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
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("table", &self.table.name).field("version", &self.version).finish()
    }
}

impl Source {
    pub async fn open(table: Arc<Table>, version: Version, context: ScanContext) -> Result<Self> {
        let mut parts = Vec::new();
        for segment in table.visible(version) {
            let hidden = context.reads.hidden_rows(&table, segment, version).await;
            let hidden = hidden.map_err(|e| e.context(format!("segment {}", segment.id)))?;
            if hidden.len() < segment.rows {
                parts.push(Part { segment: segment.clone(), hidden });
            }
        }
        Ok(Self { table, version, context, parts: Arc::new(parts) })
    }

    pub fn reads(&self) -> &SegmentReads {
        &self.context.reads
    }

    fn column_place(&self, id: u32) -> Result<usize> {
        let place = self.table.schema.columns.iter().position(|c| c.id == id);
        place.ok_or_else(|| Error::internal(format!("table {} has no column {id}", self.table.name)))
    }

    /// The words of a segment.
    pub async fn text(&self, part: &Part, fields: &TextFields) -> Result<TextIndex> {
        let key = (part.segment.id, fields.analyzer.name().to_owned(), fields.columns.clone());
        let cell = self.context.caches.texts.get_with(key, Arc::default);
        let index = cell.get_or_try_init(|| async {
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
        });
        index.await.cloned()
    }

    async fn open_text(&self, file: &SegmentRef, part: &Part, fields: &TextFields) -> Result<TextIndex> {
        let bytes = self.reads().range(file, 0, file.data.bytes).await?;
        let index = TextIndex::open(bytes, &fields.analyzer)?;
        if u64::from(index.rows()) != part.segment.rows {
            return Err(Error::corrupt(format!("index {} is of {} rows", file.id, index.rows())));
        }
        Ok(index)
    }

    /// The texts of some columns, of all rows, also those that are hidden. Of each batch one array a column.
    pub async fn texts(&self, part: &Part, fields: &TextFields) -> Result<Vec<Vec<ArrayRef>>> {
        let places = fields.columns.iter().map(|id| self.column_place(*id)).collect::<Result<Vec<_>>>()?;
        let schema = project(&self.table.schema, &places);
        let all = Pick::Except(Arc::default());
        let mut rows = self.reads().scan(&self.table, &part.segment, &schema, all).await?;
        let mut texts = Vec::new();
        while let Some(found) = rows.try_next().await? {
            let columns = found.rows.columns().iter().map(|column| {
                compute::cast(column, &DataType::LargeUtf8)
                    .map_err(|e| Error::internal(format!("reading texts: {e}")).with_source(e))
            });
            texts.push(columns.collect::<Result<Vec<_>>>()?);
        }
        Ok(texts)
    }

    /// The vectors of a segment in a column.
    pub async fn vectors(&self, part: &Part, column: u32) -> Result<Arc<Vectors>> {
        let cell = self.context.caches.vectors.get_with((part.segment.id, column), Arc::default);
        let vectors = cell.get_or_try_init(|| async {
            let schema = project(&self.table.schema, &[self.column_place(column)?]);
            let length = schema.columns.first().and_then(|c| c.data_type.vector_length());
            let length = length.ok_or_else(|| Error::internal("a column of vectors that holds none"))?;
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            let wanted = DataType::FixedSizeList(item, length as i32);
            let all = Pick::Except(Arc::default());
            let mut rows = self.reads().scan(&self.table, &part.segment, &schema, all).await?;
            let length = length as usize;
            let mut values = Vec::with_capacity(part.segment.rows as usize * length);
            let mut nulls = Rows::new();
            while let Some(found) = rows.try_next().await? {
                let lists = compute::cast(found.rows.column(0), &wanted)
                    .map_err(|e| Error::internal(format!("reading vectors: {e}")).with_source(e))?;
                let lists = lists.as_fixed_size_list();
                let first = (values.len() / length.max(1)) as u32;
                let inner = lists.values().as_primitive::<Float32Type>();
                values.extend_from_slice(&inner.values()[..lists.len() * length]);
                nulls
                    .extend((0..lists.len()).filter(|row| lists.is_null(*row)).map(|row| first + row as u32));
                let nowhere = |at: &usize| inner.is_null(*at) || !inner.value(*at).is_finite();
                nulls.extend((0..inner.len()).filter(nowhere).map(|at| first + (at / length) as u32));
            }
            Ok::<_, Error>(Arc::new(Vectors { length, values, nulls }))
        });
        vectors.await.cloned()
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
