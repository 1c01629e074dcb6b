//! Encodes result rows as Flight messages that every client can receive.
//!
//! Most gRPC clients refuse messages above 4 MiB, and throughput is best around 2 MiB. The encoder of
//! `arrow-flight` treats its size limit as a hint, so this one measures each encoded message and splits those
//! that are too large. Dictionaries are sent as their values. Views of strings and lists are sent as plain
//! arrays unless the session asks for views, because older clients support neither.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::error::ArrowError;
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use plexus_coordinator::RowStream;
use plexus_model::Error;
use prost::Message;
use tonic::Status;

use crate::status::to_status;

/// Size at which batches are cut into messages.
const MESSAGE_BYTES_TARGET: usize = 2 * 1024 * 1024;
/// Largest message that holds more than one row. A single larger row is sent anyway, since rows cannot be
/// split.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Least number of rows to try per message, however wide they seem: the size estimate is too large for slices
/// of nested types. Fewer where they would seem to take more than [`TRIED_BYTES_MAX`].
const ROWS_MIN: usize = 256;
const TRIED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest row: a message is made as a whole.
const ROW_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The schema of rows on the wire: without dictionaries and, unless `views` is set, without views. Columns
/// are nullable, so that a description and the rows that follow it always agree.
pub(crate) fn wire_schema(schema: &Schema, views: bool) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|f| wire_field(f, views).as_ref().clone()).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The schema with nullable columns, so that the description of a statement and its rows always agree.
pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<Field>>(), schema.metadata().clone()))
}

fn wire_field(field: &FieldRef, views: bool) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(wire_type(field.data_type(), views)))
}

fn wire_type(t: &DataType, views: bool) -> DataType {
    match t {
        DataType::Dictionary(_, values) => wire_type(values, views),
        DataType::Utf8View if !views => DataType::Utf8,
        DataType::BinaryView if !views => DataType::Binary,
        DataType::ListView(item) if !views => DataType::List(wire_field(item, views)),
        DataType::LargeListView(item) if !views => DataType::LargeList(wire_field(item, views)),
        DataType::List(item) => DataType::List(wire_field(item, views)),
        DataType::LargeList(item) => DataType::LargeList(wire_field(item, views)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(wire_field(item, views), *length),
        DataType::Map(entries, sorted) => DataType::Map(wire_field(entries, views), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| wire_field(f, views)).collect()),
        other => other.clone(),
    }
}

/// The messages of a result: its schema, then its rows.
pub(crate) fn encode_rows(rows: RowStream, views: bool) -> BoxStream<'static, Result<FlightData, Status>> {
    let schema = wire_schema(&rows.schema, views);
    let mut encoder = Encoder::new(schema);
    let first = encoder.schema_message();
    // A query that panics is an error like another; without this, the client would see a broken connection.
    let batches = AssertUnwindSafe(rows.stream).catch_unwind();
    let data = batches
        .map(|batch| batch.unwrap_or_else(|_| Err(Error::internal("the query failed unexpectedly"))))
        .map_err(|e| to_status(&e))
        .map_ok(|batch| stream::iter(slices(&batch).into_iter().map(Ok::<_, Status>)))
        .try_flatten()
        .map(move |slice| {
            let (slice, mut messages) = (slice?, VecDeque::new());
            check_row(&slice).map_err(|e| to_status(&e))?;
            encoder
                .encode(&slice, &mut messages)
                .map_err(|e| to_status(&Error::internal(format!("encoding a result: {e}"))))?;
            Ok::<_, Status>(stream::iter(messages.into_iter().map(Ok)))
        })
        .try_flatten();
    stream::once(async { Ok(first) }).chain(data).boxed()
}

/// Parts of a batch that should fit into a message each. They are encoded one by one, since their values may
/// share memory until then.
fn slices(batch: &RecordBatch) -> Vec<RecordBatch> {
    let (rows, bytes) = (batch.num_rows(), plexus_storage::rows_bytes(batch));
    let fitting = |target: usize| match bytes <= target {
        true => rows,
        false => (rows as u128 * target as u128 / bytes as u128) as usize,
    };
    let least = ROWS_MIN.min(fitting(TRIED_BYTES_MAX)).max(1);
    let step = fitting(MESSAGE_BYTES_TARGET).max(least);
    (0..rows).step_by(step).map(|start| batch.slice(start, step.min(rows - start))).collect()
}

