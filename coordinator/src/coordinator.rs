//! The entry point of the crate: [`Coordinator`] classifies each statement once and passes it to the executor
//! of its kind, inside a transaction or on its own.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow_schema::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use plexus_model::{Error, Manifest, NodeId, Result, Version};
use plexus_query::Engine;
use plexus_raft::Meta;
use tracing::Instrument;
use tracing::field::Empty;

use crate::ddl::executor::DdlExecutor;
use crate::errors::unsupported;
use crate::exec::all_running::AllRunning;
use crate::exec::answer::{answer, answer_rows};
use crate::exec::context::{Executed, StatementContext};
use crate::exec::copy::CopyExecutor;
use crate::exec::described::Described;
use crate::exec::dml::DmlExecutor;
use crate::exec::load::{IngestTarget, Loader, unless_idle};
use crate::exec::plan_cache::PlanCache;
use crate::exec::planner::Planner;
use crate::exec::query::QueryExecutor;
use crate::exec::read_tracking::note_reads;
use crate::exec::retry::{Suspects, until_no_conflict};
use crate::exec::session::Session;
use crate::exec::transaction::Isolation;
use crate::exec::transaction_control::TransactionControl;
use crate::exec::transactions::{TransactionGuard, TransactionId, Transactions};
use crate::limits::{LOAD_IDLE_MAX, READ_INDEX_TIMEOUT};
use crate::peers::Peers;
use crate::running::{self, RunningStatements};
use crate::sql::call;
use crate::sql::kind::{Parsed, StatementKind};
use crate::sql::parameters::{bind, first_row, in_zone, parameter_schema, row_values};
use crate::sql::rewrite::Shape;
use crate::table_ops::ProcedureExecutor;
use crate::write::group_queue::WriteResult;
use crate::write::keys::OnDuplicate;
use crate::write::writer::Writer;

/// The components of a [`Coordinator`].
pub struct CoordinatorOptions {
    /// The id of this node.
    pub node: NodeId,
    /// This node's member of the metadata group.
    pub meta: Arc<Meta>,
    /// The query engine.
    pub engine: Arc<Engine>,
    /// Writes segments and commits them.
    pub writer: Writer,
    /// Reaches other nodes.
    pub peers: Arc<dyn Peers>,
    /// Directory that `COPY ... TO` writes to; `None` disables exports.
    pub export_dir: Option<PathBuf>,
    /// Whether clients may arm failpoints on this node. For tests only.
    pub failpoints: bool,
}

/// Runs the statements of this node's clients.
pub struct Coordinator {
    planner: Planner,
    writer: Writer,
    queries: QueryExecutor,
    dml: DmlExecutor,
    ddl: DdlExecutor,
    copies: CopyExecutor,
    loader: Arc<Loader>,
    procedures: ProcedureExecutor,
    transactions: Arc<Transactions>,
    control: TransactionControl,
    statements: Arc<RunningStatements>,
}

impl Coordinator {
    /// A coordinator with an executor for each kind of statement.
    pub fn new(options: CoordinatorOptions) -> Self {
        let CoordinatorOptions { node, meta, engine, writer, peers, export_dir, failpoints } = options;
        let (interrupts, memory_bytes) = (engine.interrupts().clone(), engine.memory_bytes());
        let statements = Arc::new(RunningStatements::new(node, interrupts, peers.clone(), memory_bytes));
        let queries = AllRunning::new(meta.clone(), statements.clone(), peers.clone());
        let planner = Planner {
            node,
            meta,
            engine,
            suspects: Arc::new(Suspects::default()),
            cache: Arc::new(PlanCache::new(memory_bytes)),
            queries: Arc::new(queries),
        };
        let transactions: Arc<Transactions> = Arc::default();
        let loader = Arc::new(Loader::new(planner.clone(), writer.clone(), transactions.clone()));
        Self {
            queries: QueryExecutor::new(planner.clone()),
            dml: DmlExecutor::new(planner.clone(), writer.clone()),
            ddl: DdlExecutor::new(planner.clone(), writer.clone(), loader.clone()),
            copies: CopyExecutor::new(planner.clone(), export_dir),
            procedures: ProcedureExecutor::new(planner.clone(), writer.clone(), peers, failpoints),
            control: TransactionControl::new(transactions.clone(), writer.clone()),
            loader,
            planner,
            writer,
            transactions,
            statements,
        }
    }

