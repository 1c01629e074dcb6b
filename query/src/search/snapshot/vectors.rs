//! The vectors of a segment and the graph over them.

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

use crate::search::snapshot::texts::check_positions;
use crate::search::snapshot::{SearchSnapshot, SegmentView, blocking};

/// The vectors of all rows of a segment. If the segment file is local, they stay in its memory-mapped pages.
pub struct Vectors {
    /// Number of dimensions.
    dimensions: usize,
    /// Consecutive ranges of rows, by their first row.
    chunks: Vec<Chunk>,
    rows: u32,
    /// Rows whose vector, or a component of it, is null.
    nulls: RowSet,
    /// Set when the vectors are first examined without a graph.
    extent: OnceLock<Arc<Extent>>,
    /// Bytes of vectors that are on the heap, not in a memory-mapped file.
    bytes: usize,
}

/// The vectors of a range of rows.
struct Chunk {
    first: u32,
    values: ScalarBuffer<f32>,
}

/// Properties of the vectors of a segment that decide whether distances are finite.
pub(crate) struct Extent {
    /// Rows without a vector, or whose vector has a component that is not finite.
    pub without_distance: RowSet,
    /// The largest squared norm of a vector.
    pub norm_squared_max: f32,
}

impl Extent {
    /// Whether no distance from a vector with this squared norm overflows `f32`.
    pub(crate) fn has_finite_distances(&self, norm_squared: f32) -> bool {
        (f64::from(norm_squared) + f64::from(self.norm_squared_max)) * 4.0 < f64::from(f32::MAX)
    }
}

impl Vectors {
    /// The components stored for a row, which must be in the segment. They are arbitrary if the row has no
    /// vector.
    fn components(&self, row: u32) -> &[f32] {
        let chunk = &self.chunks[self.chunks.partition_point(|chunk| chunk.first <= row) - 1];
        let start = (row - chunk.first) as usize * self.dimensions;
        &chunk.values[start..start + self.dimensions]
    }

    /// The vector of a row, if it has one.
    pub(crate) fn get(&self, row: u32) -> Option<&[f32]> {
        (row < self.rows && !self.nulls.contains(row)).then(|| self.components(row))
    }

    /// Number of rows in the segment.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Memory that the vectors take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.chunks.len() * 64 + self.nulls.serialized_size() + 256
    }

    /// The extent of the vectors, from their graph if there is one. Otherwise the first call examines all
    /// vectors.
    pub(crate) fn extent(&self, graph: Option<&Graph>) -> Arc<Extent> {
        let examine = || {
            let mut extent = Extent { without_distance: self.nulls.clone(), norm_squared_max: 0.0 };
            for chunk in &self.chunks {
                for (row, vector) in (chunk.first..).zip(chunk.values.chunks_exact(self.dimensions.max(1))) {
                    let norm_squared = plexus_index::dot(vector, vector);
                    if !vector.iter().all(|x| x.is_finite()) {
                        extent.without_distance.insert(row);
                    } else if !self.nulls.contains(row) {
                        extent.norm_squared_max = extent.norm_squared_max.max(norm_squared);
                    }
                }
            }
            Arc::new(extent)
        };
        // The extent of a graph is not cached, since it depends on the metric: with the cosine metric, zero
        // vectors are not in the graph.
        let known = |graph: &Graph| {
            Arc::new(Extent {
                without_distance: graph.rows_without_vector(),
                norm_squared_max: graph.norm_squared_max(),
            })
        };
        graph.map_or_else(|| self.extent.get_or_init(examine).clone(), known)
    }

    /// Builds the graph of the vectors for a metric. Returns the bytes of an index file.
    ///
    /// Rows without a finite distance are left out, and with the cosine metric also zero vectors, which have
    /// no direction. If distances between vectors of the segment can overflow, the graph is empty and the
    /// segment is searched by brute force.
    ///
    /// # Errors
    /// When the graph cannot be built.
    pub fn build_graph(&self, metric: Metric) -> Result<Vec<u8>> {
        let extent = self.extent(None);
        let is_zero = |row: u32| metric == Metric::Cosine && self.components(row).iter().all(|x| *x == 0.0);
        let is_included = |row: &u32| !extent.without_distance.contains(*row) && !is_zero(*row);
        let rows: Vec<u32> = match extent.has_finite_distances(extent.norm_squared_max) {
            true => (0..self.rows).filter(is_included).collect(),
            false => vec![],
        };
        let mut values = Vec::with_capacity(rows.len() * self.dimensions);
        rows.iter().for_each(|row| values.extend_from_slice(self.components(*row)));
        build_graph(metric, self.dimensions, values, &rows, self.rows, BuildOptions::default())
    }
}