/// Fails for a row that is too large to be sent.
fn check_row(slice: &RecordBatch) -> plexus_model::Result<()> {
    let bytes = if slice.num_rows() == 1 { plexus_storage::rows_bytes(slice) } else { 0 };
    match bytes > ROW_BYTES_MAX {
        true => Err(Error::exhausted(format!(
            "a row of the result takes {bytes} bytes: at most {ROW_BYTES_MAX} can be sent"
        ))),
        false => Ok(()),
    }
}

struct Encoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            options: IpcWriteOptions::default(),
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            context: IpcWriteContext::default(),
        }
    }

    fn schema_message(&self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &self.options).into()
    }

    fn encode(&mut self, batch: &RecordBatch, out: &mut VecDeque<FlightData>) -> Result<(), ArrowError> {
        // A stack of slices still to encode, the next one on top. A slice that encodes too large is halved.
        let mut slices = vec![(0, batch.num_rows())];
        while let Some((start, length)) = slices.pop() {
            let message = self.message(&batch.slice(start, length))?;
            if message.encoded_len() > MESSAGE_BYTES_MAX && length > 1 {
                let half = length / 2;
                slices.push((start + half, length - half));
                slices.push((start, half));
            } else {
                out.push_back(message);
            }
        }
        Ok(())
    }

    fn message(&mut self, slice: &RecordBatch) -> Result<FlightData, ArrowError> {
        let columns = slice
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                let column = compact(column);
                if column.data_type() == field.data_type() {
                    Ok(column)
                } else {
                    cast(&column, field.data_type())
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(slice.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let (dictionaries, data) =
            self.generator.encode(&batch, &mut self.dictionaries, &self.options, &mut self.context)?;
        assert!(dictionaries.is_empty(), "the wire schema has no dictionaries");
        Ok(data.into())
    }
}

/// Copies views into buffers of their own. A slice of views would otherwise send all the data of its batch.
fn compact(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn every_message_is_below_the_limit_and_all_rows_arrive() {
        // A few wide rows among narrow ones defeat any estimate from the average row size.
        let wide = "x".repeat(3 * 1024 * 1024);
        let values: Vec<&str> =
            (0..2_000).map(|i| if i % 700 == 350 { wide.as_str() } else { "narrow" }).collect();
        let array: ArrayRef = Arc::new(StringViewArray::from_iter_values(values.iter()));
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Utf8View, false)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
        for views in [false, true] {
            let rows = RowStream::from_batches(schema.clone(), vec![batch.clone()]);
            let messages: Vec<FlightData> = encode_rows(rows, views).try_collect().await.unwrap();
            assert!(messages.iter().all(|m| m.encoded_len() < 4 * 1024 * 1024));
            let decoded = arrow_flight::utils::flight_data_to_batches(&messages).unwrap();
            assert_eq!(decoded.iter().map(|b| b.num_rows()).sum::<usize>(), values.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn rows_round_trip_in_small_messages(
            lengths in proptest::collection::vec(proptest::option::of(0usize..400_000), 0..40),
            batches in 1usize..4,
        ) {
            let values: Vec<Option<String>> = lengths.iter().map(|l| l.map(|l| "x".repeat(l))).collect();
            let array: ArrayRef = Arc::new(StringViewArray::from_iter(values.iter().map(|v| v.as_deref())));
            let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Utf8View, true)]));
            let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
            let rows = RowStream::from_batches(schema, vec![batch; batches]);
            let messages: Vec<FlightData> =
                futures::executor::block_on(encode_rows(rows, false).try_collect()).unwrap();
            prop_assert!(messages.iter().all(|m| m.encoded_len() < 4 * 1024 * 1024));
            let mut found = Vec::new();
            for batch in arrow_flight::utils::flight_data_to_batches(&messages).unwrap() {
                let texts = batch.column(0).as_string::<i32>();
                found.extend(texts.iter().map(|t| t.map(str::len)));
            }
            prop_assert_eq!(found, lengths.repeat(batches));
        }
    }
}
