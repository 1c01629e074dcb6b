//! From batches to the bytes of a file segment.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, StructArray, UInt64Array, make_array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use plexus_index::build_keys;
use plexus_model::{Error, FileData, Result, Statistics, TableSchema, VERSION_COLUMN, Version};
use vortex::VortexSessionDefault;
use vortex::array::IntoArray;
use vortex::array::arrays::ChunkedArray;
use vortex::array::dtype::FieldPath;
use vortex::arrow::ArrowSessionExt;
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

use crate::routing::Keys;
use crate::statistics::StatisticsBuilder;
use crate::types;

/// A segment that is ready to be sent to its replicas.
pub struct EncodedSegment {
    pub bytes: Bytes,
    pub data: FileData,
    pub rows: u64,
    pub statistics: Statistics,
}

/// Rows on their way into a segment.
#[derive(Default)]
pub struct Unencoded {
    pub batches: Vec<RecordBatch>,
    /// For rows of several commits: how many of each version, in the order of the rows. Otherwise empty.
    pub versions: Vec<(Version, usize)>,
}

impl From<Vec<RecordBatch>> for Unencoded {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { batches, versions: vec![] }
    }
}

/// Writes segments: a Vortex file, and after it the index of its primary keys if it has any.
#[derive(Clone, Copy, Default)]
pub struct SegmentEncoder;

impl SegmentEncoder {
    /// Encodes batches that have the columns of `schema` in order. Uses the calling thread alone and
    /// takes a while: call it off the async threads.
    pub fn encode(&self, schema: &TableSchema, rows: impl Into<Unencoded>) -> Result<EncodedSegment> {
        let Unencoded { batches, versions } = rows.into();
        let arrow_schema = types::to_arrow(schema);
        let key_index = if schema.has_key() { build_keys(&key_hashes(schema, &batches)?) } else { vec![] };
        let mut statistics = StatisticsBuilder::new(schema).counting();
        let mut rows = 0;
        for batch in &batches {
            assert_eq!(
                batch.schema().fields(),
                arrow_schema.fields(),
                "rows do not have the schema of their table"
            );
            statistics.add(batch);
            rows += batch.num_rows() as u64;
        }
        let runtime = CurrentThreadRuntime::new();
        let session = VortexSession::default().with_handle(runtime.handle());
        let fail = |e: VortexError| {
            Error::internal(format!("encoding a segment of {rows} rows: {e}")).with_source(e)
        };
        let stored = stored_schema(schema, !versions.is_empty());
        let dtype = session.arrow().from_arrow_schema(&stored).map_err(fail)?;
        let mut versions = version_values(&versions);
        let chunks = batches
            .into_iter()
            .map(|batch| {
                let batch = store(batch, &stored, &mut versions)?;
                session.arrow().from_arrow_record_batch(batch, &stored).map_err(fail)
            })
            .collect::<Result<Vec<_>>>()?;
        let array = ChunkedArray::try_new(chunks, dtype).map_err(fail)?.into_array();
        let mut bytes = Vec::new();
        session
            .write_options()
            // Bounds that prune whole segments are in the manifest; zones inside keep their own.
            .with_file_statistics(vec![])
            .with_strategy(strategy(&session, &stored))
            .blocking(&runtime)
            .write(&mut bytes, array.to_array_iterator())
            .map_err(fail)?;
        let column_bytes = bytes.len() as u64;
        bytes.extend_from_slice(&key_index);
        let checksum = *blake3::hash(&bytes).as_bytes();
        let data = FileData { bytes: bytes.len() as u64, checksum, column_bytes };
        Ok(EncodedSegment { bytes: bytes.into(), data, rows, statistics: statistics.finish() })
    }
}

/// How columns are written. Vectors are left as they are: they hardly get smaller, and are compared where they lie.
fn strategy(session: &VortexSession, stored: &Schema) -> Arc<dyn LayoutStrategy> {
    let blocks = RepartitionWriterOptions {
        block_size_minimum: VECTOR_BLOCK_BYTES,
        block_len_multiple: VECTOR_BLOCK_ROWS,
        block_size_target: Some(VECTOR_BLOCK_BYTES),
        canonicalize: true,
    };
    let plain = ChunkedLayoutStrategy::new(FlatLayoutStrategy::default());
    let plain: Arc<dyn LayoutStrategy> = Arc::new(RepartitionStrategy::new(plain, blocks));
    let mut builder = WriteStrategyBuilder::from_session(session);
    let vectors = stored.fields().iter().filter(|field| {
        matches!(field.data_type(), DataType::FixedSizeList(item, _) if item.data_type().is_floating())
    });
    for field in vectors {
        builder = builder.with_field_writer(FieldPath::from_name(field.name().as_str()), plain.clone());
    }
    builder.build()
}

/// What is read at least to read one vector.
const VECTOR_BLOCK_BYTES: u64 = 1024 * 1024;
const VECTOR_BLOCK_ROWS: usize = 64;

/// Hashes of the primary keys of all rows, in their order.
pub fn key_hashes(schema: &TableSchema, batches: &[RecordBatch]) -> Result<Vec<u64>> {
    let mut hashes = Vec::new();
    for batch in batches {
        hashes.extend(keys_of(schema, batch)?.hashes());
    }
    Ok(hashes)
}

/// The primary keys of rows that have all columns of the schema.
pub fn keys_of(schema: &TableSchema, batch: &RecordBatch) -> Result<Keys> {
    let key: Vec<ArrayRef> =
        schema.primary_key.iter().map(|&index| batch.column(index as usize).clone()).collect();
    Keys::new(&key)
}

fn stored_schema(schema: &TableSchema, versions: bool) -> SchemaRef {
    let stored = types::to_stored(schema);
    if !versions {
        return stored;
    }
    let mut fields: Vec<_> = stored.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(VERSION_COLUMN, DataType::UInt64, false)));
    Arc::new(Schema::new(fields))
}

/// The version of each row.
fn version_values(runs: &[(Version, usize)]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|(version, rows)| std::iter::repeat_n(version.0, *rows))
}

/// A batch under the names of the stored columns, with its versions if those have them.
fn store(
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
    RecordBatch::try_new(stored.clone(), columns.collect())
        .map_err(|e| Error::internal(format!("storing {rows} rows: {e}")).with_source(e))
}

/// The same values, as the format wants them: what is inside a null list or struct is nothing that anybody sees, and
/// may not be null where its own field is not.
fn without_masked_nulls(array: &ArrayRef, field: &Field) -> ArrayRef {
    let inside: ArrayRef = match field.data_type() {
        DataType::FixedSizeList(item, size) if *size > 0 => {
            let list = array.as_fixed_size_list();
            let values = masked(list.values(), item);
            Arc::new(FixedSizeListArray::new(item.clone(), *size, values, list.nulls().cloned()))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let (_, columns, nulls) = array.as_struct().clone().into_parts();
            let columns = columns.iter().zip(fields).map(|(column, field)| masked(column, field)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, nulls))
        }
        _ => return array.clone(),
    };
    inside
}

/// An array inside of another, without nulls if its field has none.
fn masked(array: &ArrayRef, field: &Field) -> ArrayRef {
    let array = without_masked_nulls(array, field);
    if field.is_nullable() || array.null_count() == 0 {
        return array;
    }
    let data = array.to_data().into_builder().nulls(None).null_count(0);
    // Only the mark goes; what was marked is a value like any other.
    data.build().map_or(array, make_array)
}
