//! Bulk ingest: the Flight SQL `CommandStatementIngest`, and `DoPut` of plain Flight clients.

use std::collections::HashMap;

use arrow_flight::PutResult;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{
    Any, CommandStatementIngest, DoPutUpdateResult, TableExistsOption, TableNotExistOption,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use plexus_coordinator::{IngestMode, IngestTarget, OnDuplicate};
use plexus_query::CATALOG;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::sql::server::SqlService;
use crate::sql::statements::select_all;
use crate::sql::transactions::transaction_id;
use crate::sql::upload::uploaded_batches;
use crate::status::to_status;

/// The response of a `DoPut`.
pub(crate) type PutStream = BoxStream<'static, Result<PutResult, Status>>;

impl SqlService {
    /// Writes the uploaded rows to the table that the command names and returns their number.
    pub(crate) async fn ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = self.session_in(&request, transaction_id(command.transaction_id.as_ref())?)?;
        let target = ingest_target(&command)?;
        let Some((schema, batches)) = uploaded_batches(request.into_inner()).await? else {
            return Err(Status::invalid_argument("the ingest has no schema"));
        };
        let written = self.coordinator.ingest(&session, target, schema, batches).await;
        written.map(|w| w.rows as i64).map_err(|e| to_status(&e))
    }

    /// Appends the uploaded rows of a plain Flight client to the table at the descriptor's path, which is
    /// created if it does not exist.
    pub(crate) async fn put_table(
        &self,
        mut request: Request<PeekableFlightDataStream>,
        message: Any,
    ) -> Result<Response<PutStream>, Status> {
        let session = self.session(&request)?;
        let first = match request.get_mut().peek().await {
            Some(Ok(first)) => first,
            Some(Err(e)) => return Err(e.clone()),
            None => return Err(Status::invalid_argument("the DoPut has no messages")),
        };
        let path = first.flight_descriptor.as_ref().map(|d| d.path.clone()).unwrap_or_default();
        if path.is_empty() {
            return Err(Status::unimplemented(format!("DoPut of {:?} is not supported", message.type_url)));
        }
        // Checks that the path has one to three names.
        select_all(&path)?;
        let mut names = path.into_iter().rev();
        let (table, schema, catalog) = (names.next().unwrap_or_default(), names.next(), names.next());
        check_catalog(catalog.as_deref())?;
        let target = IngestTarget {
            schema,
            table,
            mode: IngestMode::CreateAppend,
            shards: None,
            replicas: None,
            on_duplicate: OnDuplicate::Fail,
            primary_key: vec![],
        };
        let Some((schema, batches)) = uploaded_batches(request.into_inner()).await? else {
            return Err(Status::invalid_argument("the DoPut has no schema"));
        };
        let written =
            self.coordinator.ingest(&session, target, schema, batches).await.map_err(|e| to_status(&e))?;
        Ok(put_result(written.rows))
    }
}

fn put_result(rows: u64) -> Response<PutStream> {
    let result = DoPutUpdateResult { record_count: rows as i64 };
    let put = PutResult { app_metadata: result.encode_to_vec().into() };
    Response::new(stream::once(async { Ok(put) }).boxed())
}

/// The options of an ingest.
const OPTIONS: [&str; 4] = ["primary_key", "shards", "replicas", "on_conflict"];

fn ingest_target(command: &CommandStatementIngest) -> Result<IngestTarget, Status> {
    if command.temporary {
        return Err(Status::unimplemented("temporary tables are not supported"));
    }
    check_catalog(command.catalog.as_deref())?;
    if let Some(unknown) = command.options.keys().find(|option| !OPTIONS.contains(&option.as_str())) {
        return Err(Status::invalid_argument(format!(
            "ingest option {unknown:?} does not exist; there are {}",
            OPTIONS.join(", ")
        )));
    }
    let keys = command.options.get("primary_key").map(String::as_str).unwrap_or_default();
    Ok(IngestTarget {
        schema: command.schema.clone().filter(|s| !s.is_empty()),
        table: command.table.clone(),
        mode: ingest_mode(command)?,
        shards: number_option(&command.options, "shards")?,
        replicas: number_option(&command.options, "replicas")?,
        on_duplicate: on_duplicate(&command.options)?,
        primary_key: keys.split(',').map(str::trim).filter(|k| !k.is_empty()).map(Into::into).collect(),
    })
}

fn check_catalog(name: Option<&str>) -> Result<(), Status> {
    match name.filter(|name| !name.is_empty() && *name != CATALOG) {
        Some(name) => Err(Status::not_found(format!(
            "catalog {name:?} does not exist; the only catalog is {CATALOG:?}"
        ))),
        None => Ok(()),
    }
}

fn ingest_mode(command: &CommandStatementIngest) -> Result<IngestMode, Status> {
    let Some(options) = &command.table_definition_options else {
        return Ok(IngestMode::Append);
    };
    match (options.if_not_exist(), options.if_exists()) {
        (TableNotExistOption::Create, TableExistsOption::Fail) => Ok(IngestMode::Create),
        (TableNotExistOption::Create, TableExistsOption::Append) => Ok(IngestMode::CreateAppend),
        (TableNotExistOption::Create, TableExistsOption::Replace) => Ok(IngestMode::Replace),
        (_, TableExistsOption::Append | TableExistsOption::Unspecified) => Ok(IngestMode::Append),
        (missing, exists) => Err(Status::invalid_argument(format!(
            "ingest with if_not_exist = {missing:?} and if_exists = {exists:?} is not supported"
        ))),
    }
}

fn number_option(options: &HashMap<String, String>, name: &str) -> Result<Option<u32>, Status> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            Status::invalid_argument(format!("ingest option {name} = {text:?}: not a whole number"))
        })
    };
    options.get(name).map(parse).transpose()
}

/// How to treat rows whose primary key exists already.
fn on_duplicate(options: &HashMap<String, String>) -> Result<OnDuplicate, Status> {
    match options.get("on_conflict").map(String::as_str) {
        None | Some("fail") => Ok(OnDuplicate::Fail),
        Some("replace") => Ok(OnDuplicate::Replace),
        Some("ignore") => Ok(OnDuplicate::Ignore),
        Some(other) => Err(Status::invalid_argument(format!(
            "ingest option on_conflict = {other:?}: must be fail, replace or ignore"
        ))),
    }
}
