//! The coordinator of a node: classifies each statement once and hands it to the executor of its kind.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::FutureExt;
use futures::stream::BoxStream;
use plexus_model::{Error, Manifest, NodeId, Result, Version};
use plexus_query::Engine;
use plexus_raft::Meta;
use tracing::Instrument;
use tracing::field::Empty;

use crate::ddl::executor::DdlExecutor;
use crate::errors::unsupported;
use crate::exec::context::{Executed, StatementContext, new_query_id};
use crate::exec::copy::CopyExecutor;
use crate::exec::dml::DmlExecutor;
use crate::exec::load::{IngestTarget, Loader};
use crate::exec::planner::Planner;
use crate::exec::query::QueryExecutor;
use crate::exec::retry::{Suspects, until_no_conflict};
use crate::exec::session::Session;
use crate::exec::transaction::Isolation;
use crate::exec::transactions::{TransactionGuard, TransactionId, Transactions, isolation, note_reads};
use crate::limits::READ_INDEX_TIMEOUT;
use crate::peers::Peers;
use crate::sql::kind::{Parsed, StatementKind};
use crate::sql::parameters::{bind, parameter_schema, row_values};
use crate::sql::rewrite::Shape;
use crate::sql::{call, parse};
use crate::table_ops::ProcedureExecutor;
use crate::write::group_queue::Written;
use crate::write::writer::Writer;

/// What a coordinator is assembled from.
pub struct CoordinatorOptions {
    /// This node.
    pub node: NodeId,
    /// This node's member of the metadata group.
    pub meta: Arc<Meta>,
    /// The query engine.
    pub engine: Arc<Engine>,
    /// Commits rows.
    pub writer: Writer,
    /// Reaches other nodes.
    pub peers: Arc<dyn Peers>,
    /// Where `COPY ... TO` may write, if anywhere.
    pub export_dir: Option<PathBuf>,
    /// Whether a client may make this node fail, for tests.
    pub failpoints: bool,
}

/// Runs statements on this node.
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
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug)]
pub struct Described {
    /// Schema of its rows; `None` for statements that return none.
    pub schema: Option<SchemaRef>,
    /// One field per parameter, named by its number from 1 on.
    pub parameters: SchemaRef,
    /// Version at which it was planned.
    pub version: Version,
}

impl Described {
    /// A statement without rows and parameters.
    fn nothing() -> Self {
        Self { schema: None, parameters: Arc::new(Schema::empty()), version: Version(0) }
    }
}

impl Coordinator {
    /// A coordinator with an executor for each kind of statement.
    pub fn new(options: CoordinatorOptions) -> Self {
        let CoordinatorOptions { node, meta, engine, writer, peers, export_dir, failpoints } = options;
        let planner =
            Planner { node, meta, engine, suspects: Arc::new(Suspects::default()), cache: Arc::default() };
        let transactions: Arc<Transactions> = Arc::default();
        let loader = Arc::new(Loader::new(planner.clone(), writer.clone(), transactions.clone()));
        Self {
            queries: QueryExecutor::new(planner.clone()),
            dml: DmlExecutor::new(planner.clone(), writer.clone()),
            ddl: DdlExecutor::new(planner.clone(), writer.clone(), loader.clone()),
            copies: CopyExecutor::new(planner.clone(), export_dir),
            procedures: ProcedureExecutor::new(planner.clone(), writer.clone(), peers, failpoints),
            loader,
            planner,
            writer,
            transactions,
        }
    }

