//! The vectors of a segment, and what leads to the nearest of them.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, FixedSizeListArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::{DataType, Field};
use futures::TryStreamExt;
use plexus_index::graph::{BuildOptions, Graph, build_graph};
use plexus_model::{
    ColumnType, Error, ErrorKind, IndexKind, Metric, Result, RowSelection, RowSet, Segment, SegmentId,
};
use plexus_storage::{SegmentRef, project};

use crate::search::snapshot::snapshot::{SearchSnapshot, SegmentView, blocking};
use crate::search::snapshot::texts::check_positions;

/// The vectors of a segment, all rows. Of a file on this node they are where they lie in it.
pub struct Vectors {
    length: usize,
    chunks: Vec<Chunk>,
    rows: u32,
    /// Rows whose vector, or a component of it, is null.
    nulls: RowSet,
    extent: OnceLock<Arc<Extent>>,
    /// What of it is in memory, and not in a file.
    bytes: usize,
}

pub struct Chunk {
    first: u32,
    values: ScalarBuffer<f32>,
}

/// Where vectors are.
pub struct Extent {
    /// Rows without a vector, or with one that is without_distance since a component is no finite number.
    pub without_distance: RowSet,
    /// The largest square of a length.
    pub largest_square: f32,
}

impl Extent {
    /// Whether all vectors have a finite distance from one, by the square of its length.
    pub fn is_near(&self, square: f32) -> bool {
        (f64::from(square) + f64::from(self.largest_square)) * 4.0 < f64::from(f32::MAX)
    }
}

impl Vectors {
    /// What is in the place of the vector of a row, which must be of the segment.
    fn place(&self, row: u32) -> &[f32] {
        let chunk = &self.chunks[self.chunks.partition_point(|chunk| chunk.first <= row) - 1];
        let start = (row - chunk.first) as usize * self.length;
        &chunk.values[start..start + self.length]
    }

    /// The vector of a row, if it has one.
    pub fn get(&self, row: u32) -> Option<&[f32]> {
        (row < self.rows && !self.nulls.contains(row)).then(|| self.place(row))
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes + self.chunks.len() * 64 + self.nulls.serialized_size() + 256
    }

    /// Where they are, from their graph if there is one: otherwise all are looked at, the first time.
    pub fn extent(&self, graph: Option<&Graph>) -> Arc<Extent> {
        let look = || {
            let mut extent = Extent { without_distance: self.nulls.clone(), largest_square: 0.0 };
            for chunk in &self.chunks {
                for (row, vector) in (chunk.first..).zip(chunk.values.chunks_exact(self.length.max(1))) {
                    let square = plexus_index::dot(vector, vector);
                    if !vector.iter().all(|x| x.is_finite()) {
                        extent.without_distance.insert(row);
                    } else if !self.nulls.contains(row) {
                        extent.largest_square = extent.largest_square.max(square);
                    }
                }
            }
            Arc::new(extent)
        };
        // What a graph knows is of its metric, and not kept: by another, zeros are somewhere.
        let known = |graph: &Graph| {
            Arc::new(Extent {
                without_distance: graph.rows_without_vector(),
                largest_square: graph.norm_squared_max(),
            })
        };
        graph.map_or_else(|| self.extent.get_or_init(look).clone(), known)
    }

    /// Makes the graph of those that are somewhere, but for zeros by the cosine, which have no direction. Where one is so
    /// long that distances overflow, it is empty: such a segment is looked at whole.
    pub fn build_graph(&self, metric: Metric) -> Result<Vec<u8>> {
        let extent = self.extent(None);
        let is_zero = |row: u32| metric == Metric::Cosine && self.place(row).iter().all(|x| *x == 0.0);
        let can_be = |row: &u32| !extent.without_distance.contains(*row) && !is_zero(*row);
        let rows: Vec<u32> = match extent.is_near(extent.largest_square) {
            true => (0..self.rows).filter(can_be).collect(),
            false => vec![],
        };
        let mut values = Vec::with_capacity(rows.len() * self.length);
        rows.iter().for_each(|row| values.extend_from_slice(self.place(*row)));
        build_graph(metric, self.length, values, &rows, self.rows, BuildOptions::default())
    }
}

/// A graph of vectors and the file that it is in.
#[derive(Clone)]
pub struct OpenGraph {
    pub file: SegmentId,
    pub graph: Arc<Graph>,
}

impl SearchSnapshot {
    /// The vectors of a segment in a column.
    pub async fn vectors(&self, view: &SegmentView, column: u32) -> Result<Arc<Vectors>> {
        let make = self.read_vectors(view, column);
        self.context.caches.vectors.get((view.segment.id, column, self.reads().lost_file_count()), make).await
    }

