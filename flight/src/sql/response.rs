//! Building blocks of Flight responses: FlightInfos, tickets and encoded schemas.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_flight::sql::{Any, CommandPreparedStatementQuery, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::BoxStream;
use plexus_coordinator::RowStream;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::sql::encode::encode_rows;

/// The messages of a `DoGet` response.
pub(crate) type DataStream = BoxStream<'static, Result<FlightData, Status>>;

/// The `DoGet` ticket of a statement.
pub(crate) fn statement_ticket(statement_handle: Bytes) -> Any {
    TicketStatementQuery { statement_handle }.as_any()
}

/// The `DoGet` ticket of a prepared statement.
pub(crate) fn prepared_ticket(prepared_statement_handle: Bytes) -> Any {
    CommandPreparedStatementQuery { prepared_statement_handle }.as_any()
}

/// A FlightInfo with one endpoint and no location, which means: redeem the ticket on the same connection.
pub(crate) fn flight_info(
    schema: &Schema,
    ticket: Any,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|e| Status::internal(format!("encoding the schema of a result: {e}")))?;
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.encode_to_vec()));
    Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
}

/// The FlightInfo of a metadata command. The command itself is the ticket.
pub(crate) fn metadata_info<M: ProstMessageExt>(
    schema: &Schema,
    command: M,
    request: Request<FlightDescriptor>,
) -> Result<Response<FlightInfo>, Status> {
    Ok(Response::new(flight_info(schema, command.as_any(), request.into_inner())?))
}

/// A `DoGet` response with the rows of one metadata batch.
pub(crate) fn metadata_rows(
    batch: Result<RecordBatch, impl std::fmt::Display>,
) -> Result<Response<DataStream>, Status> {
    let batch = batch.map_err(|e| Status::internal(format!("metadata: {e}")))?;
    Ok(Response::new(encode_rows(RowStream::from_batches(batch.schema(), vec![batch]), false)))
}

/// A `DoGet` response without rows.
pub(crate) fn no_rows(schema: SchemaRef) -> Result<Response<DataStream>, Status> {
    Ok(Response::new(encode_rows(RowStream::from_batches(schema, vec![]), false)))
}

/// A schema as the IPC message that Flight SQL puts into prepared statement results.
pub(crate) fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|e: ArrowError| Status::internal(e.to_string()))?;
    Ok(bytes)
}
