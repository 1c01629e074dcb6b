//! Running statements that change rows: from the query that says how to segments and places, and to a commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute;
use arrow::datatypes::{Int64Type, UInt32Type, UInt64Type};
use arrow_schema::{Schema, SchemaRef};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use plexus_model::{Error, Result, RowSelection, SegmentId, Table};
use plexus_query::{Relations, STATEMENT_SCHEMA};
use plexus_storage::{rows_bytes, types};

use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::{Executed, StatementContext, find};
use crate::exec::planner::Planner;
use crate::exec::retry::RowStream;
use crate::limits::RETURNING_BYTES_MAX;
use crate::sql::names::{identifier, object_name};
use crate::sql::parameters::bind;
use crate::sql::rewrite::{DELETE, DuplicateMatch, INSERT, Rewritten, Shape, UPDATE};
use crate::sql::{parse, rewrite};
use crate::write::coerce::assign;
use crate::write::row_changes::{RowChanges, inline_union};
use crate::write::writer::Writer;

/// The relation of the rows that `RETURNING` reads.
pub const RETURNED: &str = "rows";

/// A change that is ready to be committed.
pub struct Staged {
    pub changes: RowChanges,
    pub affected: u64,
    pub returning: Option<RowStream>,
}

impl Staged {
    /// What the statement answers once it is committed.
    pub fn into_executed(self) -> Executed {
        match self.returning {
            Some(rows) => Executed::Returned(rows, self.affected),
            None => Executed::Affected(self.affected),
        }
    }
}

/// Runs statements that insert, update, delete or merge rows.
pub struct DmlExecutor {
    pub(super) planner: Planner,
    pub(super) writer: Writer,
}

impl DmlExecutor {
    /// An executor that plans with `planner` and commits through `writer`.
    pub fn new(planner: Planner, writer: Writer) -> Self {
        Self { planner, writer }
    }

    /// Rewrites a statement into the query that computes its changes.
    ///
    /// # Errors
    /// `NotFound` when its target does not exist, and what is wrong with the statement.
    pub async fn rewrite(
        &self,
        scope: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<(Arc<Table>, Rewritten)> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        let name = rewrite::target(statement).ok_or_else(|| unsupported(&statement.to_string()))?;
        let table = find(&scope.manifest, &object_name(&name, &scope.session.schema())?)?;
        let mut statement = (**statement).clone();
        self.planner.resolve(&mut statement, scope).await?;
        let rewritten = rewrite::rewrite(statement, &table)?;
        Ok((table, rewritten))
    }

    /// The schema of what `RETURNING` returns, if anything, and the plan whose parameters the statement takes.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub async fn describe(
        &self,
        scope: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<(Option<SchemaRef>, LogicalPlan)> {
        let (table, rewritten) = self.rewrite(scope, statement).await?;
        let plan = self.plan(scope, &rewritten).await?;
        let schema = match &rewritten.returning {
            Some(returning) => Some(self.returning_schema(scope, &table, returning).await?),
            None => None,
        };
        Ok((schema, plan))
    }

    /// Runs a change and commits it.
    ///
    /// # Errors
    /// Those of the statement; `Conflict` when another commit changed the same rows.
    pub async fn execute(&self, scope: &StatementContext<'_>, statement: &Statement) -> Result<Executed> {
        let (table, rewritten) = self.rewrite(scope, statement).await?;
        self.change(scope, table, rewritten).await
    }

    /// Runs a change and commits it.
    pub async fn change(
        &self,
        scope: &StatementContext<'_>,
        table: Arc<Table>,
        rewritten: Rewritten,
    ) -> Result<Executed> {
        scope.session.check_writable()?;
        let started = Instant::now();
        tracing::Span::current().record("version", scope.manifest.version.0);
        let operation = rewritten.operation;
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        if rewritten.shape == Shape::Rows && rewritten.returning.is_none() {
            let named = |e| name_null(e, &rewritten, &table);
            let rows = self.inserted_rows(scope, &rewritten).await.map_err(named)?;
            return self.insert(table.clone(), &rewritten, rows).await.map_err(named);
        }
        let staged = self.stage(scope, &table, rewritten).await?;
        if !staged.changes.is_empty() {
            let changes = staged.changes.clone();
            let change = changes.into_change(&self.writer, &table, scope.manifest.version).await?;
            self.writer.commit(vec![change], operation, started).await?;
        }
        Ok(staged.into_executed())
    }

    /// Writes rows as they come, in one commit at the end.
    pub async fn insert(
        &self,
        table: Arc<Table>,
        rewritten: &Rewritten,
        mut rows: RowStream,
    ) -> Result<Executed> {
        let mut ingest = self.writer.begin(table, rewritten.on_duplicate, rewritten.operation)?;
        while let Some(batch) = rows.stream.try_next().await? {
            ingest.write(batch).await?;
        }
        ingest.finish().await.map(|written| Executed::Affected(written.rows))
    }

