//! Executes DML: runs the query that computes the changes of a statement, turns its rows into new segments
//! and deleted row positions, and commits both.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute;
use arrow::datatypes::{Int64Type, UInt32Type, UInt64Type};
use arrow_schema::{Schema, SchemaRef};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use plexus_model::{Error, Result, RowSelection, SegmentId, Table};
use plexus_query::{ColumnDefaults, Relations, STATEMENT_SCHEMA};
use plexus_storage::{rows_bytes, types};

use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::{Executed, StatementContext, find};
use crate::exec::plan_statement::{plan_rows, plan_statement};
use crate::exec::planner::{Planner, announced_schema};
use crate::exec::row_stream::RowStream;
use crate::exec::session::Session;
use crate::limits::RETURNING_BYTES_MAX;
use crate::sql::kind::{is_literal_rows, is_rows, literal_rows};
use crate::sql::names::object_name;
use crate::sql::parameters::bind;
use crate::sql::rewrite::{self, DELETE, DuplicateMatch, INSERT, Returning, Rewritten, Shape, UPDATE};
use crate::sql::syntax;
use crate::write::arrange::{arrange, parts};
use crate::write::assign::{AssignFunction, assign};
use crate::write::ingest::Ingest;
use crate::write::keys::RowsBySegment;
use crate::write::row_changes::{RowChanges, inline_union};
use crate::write::writer::Writer;

/// Name of the temporary relation that `RETURNING` reads.
const RETURNED: &str = "rows";

/// The changes of a statement, ready to be committed.
pub(crate) struct Staged {
    /// New and deleted rows.
    pub(crate) changes: RowChanges,
    /// Number of rows that the statement affects.
    pub(crate) affected: u64,
    /// The rows of `RETURNING`.
    pub(crate) returning: Option<RowStream>,
}

impl Staged {
    /// The result of the statement once its changes are committed.
    pub(crate) fn into_executed(self) -> Executed {
        match self.returning {
            Some(rows) => Executed::Returned(rows, self.affected),
            None => Executed::Affected(self.affected),
        }
    }
}

/// Runs statements that insert, update, delete or merge rows.
pub(crate) struct DmlExecutor {
    pub(super) planner: Planner,
    pub(super) writer: Writer,
}

impl DmlExecutor {
    /// An executor that plans with `planner` and commits through `writer`.
    pub(crate) fn new(planner: Planner, writer: Writer) -> Self {
        Self { planner, writer }
    }

    /// Rewrites a statement into the query that computes its changes, and returns it with the target table.
    ///
    /// # Errors
    /// `NotFound` when the target does not exist; `InvalidArgument` or `Unsupported` for a wrong statement.
    pub(crate) async fn rewrite(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<(Arc<Table>, Rewritten)> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        let name = rewrite::target(statement).ok_or_else(|| unsupported(&statement.to_string()))?;
        let table = find(&context.manifest, &object_name(name, &context.session.schema())?)?;
        let mut statement = (**statement).clone();
        self.planner.resolve(&mut statement, context).await?;
        let rewritten = rewrite::rewrite(statement, &table)?;
        Ok((table, rewritten))
    }