/// A graph over vectors and the id of its file.
#[derive(Clone)]
pub(crate) struct OpenGraph {
    pub file: SegmentId,
    pub graph: Arc<Graph>,
}

impl SearchSnapshot {
    /// The vectors of a segment in the column with this id. They are cached.
    ///
    /// # Errors
    /// When the segment cannot be read.
    pub async fn vectors(&self, view: &SegmentView, column: u32) -> Result<Arc<Vectors>> {
        let make = self.read_vectors(view, column);
        self.context.caches.vectors.get((view.segment.id, column, self.reads().lost_file_count()), make).await
    }

    /// Reads the vectors of a segment.
    async fn read_vectors(&self, view: &SegmentView, column: u32) -> Result<Arc<Vectors>> {
        let schema = project(&self.table.schema, &[self.column_position(column)?]);
        let dimensions = schema.columns.first().and_then(|c| c.data_type.vector_dimensions());
        let dimensions = dimensions.ok_or_else(|| Error::internal("the column does not hold vectors"))?;
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let wanted = DataType::FixedSizeList(item, dimensions as i32);
        let all = RowSelection::all();
        // Vectors with other components are converted, so memory-mapping them gains nothing.
        let is_plain = match &schema.columns[0].data_type {
            ColumnType::FixedSizeList(item, _) => item.data_type == ColumnType::Float32,
            _ => false,
        };
        let reads = if is_plain { self.reads().memory_mapped() } else { self.reads().clone() };
        let mut batches = reads.scan(&self.table, &view.segment, &schema, all).await?;
        let file = SegmentRef::data_file(&self.table, &view.segment);
        let dimensions = dimensions as usize;
        let mut vectors = Vectors {
            dimensions,
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
            vectors.nulls.extend(nulls(lists, dimensions).map(|row| first + row as u32));
            let values = lists.values().as_primitive::<Float32Type>().values().clone();
            let is_mapped =
                file.as_ref().is_some_and(|file| reads.is_mapped(file, values.inner().as_slice()));
            vectors.bytes += if is_mapped { 0 } else { values.inner().len() };
            vectors.chunks.push(Chunk { first, values });
            vectors.rows += lists.len() as u32;
        }
        Ok(Arc::new(vectors))
    }

    /// The graph over the vectors of a segment for a metric. `None` if there is none, or it is empty or
    /// cannot be read.
    ///
    /// # Errors
    /// When the graph cannot be opened for another reason than a damaged or unavailable file.
    pub(crate) async fn graph(
        &self,
        view: &SegmentView,
        column: u32,
        metric: Metric,
    ) -> Result<Option<OpenGraph>> {
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
            // Opening decodes parts of the file, which takes a while.
            let graph = blocking(move || Graph::open(bytes)).await?;
            let dimensions =
                self.table.schema.columns[self.column_position(column)?].data_type.vector_dimensions();
            let suits = u64::from(graph.rows()) == view.segment.rows
                && graph.metric() == metric
                && dimensions.is_some_and(|dimensions| dimensions as usize == graph.dimensions());
            if !suits {
                return Err(Error::corrupt(format!(
                    "index {} does not fit the vectors of its segment",
                    file.id
                )));
            }
            Ok((Arc::new(graph), heap))
        };
        match self.context.caches.graphs.get((file.id, self.reads().lost_file_count()), make).await {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                tracing::warn!(
                    segment = %view.segment.id,
                    error = %e,
                    "a vector index cannot be read; searching without it"
                );
                Ok(None)
            }
            graph => {
                graph.map(|(graph, _)| (!graph.is_empty()).then_some(OpenGraph { file: file.id, graph }))
            }
        }
    }
}

/// Whether a segment has a graph that a search of a column by this metric uses.
pub(crate) fn has_graph(table: &plexus_model::Table, segment: &Segment, column: u32, metric: Metric) -> bool {
    let wanted = IndexKind::Vector { column, metric };
    let definition = table.schema.indexes.iter().find(|index| index.kind == wanted);
    definition.is_some_and(|d| segment.indexes.iter().any(|index| index.index == d.id))
}

/// Positions in a list array whose vector, or a component of it, is null.
fn nulls(lists: &FixedSizeListArray, dimensions: usize) -> impl Iterator<Item = usize> + '_ {
    let inner = lists.values();
    let count = if lists.null_count() + inner.null_count() > 0 { lists.len() } else { 0 };
    (0..count).filter(move |row| {
        lists.is_null(*row) || (row * dimensions..(row + 1) * dimensions).any(|at| inner.is_null(at))
    })
}