    /// Runs a change without committing it.
    pub async fn stage(
        &self,
        scope: &StatementContext<'_>,
        table: &Arc<Table>,
        rewritten: Rewritten,
    ) -> Result<Staged> {
        scope.session.check_writable()?;
        let mut changes = RowChanges::new(table.clone());
        let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, rewritten.operation)?;
        let mut gathered = Gathered::default();
        match rewritten.shape {
            Shape::Rows => {
                let mut rows = self.inserted_rows(scope, &rewritten).await?;
                while let Some(batch) = rows.stream.try_next().await? {
                    ingest.write(batch).await?;
                }
            }
            Shape::Actions { twice } => {
                gathered.keep = rewritten.returning.is_some();
                let plan = self.plan_change(scope, &rewritten).await?;
                let mut rows =
                    self.planner.run(&plan, &scope.manifest, || self.planner.local_state(scope)).await?;
                let places: Vec<SegmentId> = table.visible(scope.manifest.version).map(|s| s.id).collect();
                while let Some(batch) = rows.stream.try_next().await? {
                    let new = gathered.take(&batch, &places, twice, table)?;
                    if let Some(new) = new {
                        ingest.write(assign(new, ingest.schema(), table)?).await?;
                    }
                }
                changes.deleted = std::mem::take(&mut gathered.deleted);
            }
        }
        changes.add(ingest.stage().await?);
        let version = scope.manifest.version;
        let written = changes.resolve_keys(&self.writer, table, version, rewritten.on_duplicate).await?;
        let returning = match &rewritten.returning {
            Some(returning) => {
                let mut batches = gathered.old_rows;
                self.read_back(table, &changes, &mut batches).await?;
                Some(self.returning(scope, table, returning, batches).await?)
            }
            None => None,
        };
        Ok(Staged { changes, affected: written + gathered.deleted_only, returning })
    }

    /// The rows that an insert writes, with all columns of its table.
    async fn inserted_rows(&self, scope: &StatementContext<'_>, rewritten: &Rewritten) -> Result<RowStream> {
        match self.plan_change(scope, rewritten).await? {
            LogicalPlan::Dml(dml) => {
                self.planner.run(&dml.input, &scope.manifest, || self.planner.state(scope)).await
            }
            plan => Err(Error::internal(format!("an insert was planned as {}", plan.display()))),
        }
    }

    async fn plan_change(&self, scope: &StatementContext<'_>, rewritten: &Rewritten) -> Result<LogicalPlan> {
        bind(self.plan(scope, rewritten).await?, scope.values)
    }

    /// The plan of a change, whose parameters are still open.
    pub async fn plan(&self, scope: &StatementContext<'_>, rewritten: &Rewritten) -> Result<LogicalPlan> {
        let statement = Statement::Statement(Box::new(rewritten.statement.clone()));
        let planned = self.planner.local_state(scope)?.statement_to_plan(statement).await;
        planned.map_err(from_datafusion).map_err(|e| match rewritten.shape {
            Shape::Rows => e,
            // A position in the query that stands for the statement is none in the statement.
            Shape::Actions { .. } => without_position(e),
        })
    }

    /// Reads the rows that are about to be written.
    async fn read_back(
        &self,
        table: &Arc<Table>,
        changes: &RowChanges,
        batches: &mut Vec<RecordBatch>,
    ) -> Result<()> {
        let mut bytes: usize = batches.iter().map(rows_bytes).sum();
        for segment in changes.added.iter().map(|s| &s.0) {
            let pick = RowSelection::AllExcept(inline_union(&segment.deletions)?.into());
            let mut rows = self.writer.reader.scan(table, segment, &table.schema, pick).await?;
            while let Some(found) = rows.try_next().await? {
                bytes += rows_bytes(&found.rows);
                check_returned(bytes)?;
                batches.push(found.rows);
            }
        }
        check_returned(bytes)
    }

    async fn returning(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        returning: &(String, String),
        batches: Vec<RecordBatch>,
    ) -> Result<RowStream> {
        let state = self.returning_state(scope, table, batches)?;
        let plan = plan_returning(&state, returning).await?;
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let rows = self.planner.run(&plan, &scope.manifest, || Ok(state.clone())).await?;
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
        check_returned(batches.iter().map(rows_bytes).sum())?;
        Ok(RowStream::from_batches(schema, batches))
    }

    /// The schema of what a change gives back.
    pub async fn returning_schema(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        returning: &(String, String),
    ) -> Result<SchemaRef> {
        let plan = plan_returning(&self.returning_state(scope, table, vec![])?, returning).await?;
        Ok(Arc::new(plan.schema().as_arrow().clone()))
    }

    fn returning_state(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        batches: Vec<RecordBatch>,
    ) -> Result<SessionState> {
        let relation = MemTable::try_new(types::to_arrow(&table.schema), vec![batches]);
        let relation: Arc<dyn TableProvider> = Arc::new(relation.map_err(from_datafusion)?);
        let relations: Relations = Arc::new(HashMap::from([(RETURNED.to_owned(), relation)]));
        self.planner.state_with(scope, relations)
    }
}

