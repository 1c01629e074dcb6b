//! The Flight service on the client port.
//!
//! The Flight SQL layer of `arrow-flight` covers the Flight SQL commands only. This service adds what it
//! leaves out: listing of flights, schemas of descriptors, session options, and tickets of plain Flight
//! clients that are just table names. Everything else is passed to [`SqlService`].

use std::sync::Arc;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::Any;
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, Criteria, Empty, FlightData,
    FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo, PutResult,
    RenewFlightEndpointRequest, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream};
use plexus_storage::types;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::sql::encode::{nullable, wire_schema};
use crate::sql::options::{
    CLOSED, CloseSessionResult, GetSessionOptionsResult, INVALID_NAME, INVALID_VALUE, SessionOptionError,
    SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};
use crate::sql::response::{flight_info, statement_ticket};
use crate::sql::seal::Seal;
use crate::sql::server::SqlService;
use crate::sql::statements::select_all;
use crate::sql::tickets::StatementHandle;
use crate::status::to_status;
use crate::whole_messages::MESSAGE_BYTES_MAX;

type Streamed<T> = BoxStream<'static, Result<T, Status>>;

/// Supported actions and their descriptions, as `ListActions` reports them.
const ACTIONS: [(&str, &str); 10] = [
    ("CreatePreparedStatement", "Creates a reusable prepared statement"),
    ("ClosePreparedStatement", "Closes a prepared statement"),
    ("BeginTransaction", "Begins a transaction"),
    ("EndTransaction", "Commits a transaction or rolls it back"),
    ("SetSessionOptions", "Sets options of the session"),
    ("GetSessionOptions", "Returns the options of the session"),
    ("CloseSession", "Ends the session"),
    ("CancelFlightInfo", "Ends a query by its FlightInfo"),
    ("CancelQuery", "Ends a query by its FlightInfo; the older form"),
    ("RenewFlightEndpoint", "Returns the endpoint unchanged, since tickets do not expire"),
];

/// The Flight service that clients connect to.
pub struct ClientService {
    sql: Arc<SqlService>,
}

impl ClientService {
    /// Wraps a Flight SQL service.
    pub fn new(sql: SqlService) -> Self {
        Self { sql: Arc::new(sql) }
    }

    /// The gRPC service, with the message limits of the client port.
    pub fn into_server(self) -> FlightServiceServer<Self> {
        FlightServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }

    fn set_options(&self, request: &Request<Action>) -> Result<SetSessionOptionsResult, Status> {
        let requested: SetSessionOptionsRequest = action_body(request)?;
        let session = self.sql.session(request)?;
        let mut result = SetSessionOptionsResult::default();
        for (name, value) in requested.session_options {
            let set = self.sql.coordinator.set(&session, &name, value.to_text().as_deref());
            if let Err(error) = set {
                tracing::debug!(%error, "a client set an invalid session option");
                let exists = session.all().contains_key(&name);
                let value = if exists { INVALID_VALUE } else { INVALID_NAME };
                result.errors.insert(name, SessionOptionError { value });
            }
        }
        Ok(result)
    }

    fn get_options(&self, request: &Request<Action>) -> Result<GetSessionOptionsResult, Status> {
        let session = self.sql.session(request)?;
        let options =
            session.all().into_iter().map(|(name, value)| (name, SessionOptionValue::string(value)));
        Ok(GetSessionOptionsResult { session_options: options.collect() })
    }
}

