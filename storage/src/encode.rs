//! Encoding of batches as the bytes of a file segment.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, StructArray, UInt64Array, make_array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use plexus_index::build_key_index;
use plexus_model::{Error, FileData, Result, Statistics, TableSchema, VERSION_COLUMN, Version};
use vortex::VortexSessionDefault;
use vortex::array::IntoArray;
use vortex::array::arrays::ChunkedArray;
use vortex::array::dtype::FieldPath;
use vortex::arrow::ArrowSessionExt;
use vortex::compressor::BtrBlocksCompressorBuilder;
use vortex::error::VortexError;
use vortex::file::{WriteOptionsSessionExt, WriteStrategyBuilder};
use vortex::io::runtime::BlockingRuntime;
use vortex::io::runtime::current::CurrentThreadRuntime;
use vortex::io::session::RuntimeSessionExt;
use vortex::layout::LayoutStrategy;
use vortex::layout::layouts::chunked::writer::ChunkedLayoutStrategy;
use vortex::layout::layouts::flat::writer::FlatLayoutStrategy;
use vortex::layout::layouts::repartition::{RepartitionStrategy, RepartitionWriterOptions};
use vortex::session::VortexSession;
use vortex_btrblocks::SchemeExt;
use vortex_btrblocks::schemes::temporal::TemporalScheme;

use crate::routing::CanonicalKeys;
use crate::size::array_bytes;
use crate::statistics::StatisticsBuilder;
use crate::types;

/// An encoded segment, ready to be sent to its replicas.
pub struct EncodedSegment {
    /// The content of the file.
    pub bytes: Bytes,
    /// Size and checksum of the file.
    pub data: FileData,
    /// Number of rows.
    pub rows: u64,
    /// Statistics of the columns.
    pub statistics: Statistics,
}

/// The rows to encode as one segment.
#[derive(Default)]
pub struct SegmentRows {
    /// The rows, with the columns of the table schema in order.
    pub batches: Vec<RecordBatch>,
    /// For rows of several commits, as in a flush: runs of rows with the version that wrote them, in row
    /// order. Empty when the segment needs no version column.
    pub versions: Vec<(Version, usize)>,
}

impl From<Vec<RecordBatch>> for SegmentRows {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { batches, versions: vec![] }
    }
}

/// Encodes segments: a Vortex file, followed by the index of the primary keys if the table has a key.
#[derive(Clone, Copy, Default)]
pub struct SegmentEncoder;

impl SegmentEncoder {
    /// Encodes rows that have the columns of `schema` in order. Uses only the calling thread and takes up to
    /// seconds: do not call it on an async thread.
    ///
    /// # Errors
    /// `Internal` when Vortex cannot encode the rows. `Unsupported` when a key column has no canonical form.
    ///
    /// # Panics
    /// When a batch does not have the columns of `schema`.
    pub fn encode(&self, schema: &TableSchema, rows: impl Into<SegmentRows>) -> Result<EncodedSegment> {
        let SegmentRows { batches, versions } = rows.into();
        let arrow_schema = types::to_arrow(schema);
        let key_index =
            if schema.has_key() { build_key_index(&key_hashes(schema, &batches)?) } else { vec![] };
        let block_rows = block_rows(&batches);
        let mut statistics = StatisticsBuilder::new(schema).with_distinct();
        let mut rows = 0;
        for batch in &batches {
            assert_eq!(
                batch.schema().fields(),
                arrow_schema.fields(),
                "a batch does not have the schema of its table"
            );
            statistics.add(batch);
            rows += batch.num_rows() as u64;
        }
        let runtime = CurrentThreadRuntime::new();
        let session = VortexSession::default().with_handle(runtime.handle());
        let encode_error = |e: VortexError| {
            Error::internal(format!("encoding a segment of {rows} rows: {e}")).with_source(e)
        };
        let stored = stored_schema(schema, !versions.is_empty());
        let dtype = session.arrow().from_arrow_schema(&stored).map_err(encode_error)?;
        let mut versions = version_values(&versions);
        let chunks = batches
            .into_iter()
            .map(|batch| {
                let batch = to_stored(batch, &stored, &mut versions)?;
                session.arrow().from_arrow_record_batch(batch, &stored).map_err(encode_error)
            })
            .collect::<Result<Vec<_>>>()?;
        let array = ChunkedArray::try_new(chunks, dtype).map_err(encode_error)?.into_array();
        let mut bytes = Vec::new();
        session
            .write_options()
            // The manifest has the bounds that prune whole segments. The zones in the file have their own.
            .with_file_statistics(vec![])
            .with_strategy(write_strategy(&session, &stored, block_rows))
            .blocking(&runtime)
            .write(&mut bytes, array.to_array_iterator())
            .map_err(encode_error)?;
        let column_bytes = bytes.len() as u64;
        bytes.extend_from_slice(&key_index);
        let checksum = *blake3::hash(&bytes).as_bytes();
        let data = FileData { bytes: bytes.len() as u64, checksum, column_bytes };
        Ok(EncodedSegment { bytes: bytes.into(), data, rows, statistics: statistics.finish() })
    }
}