    /// The schema of the rows of `RETURNING`, and a plan that has the parameters of the statement.
    ///
    /// # Errors
    /// The error of planning the statement.
    pub(crate) async fn describe(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<(Option<SchemaRef>, LogicalPlan)> {
        let (table, rewritten) = self.rewrite(context, statement).await?;
        let plan = self.plan(context, &table, &rewritten).await?;
        let schema = match &rewritten.returning {
            Some(returning) => {
                let rows = self.returning_plan(context, &table, returning).await?;
                Some(self.planner.result_schema(context, &rows).await?)
            }
            None => None,
        };
        Ok((schema, plan))
    }

    /// Runs a DML statement and commits its changes.
    ///
    /// # Errors
    /// The error of the statement; `Conflict` when a concurrent commit changed the same rows.
    pub(crate) async fn execute(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<Executed> {
        let (table, rewritten) = self.rewrite(context, statement).await?;
        self.execute_rewritten(context, table, rewritten).await
    }

    /// Runs a rewritten statement and commits its changes.
    async fn execute_rewritten(
        &self,
        context: &StatementContext<'_>,
        table: Arc<Table>,
        rewritten: Rewritten,
    ) -> Result<Executed> {
        context.session.check_writable()?;
        let started = Instant::now();
        tracing::Span::current().record("version", context.manifest.version.0);
        let operation = rewritten.operation;
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        if let (Shape::Rows { columns }, None) = (&rewritten.shape, &rewritten.returning) {
            let rows = self.inserted_rows(context, &table, &rewritten).await?;
            return self.insert(context.session, table, &rewritten, columns, rows).await;
        }
        let staged = self.stage(context, &table, rewritten).await?;
        if !staged.changes.is_empty() {
            let changes = staged.changes.clone();
            let change = changes.into_change(&self.writer, &table, context.manifest.version).await?;
            self.writer.commit(vec![change], operation, started).await?;
        }
        Ok(staged.into_executed())
    }

    /// Writes a stream of rows, with one commit at the end.
    pub(crate) async fn insert(
        &self,
        session: &Session,
        table: Arc<Table>,
        rewritten: &Rewritten,
        columns: &[usize],
        rows: RowStream,
    ) -> Result<Executed> {
        let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, rewritten.operation)?;
        write_rows(&mut ingest, &table, columns, rows, &session.time_zone()).await?;
        ingest.finish().await.map(|written| Executed::Affected(written.rows))
    }

    /// Runs a rewritten statement without committing its changes.
    pub(crate) async fn stage(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        rewritten: Rewritten,
    ) -> Result<Staged> {
        context.session.check_writable()?;
        let mut changes = RowChanges::new(table.clone());
        let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, rewritten.operation)?;
        let mut collected = CollectedActions::default();
        match rewritten.shape {
            Shape::Rows { ref columns } => {
                let rows = self.inserted_rows(context, table, &rewritten).await?;
                write_rows(&mut ingest, table, columns, rows, &context.session.time_zone()).await?;
            }
            Shape::Actions { duplicate_match } => {
                collected.keep_deleted = rewritten.returning.is_some();
                let zone = context.session.time_zone();
                let plan = self.plan_change(context, table, &rewritten).await?;
                let mut rows =
                    self.planner.run(&plan, &context.manifest, || self.planner.local_state(context)).await?;
                let segment_ids: Vec<SegmentId> =
                    table.visible(context.manifest.version).map(|s| s.id).collect();
                while let Some(batch) = rows.stream.try_next().await? {
                    let new = collected.add(&batch, &segment_ids, duplicate_match, table, &zone)?;
                    if let Some(new) = new {
                        ingest.write(assign(new, ingest.schema(), table, &zone)?).await?;
                    }
                }
                changes.deleted = std::mem::take(&mut collected.deleted);
            }
        }
        changes.add(ingest.stage().await?);
        let version = context.manifest.version;
        let written = changes.resolve_keys(&self.writer, table, version, rewritten.on_duplicate).await?;
        let returning = match &rewritten.returning {
            Some(returning) => {
                let mut batches = collected.deleted_rows;
                self.read_back(table, &changes, &mut batches).await?;
                Some(self.returning(context, table, returning, batches).await?)
            }
            None => None,
        };
        Ok(Staged { changes, affected: written + collected.deleted_only, returning })
    }

    /// Runs the query of an insert.
    async fn inserted_rows(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        rewritten: &Rewritten,
    ) -> Result<RowStream> {
        let plan = self.plan_change(context, table, rewritten).await?;
        if is_rows(&rewritten.query) {
            // Other nodes do not know the function that assigns literal rows.
            return self.planner.run(&plan, &context.manifest, || self.planner.local_state(context)).await;
        }
        self.planner.query(context, &plan).await
    }

