//! Bulk ingest: a stream of batches into a table, which it may create, in one commit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use datafusion::common::TableReference;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use plexus_model::schema::validate_name;
use plexus_model::{Command, CreateTable, Error, ErrorKind, Manifest, Result, TableName, TableSchema};
use plexus_storage::types;

use crate::ddl::create_table;
use crate::exec::context::{find, new_query_id};
use crate::exec::planner::Planner;
use crate::exec::session::Session;
use crate::exec::transactions::{TransactionId, Transactions};
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::sql::names::table_name;
use crate::write::coerce::arrange;
use crate::write::group_queue::Written;
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;
use crate::write::writer::Writer;

/// Where an ingest goes.
#[derive(Clone, Debug)]
pub struct IngestTarget {
    pub schema: Option<String>,
    pub table: String,
    pub mode: IngestMode,
    pub shards: Option<u32>,
    pub replicas: Option<u32>,
    /// What happens to rows whose primary key is there already.
    pub on_duplicate: OnDuplicate,
    /// Names of columns, when the table is created.
    pub primary_key: Vec<String>,
}

/// What an ingest does about a table that is or is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IngestMode {
    /// Create it; an error when it exists.
    Create,
    /// Add to it; an error when it does not exist.
    Append,
    /// Create it or take its place.
    Replace,
    /// Create it or add to it.
    CreateAppend,
}

/// Writes streams of batches to tables.
pub struct Loader {
    planner: Planner,
    writer: Writer,
    transactions: Arc<Transactions>,
}

impl Loader {
    /// A loader that commits through `writer`, or stages in one of `transactions`.
    pub fn new(planner: Planner, writer: Writer, transactions: Arc<Transactions>) -> Self {
        Self { planner, writer, transactions }
    }

    /// Writes a stream of batches to a table, which it may create, in one commit.
    #[tracing::instrument(level = "info", skip_all, fields(table = target.table, query_id = new_query_id()))]
    pub async fn ingest(
        &self,
        session: &Session,
        target: IngestTarget,
        schema: SchemaRef,
        mut batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<Written> {
        if let Some(id) = session.transaction()
            && let Some(written) = self.ingest_in(id, session, &target, &schema, &mut batches).await?
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
                return Err(Error::not_found(format!("table {name} does not exist")));
            }
            (Some(table), IngestMode::Append | IngestMode::CreateAppend) => Some(table),
            (_, IngestMode::Replace) | (None, _) => None,
        };
        if let Some(table) = append {
            let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
            let mut ingest = self.writer.begin(table.clone(), target.on_duplicate, "ingest")?;
            while let Some(batch) = batches.try_next().await? {
                ingest.write(arrange(&batch, &columns, &table)?).await?;
            }
            return ingest.finish().await;
        }
        self.ingest_new(&manifest, target, name, schema, batches).await
    }

    /// Appends to a table as part of a transaction. A table that is to be created or replaced is not part of
    /// it: `None`.
    async fn ingest_in(
        &self,
        id: TransactionId,
        session: &Session,
        target: &IngestTarget,
        schema: &SchemaRef,
        batches: &mut BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<Option<Written>> {
        session.check_writable()?;
        let mut taken = self.transactions.take(id)?;
        let manifest = self.planner.pin_transaction(session, &mut taken).await?;
        let name = target_name(session, target)?;
        let table = match (manifest.table(&name).cloned(), target.mode) {
            (Some(table), IngestMode::Append | IngestMode::CreateAppend) => table,
            _ => {
                taken.restart()?;
                return Ok(None);
            }
        };
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut ingest = self.writer.begin(table.clone(), target.on_duplicate, "ingest")?;
        while let Some(batch) = batches.try_next().await? {
            ingest.write(arrange(&batch, &columns, &table)?).await?;
        }
        let mut changes = RowChanges::new(table.clone());
        changes.add(ingest.stage().await?);
        let rows = changes.resolve_keys(&self.writer, &table, manifest.version, target.on_duplicate).await?;
        taken.stage(&self.writer, changes).await?;
        Ok(Some(Written { rows, version: None }))
    }

    /// Loads into a table out of sight and gives it its name at the end: the table appears with all its
    /// rows, or takes the old one's place, in one entry.
    async fn ingest_new(
        &self,
        manifest: &Manifest,
        target: IngestTarget,
        name: TableName,
        schema: SchemaRef,
        mut batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<Written> {
        // What is wrong with the name is said before the rows are sent.
        validate_name("table", &name.table)?;
        if !manifest.schemas.contains_key(&name.schema) {
            return Err(Error::not_found(format!("schema {:?} does not exist", name.schema)));
        }
        let staging = TableName::staging();
        let create = new_table(&target, staging.clone(), &schema, manifest)?;
        let applied = self.planner.meta.propose(Command::CreateTable(create), COMMIT_TIMEOUT).await?;
        let loaded = async {
            let manifest = self.planner.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
            let mut ingest = self.writer.begin(find(&manifest, &staging)?, target.on_duplicate, "ingest")?;
            while let Some(batch) = batches.try_next().await? {
                ingest.write(batch).await?;
            }
            let written = ingest.finish().await?;
            let replace = target.mode == IngestMode::Replace;
            let rename = Command::RenameTable { from: staging.clone(), to: name.clone(), replace };
            let applied = match self.planner.meta.propose(rename, COMMIT_TIMEOUT).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && target.mode == IngestMode::CreateAppend => {
                    return Err(Error::conflict(format!(
                        "table {name} was created by someone else during the load: load again to append to it"
                    )));
                }
                renamed => renamed?,
            };
            Ok(Written { version: Some(applied.version), ..written })
        };
        match loaded.await {
            Ok(written) => Ok(written),
            Err(error) => {
                let drop = Command::DropTable { name: staging, if_exists: true };
                if let Err(e) = self.planner.meta.propose(drop, COMMIT_TIMEOUT).await {
                    tracing::warn!(error = %e, "the staging table of a failed load stays for now");
                }
                Err(error)
            }
        }
    }
}

pub fn target_name(session: &Session, target: &IngestTarget) -> Result<TableName> {
    let schema = target.schema.clone().unwrap_or_else(|| session.schema());
    table_name(&TableReference::partial(schema, target.table.clone()), &session.schema())
}

pub fn new_table(
    target: &IngestTarget,
    name: TableName,
    schema: &Schema,
    manifest: &Manifest,
) -> Result<CreateTable> {
    let mut columns: TableSchema = types::from_arrow(schema)?;
    for key in &target.primary_key {
        let index = columns.column_index(key).ok_or_else(|| {
            Error::invalid(format!("primary key column {key:?} is not among the columns of the rows"))
        })?;
        columns.columns[index].nullable = false;
        columns.primary_key.push(index as u32);
    }
    columns.validate()?;
    let nodes = manifest.live_data_nodes().len() as u32;
    Ok(CreateTable {
        name,
        schema: columns,
        shards: target.shards.unwrap_or((nodes * create_table::SHARDS_PER_NODE).max(1)),
        replicas: target.replicas.unwrap_or(create_table::REPLICAS_DEFAULT.min(nodes).max(1)),
        if_not_exists: false,
        or_replace: false,
    })
}