/// Rows of a block of most columns at most. A block is read and decoded at once.
const BLOCK_ROWS_MAX: usize = 8_192;
/// Bounds are kept for each block, so that it has at least so many rows.
const BLOCK_ROWS_MIN: usize = 32;
/// Bytes of a block of wide rows, about.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Encodings take so many rows at a time.
const ENCODED_ROWS: usize = 1_024;

/// How many rows a block has, by the size of the row in which the average byte is. Wide rows in some of the
/// batches make blocks smaller as far as they make up the segment.
fn block_rows(batches: &[RecordBatch]) -> usize {
    let (mut bytes, mut weighted) = (0.0, 0.0);
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let of_batch = bytes_without_vectors(batch) as f64;
        bytes += of_batch;
        weighted += of_batch * of_batch / batch.num_rows() as f64;
    }
    let row_bytes = if bytes > 0.0 { weighted / bytes } else { 0.0 };
    let rows = (BLOCK_BYTES as f64 / row_bytes) as usize;
    let rows = rows.clamp(BLOCK_ROWS_MIN, BLOCK_ROWS_MAX);
    if rows > ENCODED_ROWS { rows / ENCODED_ROWS * ENCODED_ROWS } else { rows }
}

/// The size of rows without their vectors, which have their own blocks.
fn bytes_without_vectors(batch: &RecordBatch) -> usize {
    let is_vector = |array: &&ArrayRef| matches!(array.data_type(), DataType::FixedSizeList(..));
    batch.columns().iter().filter(|array| !is_vector(array)).map(array_bytes).sum()
}

/// How columns are written. Vector columns are not compressed: compression saves little, and plain vectors
/// can be compared in a memory-mapped file without decoding.
fn write_strategy(session: &VortexSession, stored: &Schema, block_rows: usize) -> Arc<dyn LayoutStrategy> {
    let blocks = RepartitionWriterOptions {
        block_size_minimum: VECTOR_BLOCK_BYTES,
        block_len_multiple: VECTOR_BLOCK_ROWS,
        block_size_target: Some(VECTOR_BLOCK_BYTES),
        canonicalize: true,
    };
    let plain = ChunkedLayoutStrategy::new(FlatLayoutStrategy::default());
    let plain: Arc<dyn LayoutStrategy> = Arc::new(RepartitionStrategy::new(plain, blocks));
    // The format fails when it compares timestamps that it split into days and seconds with some constants.
    let compressor = BtrBlocksCompressorBuilder::from_session(session);
    let compressor = compressor.exclude_schemes([TemporalScheme.id()]);
    let mut builder = WriteStrategyBuilder::from_session(session).with_btrblocks_builder(compressor);
    builder = builder.with_row_block_size(block_rows);
    let vectors = stored.fields().iter().filter(|field| {
        matches!(field.data_type(), DataType::FixedSizeList(item, _) if item.data_type().is_floating())
    });
    for field in vectors {
        builder = builder.with_field_writer(FieldPath::from_name(field.name().as_str()), plain.clone());
    }
    builder.build()
}

/// Size of a block of a vector column in bytes. Reading one vector that is not memory-mapped reads its block.
const VECTOR_BLOCK_BYTES: u64 = 1024 * 1024;
/// The number of rows of a block is a multiple of this.
const VECTOR_BLOCK_ROWS: usize = 64;