pub async fn plan_returning(state: &SessionState, (items, called): &(String, String)) -> Result<LogicalPlan> {
    let sql = format!("SELECT {items} FROM \"{STATEMENT_SCHEMA}\".\"{RETURNED}\" AS {called}");
    let statement: ast::Statement = parse::plain_statement(&sql)?;
    let planned = state.statement_to_plan(Statement::Statement(Box::new(statement))).await;
    planned.map_err(|e| without_position(from_datafusion(e)).context("RETURNING"))
}

pub fn check_returned(bytes: usize) -> Result<()> {
    if bytes > RETURNING_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "RETURNING would give back more than {RETURNING_BYTES_MAX} bytes; nothing was changed: return fewer \
             columns, or change fewer rows at once"
        )));
    }
    Ok(())
}

/// The engine calls the columns of `VALUES` by their numbers when it finds a null where none may be.
pub fn name_null(error: Error, rewritten: &Rewritten, table: &Table) -> Error {
    let number = |text: &str| text.split_once("Column 'column")?.1.split_once('\'')?.0.parse::<usize>().ok();
    let Some(position) = number(error.message()).filter(|_| error.message().contains("non-nullable")) else {
        return error;
    };
    let named = match &rewritten.statement {
        ast::Statement::Insert(insert) => {
            insert.columns.get(position - 1).map(|c| identifier(&c.to_string()))
        }
        _ => None,
    };
    let own = table.schema.columns.get(position - 1).map(|c| c.name.clone());
    let column = named.or(own).unwrap_or_default();
    Error::invalid(format!("column {column:?} of table {} must not be null", table.name))
}

pub fn without_position(error: Error) -> Error {
    let message = error.message().split(" at Line: ").next().unwrap_or_default().to_owned();
    Error::new(error.kind(), message)
}

/// What actions say, gathered.
#[derive(Default)]
pub struct Gathered {
    deleted: crate::write::keys::RowsOf,
    /// Rows that go and for which none comes.
    deleted_only: u64,
    /// Whether those are to be kept.
    keep: bool,
    old_rows: Vec<RecordBatch>,
}

/// Columns of a batch of actions that are not of the table.
pub const PLACE_COLUMNS: usize = 3;

impl Gathered {
    /// Takes a batch of actions in, and gives the rows to be written.
    fn take(
        &mut self,
        batch: &RecordBatch,
        places: &[SegmentId],
        twice: DuplicateMatch,
        table: &Table,
    ) -> Result<Option<RecordBatch>> {
        let malformed = || Error::internal("actions without their columns");
        if batch.num_columns() < PLACE_COLUMNS {
            return Err(malformed());
        }
        let segments = batch.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(malformed)?;
        let positions = batch.column(1).as_primitive_opt::<UInt64Type>().ok_or_else(malformed)?;
        let actions = batch.column(2).as_primitive_opt::<Int64Type>().ok_or_else(malformed)?;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let action = if actions.is_null(row) { 0 } else { actions.value(row) };
            if action == DELETE || action == UPDATE {
                let segment = places.get(segments.value(row) as usize).ok_or_else(malformed)?;
                let first = self.deleted.entry(*segment).or_default().insert(positions.value(row) as u32);
                if !first && twice == DuplicateMatch::Error {
                    return Err(Error::invalid(format!(
                        "a row of table {} is matched more than once: nothing says which of the matches counts",
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
        let columns: Vec<usize> = (PLACE_COLUMNS..batch.num_columns()).collect();
        let rows = batch.project(&columns).map_err(|e| Error::internal(format!("actions: {e}")))?;
        let pick = |wanted: Vec<u64>| {
            compute::take_record_batch(&rows, &UInt64Array::from(wanted))
                .map_err(|e| Error::internal(format!("actions: {e}")).with_source(e))
        };
        if self.keep && !old.is_empty() {
            let kept = pick(old)?;
            let schema: Arc<Schema> = types::to_arrow(&table.schema);
            self.old_rows.push(assign(kept, &schema, table)?);
            check_returned(self.old_rows.iter().map(rows_bytes).sum())?;
        }
        if new.is_empty() { Ok(None) } else { pick(new).map(Some) }
    }
}