    pub async fn read_vectors(&self, view: &SegmentView, column: u32) -> Result<Arc<Vectors>> {
        let schema = project(&self.table.schema, &[self.column_place(column)?]);
        let length = schema.columns.first().and_then(|c| c.data_type.vector_dimensions());
        let length = length.ok_or_else(|| Error::internal("a column of vectors that holds none"))?;
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let wanted = DataType::FixedSizeList(item, length as i32);
        let all = RowSelection::all();
        // Others are converted, and may as well be read.
        let is_plain = matches!(schema.columns[0].data_type, ColumnType::FixedSizeList(ref item, _) if item.data_type == ColumnType::Float32);
        let reads = if is_plain { self.reads().memory_mapped() } else { self.reads().clone() };
        let mut batches = reads.scan(&self.table, &view.segment, &schema, all).await?;
        let file = SegmentRef::data_file(&self.table, &view.segment);
        let length = length as usize;
        let mut vectors = Vectors {
            length,
            chunks: vec![],
            rows: 0,
            nulls: RowSet::new(),
            extent: OnceLock::new(),
            bytes: 0,
        };
        while let Some(found) = batches.try_next().await? {
            check_positions(view, u64::from(vectors.rows), &found.positions)?;
            let lists = compute::cast(found.rows.column(0), &wanted)
                .map_err(|e| Error::internal(format!("reading vectors: {e}")).with_source(e))?;
            let lists = lists.as_fixed_size_list();
            let first = vectors.rows;
            vectors.nulls.extend(nulls(lists, length).map(|row| first + row as u32));
            let values = lists.values().as_primitive::<Float32Type>().values().clone();
            let is_mapped =
                file.as_ref().is_some_and(|file| reads.is_mapped(file, values.inner().as_slice()));
            vectors.bytes += if is_mapped { 0 } else { values.inner().len() };
            vectors.chunks.push(Chunk { first, values });
            vectors.rows += lists.len() as u32;
        }
        Ok(Arc::new(vectors))
    }

    /// The graph of the vectors of a segment, if it has one that can be read.
    pub async fn graph(&self, view: &SegmentView, column: u32, metric: Metric) -> Result<Option<OpenGraph>> {
        let wanted = IndexKind::Vector { column, metric };
        let definition = self.table.schema.indexes.iter().find(|index| index.kind == wanted);
        let file = definition.and_then(|d| SegmentRef::index_file(&self.table, &view.segment, d.id));
        let Some(file) = file else {
            return Ok(None);
        };
        let make = async {
            let reads = self.reads().memory_mapped();
            let bytes = reads.read_range(&file, 0, file.data.bytes).await?;
            let heap = if reads.is_mapped(&file, &bytes) { 0 } else { bytes.len() };
            // What a graph takes beside its file is decoded, which takes a while.
            let graph = blocking(move || Graph::open(bytes)).await?;
            let length = self.table.schema.columns[self.column_place(column)?].data_type.vector_dimensions();
            let suits = u64::from(graph.rows()) == view.segment.rows
                && graph.metric() == metric
                && length.is_some_and(|length| length as usize == graph.length());
            if !suits {
                return Err(Error::corrupt(format!("index {} is of other vectors", file.id)));
            }
            Ok((Arc::new(graph), heap))
        };
        match self.context.caches.graphs.get((file.id, self.reads().lost_file_count()), make).await {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                tracing::warn!(segment = %view.segment.id, error = %e, "a graph cannot be read; searching without");
                Ok(None)
            }
            graph => {
                graph.map(|(graph, _)| (!graph.is_empty()).then_some(OpenGraph { file: file.id, graph }))
            }
        }
    }
}

/// Whether a segment has a graph that a search of a column by a metric uses.
pub fn has_graph(table: &plexus_model::Table, segment: &Segment, column: u32, metric: Metric) -> bool {
    let wanted = IndexKind::Vector { column, metric };
    let definition = table.schema.indexes.iter().find(|index| index.kind == wanted);
    definition.is_some_and(|d| segment.indexes.iter().any(|index| index.index == d.id))
}

/// Places in a list that are null, or have a null component.
pub fn nulls(lists: &FixedSizeListArray, length: usize) -> impl Iterator<Item = usize> + '_ {
    let inner = lists.values();
    let count = if lists.null_count() + inner.null_count() > 0 { lists.len() } else { 0 };
    (0..count).filter(move |row| {
        lists.is_null(*row) || (row * length..(row + 1) * length).any(|at| inner.is_null(at))
    })
}
