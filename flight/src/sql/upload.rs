//! Record batches that clients send with `DoPut`: rows to ingest, and rows of statement parameters.

use std::future::ready;
use std::panic::AssertUnwindSafe;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use plexus_model::Result as PlexusResult;
use plexus_storage::ipc_check::MessageCheck;
use plexus_storage::rows_bytes;
use tonic::Status;

use crate::status::{from_status, to_status};

/// Limit on the parameters of one statement. They are held in memory until the last row has arrived.
const PARAMETER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The batches of a `DoPut` and their schema. `None` when the client sent no schema.
pub(crate) async fn uploaded_batches(
    mut data: PeekableFlightDataStream,
) -> Result<Option<(SchemaRef, BoxStream<'static, PlexusResult<RecordBatch>>)>, Status> {
    match data.peek().await {
        None => return Ok(None),
        Some(Err(e)) => return Err(e.clone()),
        Some(Ok(message)) if message.data_header.is_empty() => return Ok(None),
        Some(Ok(_)) => {}
    }
    let messages = with_certain_end(data);
    let mut check = MessageCheck::of_upload();
    let messages =
        messages.and_then(move |message| ready(check_message(&mut check, &message).map(|()| message)));
    let messages = messages.map_err(|e| FlightError::Tonic(Box::new(e)));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    // The decoder exposes the schema, which is the first message, once it has read the first batch or the
    // end.
    let first = AssertUnwindSafe(batches.next()).catch_unwind().await.map_err(|_| damaged())?;
    let first = first.transpose().map_err(upload_error)?;
    let Some(schema) = batches.schema().cloned() else {
        return Ok(None);
    };
    let rest = AssertUnwindSafe(batches).catch_unwind().map(|batch| match batch {
        Ok(batch) => batch.map_err(|e| from_status(&upload_error(e))),
        Err(_) => Err(from_status(&damaged())),
    });
    Ok(Some((schema, stream::iter(first.map(Ok)).chain(rest).boxed())))
}

/// The messages of an upload that the client has ended.
///
/// tonic takes an upload that the client cancelled for one that it ended, and the rows so far would pass for
/// all. The handler of a cancelled request is dropped as soon as it waits, so it waits once before the end
/// counts.
fn with_certain_end<T>(messages: impl Stream<Item = T>) -> impl Stream<Item = T> {
    messages.chain(stream::once(tokio::task::yield_now()).filter_map(|()| async { None }))
}

/// The checks refuse what the decoder is known to panic for. Should it panic all the same, the upload fails.
fn damaged() -> Status {
    Status::invalid_argument("decoding the uploaded rows: a message is damaged")
}

/// Checks what a message announces before the decoder allocates it.
fn check_message(check: &mut MessageCheck, data: &FlightData) -> Result<(), Status> {
    if data.data_header.is_empty() {
        return Ok(());
    }
    check
        .check(&data.data_header, &data.data_body)
        .map_err(|e| to_status(&e.context("decoding the uploaded rows")))
}

fn upload_error(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(format!("decoding the uploaded rows: {other}")),
    }
}

/// The parameter rows bound to a statement. `None` when the client bound none.
pub(crate) async fn collect_parameters(
    data: PeekableFlightDataStream,
) -> Result<Option<Vec<RecordBatch>>, Status> {
    let Some((schema, mut batches)) = uploaded_batches(data).await? else {
        return Ok(None);
    };
    if schema.fields().is_empty() {
        return Ok(None);
    }
    let (mut collected, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = batches.try_next().await.map_err(|e| to_status(&e))? {
        bytes += rows_bytes(&batch);
        if bytes > PARAMETER_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "more than {PARAMETER_BYTES_MAX} bytes of parameters: \
                 bind fewer rows at once, or use bulk ingest"
            )));
        }
        collected.push(batch);
    }
    Ok(Some(collected))
}