    /// The plan of a rewritten statement with its parameters bound.
    async fn plan_change(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        rewritten: &Rewritten,
    ) -> Result<LogicalPlan> {
        bind(self.plan(context, table, rewritten).await?, context.values)
    }

    /// The plan of a rewritten statement, with unbound parameters.
    pub(crate) async fn plan(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        rewritten: &Rewritten,
    ) -> Result<LogicalPlan> {
        plan_change(self.planner.local_state(context)?, context.session, table, rewritten).await
    }

    /// Reads the live rows of the new segments and appends them to `batches`.
    async fn read_back(
        &self,
        table: &Arc<Table>,
        changes: &RowChanges,
        batches: &mut Vec<RecordBatch>,
    ) -> Result<()> {
        let mut bytes: usize = batches.iter().map(rows_bytes).sum();
        for segment in changes.added.iter().map(|s| &s.0) {
            let row_selection = RowSelection::AllExcept(inline_union(&segment.deletions)?.into());
            let mut rows = self.writer.reader.scan(table, segment, &table.schema, row_selection).await?;
            while let Some(found) = rows.try_next().await? {
                bytes += rows_bytes(&found.rows);
                check_returned(bytes)?;
                batches.push(found.rows);
            }
        }
        check_returned(bytes)
    }

    /// Evaluates `RETURNING` over the affected rows.
    async fn returning(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        returning: &Returning,
        batches: Vec<RecordBatch>,
    ) -> Result<RowStream> {
        let state = self.returning_state(context, table, batches)?;
        let plan = plan_returning(&state, returning).await?;
        let rows = self.planner.run(&plan, &context.manifest, || Ok(state.clone())).await?;
        let schema = announced_schema(&plan, &rows.schema);
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
        check_returned(batches.iter().map(rows_bytes).sum())?;
        Ok(RowStream::from_batches(schema, batches))
    }

    /// The plan of `RETURNING`, without its rows.
    pub(crate) async fn returning_plan(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        returning: &Returning,
    ) -> Result<LogicalPlan> {
        plan_returning(&self.returning_state(context, table, vec![])?, returning).await
    }

    /// An engine session in which the affected rows are the relation [`RETURNED`].
    fn returning_state(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        batches: Vec<RecordBatch>,
    ) -> Result<SessionState> {
        let relation = MemTable::try_new(types::to_arrow(&table.schema), vec![batches]);
        let relation: Arc<dyn TableProvider> = Arc::new(relation.map_err(from_datafusion)?);
        let relations: Relations = Arc::new(HashMap::from([(RETURNED.to_owned(), relation)]));
        self.planner.state_with(context, relations)
    }
}

/// Plans the query of a rewritten statement. Literal rows are assigned to their columns one by one.
pub(crate) async fn plan_change(
    mut state: SessionState,
    session: &Session,
    table: &Arc<Table>,
    rewritten: &Rewritten,
) -> Result<LogicalPlan> {
    let assign = AssignFunction::of(table.clone(), session.time_zone());
    state.register_udf(Arc::new(assign)).map_err(from_datafusion)?;
    let mut query = rewritten.query.clone();
    if let Shape::Rows { columns } = &rewritten.shape {
        rewrite::assign_values(&mut query, columns);
    }
    let rows = is_literal_rows(&query).then(|| literal_rows(&query));
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    match rows {
        Some(rows) => plan_rows(&state, statement, rows).await,
        None => plan_statement(&state, statement).await,
    }
}

/// Writes the rows of an insert, whose columns are those of the table at the indexes `columns`.
async fn write_rows(
    ingest: &mut Ingest,
    table: &Table,
    columns: &[usize],
    mut rows: RowStream,
    zone: &str,
) -> Result<()> {
    let names: Vec<String> = columns.iter().map(|&c| table.schema.columns[c].name.clone()).collect();
    while let Some(batch) = rows.stream.try_next().await? {
        for part in parts(&batch, table) {
            let arranged = arrange(&part, &names, &ColumnDefaults::default(), table)?;
            ingest.write(assign(arranged, ingest.schema(), table, zone)?).await?;
        }
    }
    Ok(())
}