/// Hashes of the primary keys of all rows, in row order.
fn key_hashes(schema: &TableSchema, batches: &[RecordBatch]) -> Result<Vec<u64>> {
    let mut hashes = Vec::new();
    for batch in batches {
        hashes.extend(primary_keys(schema, batch)?.hashes());
    }
    Ok(hashes)
}

/// The primary keys of the rows of a batch that has all columns of the schema.
///
/// # Errors
/// `Unsupported` when a key column has no canonical form.
pub fn primary_keys(schema: &TableSchema, batch: &RecordBatch) -> Result<CanonicalKeys> {
    let key: Vec<ArrayRef> =
        schema.primary_key.iter().map(|&index| batch.column(index as usize).clone()).collect();
    CanonicalKeys::new(&key)
}

/// The Arrow schema of the file. `with_versions` adds the column with the version of each row.
fn stored_schema(schema: &TableSchema, with_versions: bool) -> SchemaRef {
    let stored = types::to_stored(schema);
    if !with_versions {
        return stored;
    }
    let mut fields: Vec<_> = stored.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(VERSION_COLUMN, DataType::UInt64, false)));
    Arc::new(Schema::new(fields))
}

/// Expands runs of versions to the version of each row.
fn version_values(runs: &[(Version, usize)]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|(version, rows)| std::iter::repeat_n(version.0, *rows))
}

/// Converts a batch to the schema of the file, and adds the versions of its rows if the schema has a version
/// column.
fn to_stored(
    batch: RecordBatch,
    stored: &SchemaRef,
    versions: &mut impl Iterator<Item = u64>,
) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let (_, mut columns, _) = batch.into_parts();
    if stored.fields().len() > columns.len() {
        columns.push(Arc::new(versions.take(rows).collect::<UInt64Array>()));
    }
    let columns =
        columns.iter().zip(stored.fields()).map(|(array, field)| without_masked_nulls(array, field));
    RecordBatch::try_new(stored.clone(), columns.collect()).map_err(|e| {
        Error::internal(format!("converting {rows} rows to the schema of the file: {e}")).with_source(e)
    })
}

/// Removes nulls that Vortex rejects: children of a null list or struct may be null in Arrow even though
/// their field is not nullable. The null parent masks them, so their values do not matter.
fn without_masked_nulls(array: &ArrayRef, field: &Field) -> ArrayRef {
    match field.data_type() {
        DataType::FixedSizeList(item, size) if *size > 0 => {
            let list = array.as_fixed_size_list();
            let values = non_null_child(list.values(), item);
            Arc::new(FixedSizeListArray::new(item.clone(), *size, values, list.nulls().cloned()))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let (_, columns, nulls) = array.as_struct().clone().into_parts();
            let columns =
                columns.iter().zip(fields).map(|(column, field)| non_null_child(column, field)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, nulls))
        }
        _ => array.clone(),
    }
}

/// A child array, without nulls if its field is not nullable.
fn non_null_child(array: &ArrayRef, field: &Field) -> ArrayRef {
    let array = without_masked_nulls(array, field);
    if field.is_nullable() || array.null_count() == 0 {
        return array;
    }
    let data = array.to_data().into_builder().nulls(None).null_count(0);
    // Dropping the validity mask keeps the placeholder values, which are valid values of the type.
    data.build().map_or(array, make_array)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn blocks_of_wide_rows_have_about_the_same_size() {
        let batch = |rows: usize, bytes: usize| {
            let texts = StringArray::from(vec!["x".repeat(bytes); rows]);
            RecordBatch::try_from_iter([("s", Arc::new(texts) as ArrayRef)]).unwrap()
        };
        assert_eq!(block_rows(&[]), BLOCK_ROWS_MAX);
        for (bytes, expected) in [(0, 8_192), (400, 8_192), (800, 5_120), (4_000, 1_024), (400_000, 32)] {
            assert_eq!(block_rows(&[batch(10, bytes)]), expected, "{bytes}");
        }
        // Wide rows count for what they make up.
        assert_eq!(block_rows(&[batch(1_000_000, 1), batch(1, 40_000)]), 8_192);
        assert_eq!(block_rows(&[batch(1_000, 1), batch(100, 40_000)]), 104);
    }
}