    /// This node's member of the metadata group.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.planner.meta
    }

    /// What commits rows.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The manifest for a linearizable read.
    ///
    /// # Errors
    /// `Unavailable` when no quorum answers in time.
    pub async fn pin(&self) -> Result<Arc<Manifest>> {
        self.planner.pin().await
    }

    /// Whether a statement returns rows that it reads, by its text alone. Others run when they arrive.
    ///
    /// # Errors
    /// `InvalidArgument` when the text cannot be parsed.
    pub fn returns_rows(&self, sql: &str) -> Result<bool> {
        Ok(self.planner.cache.statement(sql)?.kind == StatementKind::Query)
    }

    /// PlanCache a statement without running it; with its parameters, if they are bound already.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub async fn describe(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<Described> {
        let parsed = self.planner.cache.statement(sql)?;
        if !matches!(parsed.kind, StatementKind::Dml | StatementKind::Query) {
            return Ok(Described::nothing());
        }
        let manifest = match session.transaction() {
            Some(id) => {
                let mut guard = self.transactions.take(id)?;
                self.planner.pin_transaction(session, &mut guard).await?
            }
            None => self.planner.visible_to(session, self.pin().await?)?,
        };
        let version = manifest.version;
        let scope = StatementContext { session, manifest, values: &[], query_id: "describe" };
        if parsed.kind == StatementKind::Dml {
            let (schema, plan) = self.dml.describe(&scope, &parsed.statement).await?;
            return Ok(Described { schema, parameters: parameter_schema(&plan)?, version });
        }
        let plan = self.planner.plan_of_text(&scope, sql, &parsed.statement).await?;
        let parameter_fields = parameter_schema(&plan)?;
        let plan = match parameters {
            Some(batch) => bind(plan, &row_values(batch, 0)?)?,
            None => plan,
        };
        let schema = match &plan {
            LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::Copy(_) => {
                None
            }
            plan => Some(Arc::new(plan.schema().as_arrow().clone())),
        };
        Ok(Described { schema, parameters: parameter_fields, version })
    }

    /// Runs one statement, with one row of parameters if it takes any.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn execute(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<Executed> {
        let parsed = self.planner.cache.statement(sql)?;
        let values = parameters.map_or(Ok(vec![]), |batch| row_values(batch, 0))?;
        self.execute_statement(session, &parsed, values).await
    }

    /// Runs one statement once for each row of parameters and returns the rows that it affected in all.
    ///
    /// # Errors
    /// Those of the statement; rows before the one that failed stay written.
    pub async fn execute_many(
        &self,
        session: &Session,
        sql: &str,
        parameters: &[RecordBatch],
    ) -> Result<u64> {
        let parsed = self.planner.cache.statement(sql)?;
        let mut affected = 0;
        for batch in parameters {
            if parsed.kind == StatementKind::Dml
                && let Some(rows) = self.dml.insert_batch(session, &parsed.statement, batch).await?
            {
                affected += rows;
                continue;
            }
            for row in 0..batch.num_rows() {
                let values = row_values(batch, row)?;
                affected += self.execute_statement(session, &parsed, values).await?.affected();
            }
        }
        Ok(affected)
    }

    /// Runs several statements after each other and returns the rows that they affected in all.
    ///
    /// # Errors
    /// Those of the first statement that fails; those before it stay in effect.
    pub async fn execute_script(&self, session: &Session, sql: &str) -> Result<u64> {
        let mut affected = 0;
        for statement in parse::statements(sql)? {
            let parsed = Parsed::from(statement);
            affected += self.execute_statement(session, &parsed, vec![]).await?.affected();
        }
        Ok(affected)
    }

    /// Writes a stream of batches to a table, which it may create, in one commit.
    ///
    /// # Errors
    /// `NotFound` and `AlreadyExists` by the mode of `target`, and those of writing rows. Nothing is written then.
    pub async fn ingest(
        &self,
        session: &Session,
        target: IngestTarget,
        schema: SchemaRef,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<Written> {
        self.loader.ingest(session, target, schema, batches).await
    }

    /// Runs a query whose ticket was made at `version`: there, or at a newer version that this node knows. Whoever
    /// made the ticket has confirmed the version with the quorum, so this does not.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn redeem(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
        version: Version,
    ) -> Result<Executed> {
        let parsed = self.planner.cache.statement(sql)?;
        let values = parameters.map_or(Ok(vec![]), |batch| row_values(batch, 0))?;
        if session.transaction().is_some() {
            return self.execute_statement(session, &parsed, values).await;
        }
        let manifest = self.meta().wait_version(version, READ_INDEX_TIMEOUT).await?;
        let query_id = new_query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        let manifest = self.planner.visible_to(session, manifest)?;
        let scope = StatementContext { session, manifest, values: &values, query_id: &query_id };
        let run = async {
            let plan = self.planner.plan_of_text(&scope, sql, &parsed.statement).await?;
            self.queries.run_plan(&scope, plan).await
        };
        run.boxed().instrument(span).await
    }

    /// Begins a transaction and returns the id that names it.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many are open.
    pub fn begin(&self, isolation: Isolation) -> Result<TransactionId> {
        self.transactions.begin(isolation)
    }

    /// Commits a transaction, or rolls it back. Either way it has ended.
    ///
    /// # Errors
    /// `NotFound` when it is not open on this node; `Conflict` when another transaction committed first.
    pub async fn end(&self, id: TransactionId, commit: bool) -> Result<()> {
        let transaction = self.transactions.take(id)?.end();
        if !commit {
            return Ok(());
        }
        if let Some(applied) = transaction.commit(&self.writer).await? {
            // The next statement of this client may plan against what this node knows.
            self.meta().wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        }
        Ok(())
    }

    async fn execute_statement(
        &self,
        session: &Session,
        parsed: &Parsed,
        values: Vec<ScalarValue>,
    ) -> Result<Executed> {
        let query_id = new_query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        let run = async {
            if parsed.kind == StatementKind::Transaction {
                return self.control(session, &parsed.statement).await;
            }
            match session.transaction() {
                Some(id) => {
                    let executed = self.execute_in(id, session, parsed, &values, &query_id).await;
                    if self.transactions.is_gone(id) {
                        // The session goes on without it.
                        session.set_transaction(None)?;
                    }
                    executed
                }
                None => until_no_conflict(|| self.attempt(session, parsed, &values, &query_id).boxed()).await,
            }
        };
        // On the heap: one future of all kinds of statements is deeper than the compiler likes.
        run.boxed().instrument(span).await
    }

    /// Runs a statement that is a transaction of its own.
    async fn attempt(
        &self,
        session: &Session,
        parsed: &Parsed,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        let statement = &parsed.statement;
        match parsed.kind {
            StatementKind::Transaction => self.control(session, statement).await,
            StatementKind::Procedure | StatementKind::Ddl => self.define(session, parsed, query_id).await,
            StatementKind::Truncate => {
                let scope = StatementContext { session, manifest: self.pin().await?, values, query_id };
                self.dml.truncate(&scope, statement).await.map(Executed::Affected)
            }
            StatementKind::CopyTo => {
                let manifest = self.planner.visible_to(session, self.pin().await?)?;
                self.copies
                    .execute(&StatementContext { session, manifest, values, query_id }, statement)
                    .await
            }
            StatementKind::Dml => {
                if let Some(inserted) = self.dml.insert_values(session, statement, values, query_id).await? {
                    return Ok(inserted);
                }
                let manifest = self.planner.visible_to(session, self.pin().await?)?;
                let scope = StatementContext { session, manifest, values, query_id };
                self.dml.execute(&scope, statement).boxed().await
            }
            StatementKind::Query => {
                let manifest = self.planner.visible_to(session, self.pin().await?)?;
                let scope = StatementContext { session, manifest, values, query_id };
                let plan = self.planner.plan(&scope, statement.clone()).await?;
                self.queries.run_plan(&scope, plan).await
            }
        }
    }

    /// Runs a definition or a procedure.
    async fn define(&self, session: &Session, parsed: &Parsed, query_id: &str) -> Result<Executed> {
        if parsed.kind != StatementKind::Procedure {
            return self.ddl.execute(session, &parsed.statement, query_id).await;
        }
        let procedure = call::procedure(&parsed.statement)?;
        let procedure = procedure.ok_or_else(|| unsupported(&parsed.statement.to_string()))?;
        let scope = StatementContext { session, manifest: self.pin().await?, values: &[], query_id };
        self.procedures.call(&scope, procedure).await
    }

    /// `BEGIN`, `COMMIT` and `ROLLBACK`.
    async fn control(&self, session: &Session, statement: &Statement) -> Result<Executed> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        let open =
            || session.transaction().ok_or_else(|| Error::invalid("there is no transaction in progress"));
        match statement.as_ref() {
            ast::Statement::StartTransaction { modes, .. } => {
                if session.transaction().is_some() {
                    return Err(Error::invalid("a transaction is in progress already"));
                }
                session.set_transaction(Some(self.begin(isolation(modes)?)?))?;
            }
            ast::Statement::Commit { .. } => {
                let id = open()?;
                session.set_transaction(None)?;
                self.end(id, true).await?;
            }
            ast::Statement::Rollback { savepoint: Some(_), .. } => {
                return Err(Error::unsupported("savepoints are not supported"));
            }
            ast::Statement::Rollback { .. } => {
                let id = open()?;
                session.set_transaction(None)?;
                self.end(id, false).await?;
            }
            other => return Err(unsupported(&other.to_string())),
        }
        Ok(Executed::Affected(0))
    }

    /// Runs a statement of a transaction.
    async fn execute_in(
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
            return self.define_in(guard, session, parsed, query_id).await;
        }
        let manifest = self.planner.pin_transaction(session, &mut guard).await?;
        let scope = StatementContext { session, manifest, values, query_id };
        match parsed.kind {
            StatementKind::Truncate => {
                let Some((changes, rows)) = self.dml.truncated(&scope, statement)? else {
                    return Ok(Executed::Affected(0));
                };
                guard.stage(&self.writer, changes).await?;
                Ok(Executed::Affected(rows))
            }
            StatementKind::CopyTo => {
                note_reads(&mut guard, &scope, &self.copies.plan_source(&scope, statement).await?)?;
                self.copies.execute(&scope, statement).await
            }
            StatementKind::Dml => self.change_in(&mut guard, &scope, statement).await,
            _ => {
                let plan = self.planner.plan(&scope, statement.clone()).await?;
                note_reads(&mut guard, &scope, &plan)?;
                self.queries.run_plan(&scope, plan).await
            }
        }
    }

    /// Stages a change of rows in a transaction.
    async fn change_in(
        &self,
        guard: &mut TransactionGuard,
        scope: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<Executed> {
        let (table, rewritten) = self.dml.rewrite(scope, statement).await?;
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        if rewritten.shape != Shape::Rows {
            guard.note_read(table.id);
        }
        let plan = self.dml.plan(scope, &rewritten).await?;
        note_reads(guard, scope, &plan)?;
        let staged = self.dml.stage(scope, &table, rewritten).boxed().await?;
        guard.stage(&self.writer, staged.changes.clone()).await?;
        Ok(staged.into_executed())
    }

    /// Definitions are not part of transactions. They are accepted before the first change, as clients that always
    /// have a transaction open need it; the transaction then starts anew.
    async fn define_in(
        &self,
        mut guard: TransactionGuard,
        session: &Session,
        parsed: &Parsed,
        query_id: &str,
    ) -> Result<Executed> {
        guard.restart()?;
        drop(guard);
        until_no_conflict(|| self.define(session, parsed, query_id)).await
    }
}
