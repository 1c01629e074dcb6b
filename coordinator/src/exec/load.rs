//! Bulk ingest: writes a stream of batches to a new or existing table in one commit.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use datafusion::common::TableReference;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use plexus_model::schema::validate_name;
use plexus_model::{Command, CreateTable, Error, ErrorKind, Manifest, Result, TableName, TableSchema};
use plexus_storage::types;
use tokio::time::timeout;

use crate::exec::context::{find, unknown_table};
use crate::exec::planner::Planner;
use crate::exec::session::Session;
use crate::exec::transactions::{TransactionId, Transactions};
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT, REPLICAS_DEFAULT, SHARDS_PER_NODE};
use crate::running::{self, committing};
use crate::sql::names::table_name;
use crate::write::arrange::{arrange, parts};
use crate::write::group_queue::WriteResult;
use crate::write::ingest::LOAD;
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::Writer;

/// The target table of a bulk ingest, and how to write to it.
#[derive(Clone, Debug)]
pub struct IngestTarget {
    /// Schema of the table; the schema of the session if `None`.
    pub schema: Option<String>,
    /// Name of the table.
    pub table: String,
    /// Whether to create the table or append to it.
    pub mode: IngestMode,
    /// Number of shards of a created table; a default by the number of data nodes if `None`.
    pub shards: Option<u32>,
    /// Number of replicas of a created table; a default by the number of data nodes if `None`.
    pub replicas: Option<u32>,
    /// What happens to rows whose primary key exists already.
    pub on_duplicate: OnDuplicate,
    /// Primary key columns of a created table, in order.
    pub primary_key: Vec<String>,
}

/// What an ingest does when the table exists or does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IngestMode {
    /// Create the table; an error when it exists.
    Create,
    /// Append to the table; an error when it does not exist.
    Append,
    /// Create the table, or replace an existing one.
    Replace,
    /// Create the table, or append to an existing one.
    CreateAppend,
}

/// Writes streams of batches to tables.
pub(crate) struct Loader {
    planner: Planner,
    writer: Writer,
    transactions: Arc<Transactions>,
}

impl Loader {
    /// A loader that commits through `writer`, or stages in one of `transactions`.
    pub(crate) fn new(planner: Planner, writer: Writer, transactions: Arc<Transactions>) -> Self {
        Self { planner, writer, transactions }
    }