fn action_body<M: Message + Default>(request: &Request<Action>) -> Result<M, Status> {
    let action = request.get_ref();
    M::decode(action.body.as_ref())
        .map_err(|e| Status::invalid_argument(format!("action {}: {e}", action.r#type)))
}

fn action_result(message: &impl Message) -> Response<Streamed<arrow_flight::Result>> {
    let result = arrow_flight::Result::new(message.encode_to_vec());
    Response::new(Box::pin(stream::iter([Ok(result)])))
}

#[tonic::async_trait]
impl FlightService for ClientService {
    type HandshakeStream = Streamed<HandshakeResponse>;
    type ListFlightsStream = Streamed<FlightInfo>;
    type DoGetStream = Streamed<FlightData>;
    type DoPutStream = Streamed<PutResult>;
    type DoExchangeStream = Streamed<FlightData>;
    type DoActionStream = Streamed<arrow_flight::Result>;
    type ListActionsStream = Streamed<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        FlightService::handshake(&*self.sql, request).await
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let manifest = self.sql.manifest().await?;
        let seal = Seal::of(&manifest.secret);
        let mut flights = Vec::new();
        for (name, id) in manifest.names.iter().filter(|(name, _)| !name.is_staging()) {
            let Some(table) = manifest.tables.get(id) else {
                continue;
            };
            let path = vec![name.schema.clone(), name.table.clone()];
            let ticket = statement_ticket(StatementHandle::new(select_all(&path)?).encode(&seal));
            let schema = wire_schema(&types::to_arrow(&table.schema), false);
            let mut flight = flight_info(&schema, ticket, FlightDescriptor::new_path(path))?;
            flight.total_records = table.rows(manifest.version) as i64;
            flights.push(Ok(flight));
        }
        Ok(Response::new(Box::pin(stream::iter(flights))))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        FlightService::get_flight_info(&*self.sql, request).await.map_err(named)
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let info = FlightService::get_flight_info(&*self.sql, request).await?.into_inner();
        // Without a descriptor the client does not poll again: the result is ready.
        Ok(Response::new(PollInfo {
            info: Some(info),
            flight_descriptor: None,
            progress: Some(1.0),
            expiration_time: None,
        }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let session = self.sql.session(&request)?;
        if is_metadata_command(request.get_ref()) {
            let info = FlightService::get_flight_info(&*self.sql, request).await?.into_inner();
            return Ok(Response::new(SchemaResult { schema: info.schema }));
        }
        let descriptor = request.into_inner();
        let sql = descriptor_sql(&descriptor, &self.sql.seal())?;
        let described =
            self.sql.coordinator.describe(&session, &sql, None).await.map_err(|e| to_status(&e))?;
        let schema = described.schema.unwrap_or_else(|| Arc::new(arrow_schema::Schema::empty()));
        let schema = wire_schema(&nullable(&schema), session.string_view());
        let options = arrow_ipc::writer::IpcWriteOptions::default();
        let result: SchemaResult = arrow_flight::SchemaAsIpc::new(&schema, &options)
            .try_into()
            .map_err(|e: arrow::error::ArrowError| Status::internal(e.to_string()))?;
        Ok(Response::new(result))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        if let Some(path) = table_ticket(&request.get_ref().ticket) {
            let session = self.sql.session(&request)?;
            return self.sql.table_rows(&session, &path).await;
        }
        FlightService::do_get(&*self.sql, request).await.map_err(named)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        FlightService::do_put(&*self.sql, request).await.map_err(named)
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange is not supported"))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions =
            ACTIONS.map(|(name, text)| Ok(ActionType { r#type: name.into(), description: text.into() }));
        Ok(Response::new(Box::pin(stream::iter(actions))))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        match request.get_ref().r#type.as_str() {
            "SetSessionOptions" => Ok(action_result(&self.set_options(&request)?)),
            "GetSessionOptions" => Ok(action_result(&self.get_options(&request)?)),
            "CloseSession" => {
                self.sql.sessions.close(request.metadata());
                Ok(action_result(&CloseSessionResult { status: CLOSED }))
            }
            "CancelFlightInfo" => {
                let cancel: CancelFlightInfoRequest = action_body(&request)?;
                let info = cancel
                    .info
                    .ok_or_else(|| Status::invalid_argument("CancelFlightInfo needs the FlightInfo"))?;
                let status = self.sql.cancel(&info).await? as i32;
                Ok(action_result(&CancelFlightInfoResult { status }))
            }
            "RenewFlightEndpoint" => {
                let renewal: RenewFlightEndpointRequest = action_body(&request)?;
                let endpoint = renewal
                    .endpoint
                    .ok_or_else(|| Status::invalid_argument("RenewFlightEndpoint needs an endpoint"))?;
                Ok(action_result(&endpoint))
            }
            _ => FlightService::do_action(&*self.sql, request).await.map_err(named),
        }
    }
}

/// A status that names a command as the protocol does, and not the method that would have it.
fn named(status: Status) -> Status {
    let Some(method) = status.message().strip_suffix(" has no default implementation") else {
        return status;
    };
    let prefixes = ["do_action_", "do_get_", "do_put_", "get_flight_info_"];
    let command = prefixes.iter().find_map(|prefix| method.strip_prefix(prefix)).unwrap_or(method);
    Status::unimplemented(format!("{} is not supported", command.replace('_', " ")))
}

/// Whether a descriptor is one of the metadata commands, `CommandGet...`. Making their FlightInfo runs
/// nothing.
fn is_metadata_command(descriptor: &FlightDescriptor) -> bool {
    descriptor.path.is_empty()
        && Any::decode(descriptor.cmd.as_ref()).is_ok_and(|any| {
            any.type_url.starts_with("type.googleapis.com/arrow.flight.protocol.sql.CommandGet")
        })
}

/// The statement of a descriptor: the query of a command, or a scan of the table at a path.
fn descriptor_sql(descriptor: &FlightDescriptor, seal: &Seal) -> Result<String, Status> {
    if !descriptor.path.is_empty() {
        return select_all(&descriptor.path);
    }
    let any = Any::decode(descriptor.cmd.as_ref())
        .map_err(|e| Status::invalid_argument(format!("descriptor: {e}")))?;
    let invalid = |e: arrow::error::ArrowError| Status::invalid_argument(e.to_string());
    if let Some(query) = any.unpack::<arrow_flight::sql::CommandStatementQuery>().map_err(invalid)? {
        return Ok(query.query);
    }
    if let Some(query) = any.unpack::<arrow_flight::sql::CommandPreparedStatementQuery>().map_err(invalid)? {
        return StatementHandle::decode(&query.prepared_statement_handle, seal).map(|h| h.sql);
    }
    Err(Status::unimplemented(format!("GetSchema of {:?} is not supported", any.type_url)))
}

/// The table that a ticket names, if the ticket is a dotted name rather than a Flight SQL message.
fn table_ticket(ticket: &[u8]) -> Option<Vec<String>> {
    if Any::decode(ticket).is_ok_and(|any| any.type_url.starts_with("type.googleapis.com/")) {
        return None;
    }
    let text = std::str::from_utf8(ticket).ok()?;
    let name = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-.$".contains(c));
    name.then(|| text.split('.').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_are_not_supported_are_named() {
        let of_library = Status::unimplemented("do_action_begin_savepoint has no default implementation");
        assert_eq!(named(of_library).message(), "begin savepoint is not supported");
        assert_eq!(named(Status::not_found("t")).message(), "t");
    }
}