/// Plans `RETURNING` over the relation [`RETURNED`], under the name by which the statement refers to its
/// target.
async fn plan_returning(state: &SessionState, returning: &Returning) -> Result<LogicalPlan> {
    let Returning { items, alias } = returning.clone();
    let rows = syntax::table(syntax::object_name([STATEMENT_SCHEMA, RETURNED]), alias);
    let query = syntax::select(items, vec![syntax::relation(rows)], None);
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    plan_statement(state, statement).await.map_err(|e| e.context("RETURNING"))
}

/// Bounds the rows of `RETURNING`, which are held in memory until the client fetches them.
fn check_returned(bytes: usize) -> Result<()> {
    if bytes > RETURNING_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "RETURNING would return more than {RETURNING_BYTES_MAX} bytes; nothing was changed: return fewer \
             columns, or change fewer rows at once"
        )));
    }
    Ok(())
}

/// The deletions that the action rows of a statement amount to.
#[derive(Default)]
struct CollectedActions {
    /// Positions of the deleted rows, by segment. An updated row is deleted and inserted.
    deleted: RowsBySegment,
    /// Number of rows that are deleted and not replaced.
    deleted_only: u64,
    /// Whether to keep the rows that are deleted and not replaced, for `RETURNING`.
    keep_deleted: bool,
    /// The kept rows.
    deleted_rows: Vec<RecordBatch>,
}

/// Columns of an action batch in front of the columns of the table: segment, row and action.
const ACTION_HEADER_COLUMNS: usize = 3;

impl CollectedActions {
    /// Adds a batch of action rows and returns the rows that are to be written. The segment column indexes
    /// `segment_ids`.
    fn add(
        &mut self,
        batch: &RecordBatch,
        segment_ids: &[SegmentId],
        duplicate_match: DuplicateMatch,
        table: &Table,
        zone: &str,
    ) -> Result<Option<RecordBatch>> {
        let malformed = || Error::internal("action rows lack their columns");
        if batch.num_columns() < ACTION_HEADER_COLUMNS {
            return Err(malformed());
        }
        let segments = batch.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(malformed)?;
        let positions = batch.column(1).as_primitive_opt::<UInt64Type>().ok_or_else(malformed)?;
        let actions = batch.column(2).as_primitive_opt::<Int64Type>().ok_or_else(malformed)?;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let action = if actions.is_null(row) { 0 } else { actions.value(row) };
            if action == DELETE || action == UPDATE {
                let segment = segment_ids.get(segments.value(row) as usize).ok_or_else(malformed)?;
                let first = self.deleted.entry(*segment).or_default().insert(positions.value(row) as u32);
                if !first && duplicate_match == DuplicateMatch::Error {
                    return Err(Error::invalid(format!(
                        "a row of table {} is matched more than once, which makes the result ambiguous",
                        table.name
                    )));
                }
                if first && action == DELETE {
                    self.deleted_only += 1;
                    old.push(row as u64);
                }
            }
            if action == UPDATE || action == INSERT {
                new.push(row as u64);
            }
        }
        let columns: Vec<usize> = (ACTION_HEADER_COLUMNS..batch.num_columns()).collect();
        let rows = batch.project(&columns).map_err(|e| Error::internal(format!("actions: {e}")))?;
        let select = |indexes: Vec<u64>| {
            compute::take_record_batch(&rows, &UInt64Array::from(indexes))
                .map_err(|e| Error::internal(format!("actions: {e}")).with_source(e))
        };
        if self.keep_deleted && !old.is_empty() {
            let kept = select(old)?;
            let schema: Arc<Schema> = types::to_arrow(&table.schema);
            self.deleted_rows.push(assign(kept, &schema, table, zone)?);
            check_returned(self.deleted_rows.iter().map(rows_bytes).sum())?;
        }
        if new.is_empty() { Ok(None) } else { select(new).map(Some) }
    }
}