    /// This node's member of the metadata group.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.planner.meta
    }

    /// The statements that run on this node.
    pub fn statements(&self) -> &Arc<RunningStatements> {
        &self.statements
    }

    /// Ends a statement of any node, by its id or by the ticket that it serves. Returns whether it was found.
    ///
    /// # Errors
    /// `Unavailable` when it was not found and a node did not answer.
    pub async fn kill(&self, query: &str) -> Result<bool> {
        self.planner.queries.kill(query).await
    }

    /// The writer that commits rows.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The manifest for a linearizable read.
    ///
    /// # Errors
    /// `Unavailable` when no quorum answers in time.
    pub fn pin<'a>(&'a self) -> BoxFuture<'a, Result<Arc<Manifest>>> {
        Box::pin(async move { self.planner.pin().await })
    }

    /// Whether a statement is a query, decided by its text and by what the session
    /// has prepared. Other statements run as soon as they
    /// arrive, even when they return rows.
    ///
    /// # Errors
    /// `InvalidArgument` when the text cannot be parsed.
    pub fn returns_rows<'a>(&'a self, session: &'a Session, sql: &'a str) -> BoxFuture<'a, Result<bool>> {
        let run = async move { Ok(self.parse(session, sql)?.kind == StatementKind::Query) };
        answer(&self.statements, session, sql, run)
    }

    /// A parsed statement; for an `EXECUTE` the one that the session has prepared.
    fn parse(&self, session: &Session, sql: &str) -> Result<Arc<Parsed>> {
        let parsed = session.prepared().resolve(self.planner.cache.statement(sql)?)?;
        // A session whose timeout is too short must be able to change it.
        if parsed.is_about_settings() {
            running::ignore_timeout();
        }
        Ok(parsed)
    }

    /// Plans a statement without running it. `parameters` are its values if they are bound already.
    ///
    /// # Errors
    /// `InvalidArgument`, `NotFound` or `Unsupported` when the statement cannot be planned.
    pub fn describe<'a>(
        &'a self,
        session: &'a Session,
        sql: &'a str,
        parameters: Option<&'a RecordBatch>,
    ) -> BoxFuture<'a, Result<Described>> {
        let run = async move {
            let parsed = self.parse(session, sql)?;
            self.describe_parsed(session, sql, &parsed, parameters).await.map_err(|e| parsed.locate(e))
        };
        answer(&self.statements, session, sql, run)
    }

    async fn describe_parsed(
        &self,
        session: &Session,
        sql: &str,
        parsed: &Parsed,
        parameters: Option<&RecordBatch>,
    ) -> Result<Described> {
        if !matches!(parsed.kind, StatementKind::Dml | StatementKind::Query) {
            return Ok(Described::without_rows());
        }
        let manifest = match session.transaction() {
            Some(id) => {
                let mut guard = self.transactions.take(id)?;
                self.planner.pin_transaction(session, &mut guard).await?
            }
            None => self.planner.visible(session, parsed.reads).await?,
        };
        let version = manifest.version;
        let context = StatementContext { session, manifest, values: &[], query_id: &running::query_id() };
        if parsed.kind == StatementKind::Dml {
            let (schema, plan) = self.dml.describe(&context, &parsed.statement).await?;
            return Ok(Described { schema, parameters: parameter_schema(&plan)?, version });
        }
        let plan = self.planner.cached_plan(&context, sql, parsed).await?;
        let parameter_fields = parameter_schema(&plan)?;
        let plan = match parameters {
            Some(_) => bind(plan, &first_row(parameters, &session.time_zone())?)?,
            None => plan,
        };
        let schema = match &plan {
            LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::Copy(_) => {
                None
            }
            plan => {
                let schema = self.planner.result_schema(&context, plan).await?;
                Some(parsed.names.apply(schema.as_ref()))
            }
        };
        Ok(Described { schema, parameters: parameter_fields, version })
    }

    /// Runs one statement. `parameters` has one row with its values, if it takes any.
    ///
    /// # Errors
    /// The error of the statement.
    pub fn execute<'a>(
        &'a self,
        session: &'a Session,
        sql: &'a str,
        parameters: Option<&'a RecordBatch>,
    ) -> BoxFuture<'a, Result<Executed>> {
        let run = async move {
            let parsed = self.parse(session, sql)?;
            if parsed.kind == StatementKind::Prepared {
                return self.prepare(session, sql, &parsed).await;
            }
            let values = first_row(parameters, &session.time_zone())?;
            self.execute_statement(session, &parsed, values).await.map_err(|e| parsed.locate(e))
        };
        answer_rows(&self.statements, session, sql, 0, run)
    }

    /// Runs one statement once for each row of parameters. Returns the total number of affected rows.
    ///
    /// # Errors
    /// The error of the first execution that fails, with the number of its row. No row of a DML statement has
    /// an effect then, unless it is part of a transaction: there, those before it stay.
    pub fn execute_many<'a>(
        &'a self,
        session: &'a Session,
        sql: &'a str,
        parameters: &'a [RecordBatch],
    ) -> BoxFuture<'a, Result<u64>> {
        let run = async move {
            let parsed = self.parse(session, sql)?;
            let Some(first) = parameters.first() else {
                return Ok(0);
            };
            let rows = concat_batches(&first.schema(), parameters)
                .map_err(|e| Error::invalid(format!("parameters: {e}")).with_source(e))?;
            let rows = in_zone(&rows, &session.time_zone())?;
            if parsed.kind != StatementKind::Dml {
                return self.execute_rows(session, &parsed, &rows).await;
            }
            if let Some(rows) = self.dml.insert_batch(session, &parsed.statement, &rows).await? {
                return Ok(rows);
            }
            if session.transaction().is_some() || rows.num_rows() < 2 {
                return self.execute_rows(session, &parsed, &rows).await;
            }
            until_no_conflict(|| async {
                let id = self.begin(session, Isolation::Snapshot)?;
                match self.execute_rows(&session.in_transaction(id), &parsed, &rows).await {
                    Ok(affected) => self.end(id, true).await.map(|()| affected),
                    Err(error) => {
                        // If this fails, the transaction ends when it is idle for too long.
                        let _ = self.end(id, false).await;
                        Err(error)
                    }
                }
            })
            .await
        };
        answer(&self.statements, session, sql, run)
    }

    /// Runs a statement for each row of parameters in turn.
    async fn execute_rows(&self, session: &Session, parsed: &Parsed, rows: &RecordBatch) -> Result<u64> {
        let mut affected = 0;
        for row in 0..rows.num_rows() {
            let executed = self.execute_statement(session, parsed, row_values(rows, row)?).await;
            affected +=
                executed.map_err(|e| e.context(format!("row {} of the parameters", row + 1)))?.affected();
        }
        Ok(affected)
    }

    /// Runs several statements in order. Returns the total number of affected rows.
    ///
    /// # Errors
    /// The error of the first statement that fails; earlier statements stay in effect.
    pub fn execute_script<'a>(&'a self, session: &'a Session, sql: &'a str) -> BoxFuture<'a, Result<u64>> {
        let run = async move {
            let mut affected = 0;
            for statement in self.planner.cache.script(sql)? {
                let parsed = session.prepared().resolve(Arc::new(Parsed::new(statement)?))?;
                affected += match parsed.kind {
                    StatementKind::Prepared => self.prepare(session, sql, &parsed).await?,
                    _ => self.execute_statement(session, &parsed, vec![]).await?,
                }
                .affected();
            }
            Ok(affected)
        };
        answer(&self.statements, session, sql, run)
    }

    /// Writes a stream of batches to a table in one commit. `target.mode` decides whether it creates the
    /// table.
    ///
    /// # Errors
    /// `NotFound` or `AlreadyExists`, depending on `target.mode`, and the errors of writing rows. On an error
    /// nothing is written.
    pub fn ingest<'a>(
        &'a self,
        session: &'a Session,
        target: IngestTarget,
        schema: SchemaRef,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> BoxFuture<'a, Result<WriteResult>> {
        Box::pin(async move {
            // A load takes as long as its client sends rows.
            let mut started = self.statements.start(&format!("ingest into {}", target.table), None, 0)?;
            started
                .run(self.loader.ingest(session, target, schema, unless_idle(batches, LOAD_IDLE_MAX)).boxed())
                .await
        })
    }

    /// Runs a query whose ticket was issued at `version`, at that version or a newer one that this node
    /// knows. The node that issued the ticket confirmed the version with a quorum, so this needs no read
    /// index.
    ///
    /// # Errors
    /// The error of the query; `Unavailable` when this node does not reach `version` in time.
    pub fn redeem<'a>(
        &'a self,
        session: &'a Session,
        sql: &'a str,
        parameters: Option<&'a RecordBatch>,
        version: Version,
        ticket: u128,
    ) -> BoxFuture<'a, Result<Executed>> {
        let run = async move {
            let parsed = self.parse(session, sql)?;
            let values = first_row(parameters, &session.time_zone())?;
            if session.transaction().is_some() {
                return self.execute_statement(session, &parsed, values).await.map_err(|e| parsed.locate(e));
            }
            let manifest = self.meta().wait_version(version, READ_INDEX_TIMEOUT).await?;
            let query_id = running::query_id();
            let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
            let manifest = self.planner.visible_to(session, manifest)?;
            let context = StatementContext { session, manifest, values: &values, query_id: &query_id };
            let run = async {
                let plan = self.planner.cached_plan(&context, sql, &parsed).await?;
                Ok(self.queries.run_plan(&context, plan).await?.named(&parsed.names))
            };
            run.boxed().instrument(span).await.map_err(|e| parsed.locate(e))
        };
        answer_rows(&self.statements, session, sql, ticket, run)
    }

    /// Begins a transaction and returns its id.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many transactions are open on this node.
    pub fn begin(&self, session: &Session, isolation: Isolation) -> Result<TransactionId> {
        self.control.begin(session, isolation)
    }

    /// Commits a transaction, or rolls it back. The transaction has ended either way, also on an error.
    /// Rolling back a transaction that has ended changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the transaction to commit is not open on this node; `Conflict` when a concurrent
    /// commit changed the same rows or keys.
    pub fn end<'a>(&'a self, id: TransactionId, commit: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.control.end(id, commit).await })
    }

    /// Sets a setting of a session, or resets it.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown setting or a wrong value, `NotFound` for a schema that does not
    /// exist.
    pub fn set(&self, session: &Session, name: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => session.set(name, value, &self.meta().manifest()),
            None => session.unset(name),
        }
    }

    /// Runs `PREPARE` and `DEALLOCATE`.
    async fn prepare(&self, session: &Session, sql: &str, parsed: &Parsed) -> Result<Executed> {
        session.check_lasting("a prepared statement")?;
        if let Some(prepared) = session.prepared().change(sql, &parsed.statement)? {
            let inner = Parsed::new(prepared.statement.clone())?;
            self.describe_parsed(session, sql, &Parsed { text: Some(sql.into()), ..inner }, None).await?;
            session.prepared().insert(prepared)?;
        }
        Ok(Executed::Affected(0))
    }

    /// Runs a parsed statement, in the transaction of the session if there is one.
    async fn execute_statement(
        &self,
        session: &Session,
        parsed: &Parsed,
        values: Vec<ScalarValue>,
    ) -> Result<Executed> {
        let query_id = running::query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        let run = async {
            if parsed.kind == StatementKind::Transaction {
                return self.control.execute(session, &parsed.statement).await;
            }
            match session.transaction() {
                Some(id) => {
                    let executed = self.execute_in_transaction(id, session, parsed, &values, &query_id).await;
                    if self.transactions.is_gone(id) {
                        // The transaction has expired: the session continues without it.
                        session.set_transaction(None)?;
                    }
                    executed
                }
                None => {
                    until_no_conflict(|| self.dispatch(session, parsed, &values, &query_id).boxed()).await
                }
            }
        };
        // Boxed: the nested future of all kinds of statements exceeds the type depth that the compiler
        // accepts.
        run.boxed().instrument(span).await
    }

    /// Runs a statement in a transaction of its own.
    async fn dispatch(
        &self,
        session: &Session,
        parsed: &Parsed,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        let statement = &parsed.statement;
        match parsed.kind {
            // `execute_statement` does not come here with it, since it must not run in the transaction that
            // it ends.
            StatementKind::Transaction => self.control.execute(session, statement).await,
            StatementKind::Prepared => Err(unsupported(&statement.to_string())),
            StatementKind::Procedure | StatementKind::Ddl => {
                self.run_definition(session, parsed, query_id).await
            }
            StatementKind::Truncate => {
                let context = StatementContext { session, manifest: self.pin().await?, values, query_id };
                self.dml.truncate(&context, statement).await.map(Executed::Affected)
            }
            StatementKind::CopyTo => {
                let manifest = self.planner.visible_to(session, self.pin().await?)?;
                let context = StatementContext { session, manifest, values, query_id };
                self.copies.execute(&context, statement, &parsed.names).await
            }
            StatementKind::Dml => {
                if let Some(inserted) = self.dml.insert_values(session, statement, values, query_id).await? {
                    return Ok(inserted);
                }
                let manifest = self.planner.visible_to(session, self.pin().await?)?;
                let context = StatementContext { session, manifest, values, query_id };
                self.dml.execute(&context, statement).boxed().await
            }
            StatementKind::Query => {
                let manifest = self.planner.visible(session, parsed.reads).await?;
                let context = StatementContext { session, manifest, values, query_id };
                let plan = self.planner.plan(&context, statement.clone()).await?;
                Ok(self.queries.run_plan(&context, plan).await?.named(&parsed.names))
            }
        }
    }

    /// Runs a DDL statement or a procedure.
    async fn run_definition(&self, session: &Session, parsed: &Parsed, query_id: &str) -> Result<Executed> {
        if parsed.kind != StatementKind::Procedure {
            session.check_writable()?;
            return self.ddl.execute(session, &parsed.statement, query_id).await;
        }
        let procedure = call::procedure(&parsed.statement)?;
        let procedure = procedure.ok_or_else(|| unsupported(&parsed.statement.to_string()))?;
        // Statements are ended without a quorum, too.
        let manifest = match procedure.needs_manifest() {
            true => self.pin().await?,
            false => self.meta().manifest(),
        };
        let context = StatementContext { session, manifest, values: &[], query_id };
        self.procedures.call(&context, procedure).await
    }

    /// Runs a statement as part of an open transaction.
    async fn execute_in_transaction(
        &self,
        id: TransactionId,
        session: &Session,
        parsed: &Parsed,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        let mut guard = self.transactions.take(id)?;
        let statement = &parsed.statement;
        if matches!(parsed.kind, StatementKind::Ddl | StatementKind::Procedure) {
            return self.define_in_transaction(guard, session, parsed, query_id).await;
        }
        let manifest = self.planner.pin_transaction(session, &mut guard).await?;
        let context = StatementContext { session, manifest, values, query_id };
        match parsed.kind {
            StatementKind::Truncate => {
                let Some((changes, rows)) = self.dml.truncate_changes(&context, statement)? else {
                    return Ok(Executed::Affected(0));
                };
                guard.stage(&self.writer, changes).await?;
                Ok(Executed::Affected(rows))
            }
            StatementKind::CopyTo => {
                note_reads(&mut guard, &context, &self.copies.plan_source(&context, statement).await?)?;
                self.copies.execute(&context, statement, &parsed.names).await
            }
            StatementKind::Dml => self.stage_dml(&mut guard, &context, statement).await,
            _ => {
                let plan = self.planner.plan(&context, statement.clone()).await?;
                note_reads(&mut guard, &context, &plan)?;
                Ok(self.queries.run_plan(&context, plan).await?.named(&parsed.names))
            }
        }
    }

    /// Runs a DML statement and stages its changes in a transaction.
    async fn stage_dml(
        &self,
        guard: &mut TransactionGuard,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<Executed> {
        let (table, rewritten) = self.dml.rewrite(context, statement).await?;
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        // What is inserted on a conflict, or not, depends on the rows that are there.
        let is_plain_insert =
            matches!(rewritten.shape, Shape::Rows { .. }) && rewritten.on_duplicate == OnDuplicate::Fail;
        if !is_plain_insert {
            guard.note_read(table.id);
        }
        let plan = self.dml.plan(context, &table, &rewritten).await?;
        note_reads(guard, context, &plan)?;
        if let Some(returning) = &rewritten.returning {
            note_reads(guard, context, &self.dml.returning_plan(context, &table, returning).await?)?;
        }
        let staged = self.dml.stage(context, &table, rewritten).boxed().await?;
        guard.stage(&self.writer, staged.changes.clone()).await?;
        Ok(staged.into_executed())
    }

    /// Runs a DDL statement or a procedure while a transaction is open. These commit on their own. They are
    /// accepted until the transaction changes rows, since some clients keep a transaction open all the time.
    /// The transaction then pins a new version with its next statement.
    async fn define_in_transaction(
        &self,
        mut guard: TransactionGuard,
        session: &Session,
        parsed: &Parsed,
        query_id: &str,
    ) -> Result<Executed> {
        guard.restart()?;
        drop(guard);
        until_no_conflict(|| self.run_definition(session, parsed, query_id)).await
    }
}