    /// Writes a stream of batches to a table in one commit, or stages them in the open transaction of the
    /// session.
    ///
    /// # Errors
    /// `NotFound` or `AlreadyExists`, depending on the mode, and the errors of writing rows.
    #[tracing::instrument(
        level = "info", skip_all, fields(table = target.table, query_id = running::query_id())
    )]
    pub(crate) async fn ingest(
        &self,
        session: &Session,
        target: IngestTarget,
        schema: SchemaRef,
        mut batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<WriteResult> {
        if let Some(id) = session.transaction()
            && let Some(written) =
                self.ingest_in_transaction(id, session, &target, &schema, &mut batches).await?
        {
            return Ok(written);
        }
        let manifest = self.planner.pin().await?;
        let name = target_name(session, &target)?;
        let existing = manifest.table(&name).cloned();
        let append = match (existing, target.mode) {
            (Some(_), IngestMode::Create) => {
                return Err(Error::already_exists(format!("table {name} exists already")));
            }
            (None, IngestMode::Append) => {
                return Err(unknown_table(&manifest, &name));
            }
            (Some(table), IngestMode::Append | IngestMode::CreateAppend) => Some(table),
            (_, IngestMode::Replace) | (None, _) => None,
        };
        if let Some(table) = append {
            let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
            let defaults =
                self.writer.engine.column_defaults(&table.schema, &columns, &session.time_zone())?;
            let mut ingest = self.writer.begin(table.clone(), target.on_duplicate, LOAD)?;
            while let Some(batch) = batches.try_next().await? {
                for part in parts(&batch, &table) {
                    ingest.write(arrange(&part, &columns, &defaults, &table)?).await?;
                }
            }
            return ingest.finish().await;
        }
        self.ingest_new(&manifest, target, name, schema, batches).await
    }

    /// Appends to a table as part of a transaction. `None` when the ingest creates or replaces the table,
    /// which is not transactional.
    async fn ingest_in_transaction(
        &self,
        id: TransactionId,
        session: &Session,
        target: &IngestTarget,
        schema: &SchemaRef,
        batches: &mut BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<Option<WriteResult>> {
        session.check_writable()?;
        let mut guard = self.transactions.take(id)?;
        let manifest = self.planner.pin_transaction(session, &mut guard).await?;
        let name = target_name(session, target)?;
        let table = match (manifest.table(&name).cloned(), target.mode) {
            (Some(table), IngestMode::Append | IngestMode::CreateAppend) => table,
            _ => {
                guard.restart()?;
                return Ok(None);
            }
        };
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let defaults = self.writer.engine.column_defaults(&table.schema, &columns, &session.time_zone())?;
        let mut ingest = self.writer.begin(table.clone(), target.on_duplicate, LOAD)?;
        while let Some(batch) = batches.try_next().await? {
            for part in parts(&batch, &table) {
                ingest.write(arrange(&part, &columns, &defaults, &table)?).await?;
            }
        }
        let mut changes = RowChanges::new(table.clone());
        changes.add(ingest.stage().await?);
        let rows = changes.resolve_keys(&self.writer, &table, manifest.version, target.on_duplicate).await?;
        guard.stage(&self.writer, changes).await?;
        Ok(Some(WriteResult { rows, version: None }))
    }

    /// Loads into a staging table and renames it at the end. One log entry makes the table visible with all
    /// its rows, or replaces the old one.
    async fn ingest_new(
        &self,
        manifest: &Manifest,
        target: IngestTarget,
        name: TableName,
        schema: SchemaRef,
        mut batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<WriteResult> {
        // Checked now, so that a wrong name is reported before the client sends rows.
        validate_name("table", &name.table)?;
        if !manifest.schemas.contains_key(&name.schema) {
            return Err(Error::not_found(format!("schema {:?} does not exist", name.schema)));
        }
        let staging = TableName::staging();
        let staging_name = staging.to_string();
        let create = new_table(&target, staging.clone(), &schema, manifest)?;
        let applied = self.planner.meta.propose(Command::CreateTable(create), COMMIT_TIMEOUT).await?;
        let loaded = async {
            let manifest = self.planner.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
            let mut ingest = self.writer.begin(find(&manifest, &staging)?, target.on_duplicate, LOAD)?;
            while let Some(batch) = batches.try_next().await? {
                ingest.write(batch).await?;
            }
            let written = ingest.finish().await?;
            let replace = target.mode == IngestMode::Replace;
            let rename = Command::RenameTable { from: staging.clone(), to: name.clone(), replace };
            let applied = match committing(self.planner.meta.propose(rename, COMMIT_TIMEOUT).boxed()).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && target.mode == IngestMode::CreateAppend => {
                    return Err(Error::conflict(format!(
                        "table {name} was created concurrently during the load: load again to append to it"
                    )));
                }
                renamed => renamed?,
            };
            Ok(WriteResult { version: Some(applied.version), ..written })
        };
        match loaded.await {
            Ok(written) => Ok(written),
            Err(error) => {
                let drop = Command::DropTable { name: staging, if_exists: true };
                if let Err(e) = self.planner.meta.propose(drop, COMMIT_TIMEOUT).await {
                    tracing::warn!(error = %e, "the staging table of a failed load could not be dropped");
                }
                let message = error.message().replace(&staging_name, &name.to_string());
                Err(Error::new(error.kind(), message).with_source(error))
            }
        }
    }
}

/// The full name of the target table.
fn target_name(session: &Session, target: &IngestTarget) -> Result<TableName> {
    let schema = target.schema.clone().unwrap_or_else(|| session.schema());
    table_name(&TableReference::partial(schema, target.table.clone()), &session.schema())
}

/// The command that creates the target table of an ingest, under `name`.
fn new_table(
    target: &IngestTarget,
    name: TableName,
    schema: &Schema,
    manifest: &Manifest,
) -> Result<CreateTable> {
    let mut columns: TableSchema = types::from_arrow(schema)?;
    for key in &target.primary_key {
        let index = columns.column_index(key).ok_or_else(|| {
            Error::invalid(format!("primary key column {key:?} is not a column of the ingested rows"))
        })?;
        columns.columns[index].nullable = false;
        columns.primary_key.push(index as u32);
    }
    columns.validate()?;
    let nodes = manifest.live_data_nodes().len() as u32;
    Ok(CreateTable {
        name,
        schema: columns,
        shards: target.shards.unwrap_or((nodes * SHARDS_PER_NODE).max(1)),
        replicas: target.replicas.unwrap_or(REPLICAS_DEFAULT.min(nodes).max(1)),
        if_not_exists: false,
        or_replace: false,
    })
}

/// The batches of a client. The stream fails when it sends none for `idle_max`, since a load holds memory and
/// one of few slots.
pub(crate) fn unless_idle(
    batches: BoxStream<'static, Result<RecordBatch>>,
    idle_max: Duration,
) -> BoxStream<'static, Result<RecordBatch>> {
    let next = move |batches: Option<BoxStream<'static, Result<RecordBatch>>>| async move {
        let mut batches = batches?;
        match timeout(idle_max, batches.next()).await {
            Ok(batch) => batch.map(|batch| (batch, Some(batches))),
            Err(_) => {
                let idle = format!("the load sent no rows for {idle_max:?}: nothing is stored");
                Some((Err(Error::cancelled(idle)), None))
            }
        }
    };
    stream::unfold(Some(batches), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_load_fails_and_an_active_one_does_not() {
        let batch = || RecordBatch::new_empty(Arc::new(Schema::empty()));
        let idle_max = Duration::from_millis(200);
        let active = stream::unfold(0, move |n| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (n < 20).then(|| (Ok(batch()), n + 1))
        });
        assert_eq!(unless_idle(active.boxed(), idle_max).count().await, 20);
        let silent = stream::iter([Ok(batch())]).chain(stream::pending());
        let results: Vec<_> = unless_idle(silent.boxed(), idle_max).collect().await;
        assert!(results[0].is_ok() && results.len() == 2);
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
