//! Statements, from text to rows or to a commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, Statement as PlanStatement};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::FutureExt;
use plexus_model::{Error, ErrorKind, Manifest, NodeId, Result, Table, TableName, Version};
use plexus_query::search::searched_table;
use plexus_query::{ClusterView, Engine, Pin, Placement, Relations, explain};
use plexus_raft::Meta;
use tracing::Instrument;
use tracing::field::Empty;

use crate::change::name_null;
use crate::conform::{arrange, assign, column_names};
use crate::errors::from_datafusion;
use crate::ingest::Writer;
use crate::limits::READ_INDEX_TIMEOUT;
use crate::parse;
use crate::peers::Peers;
use crate::plans::Plans;
use crate::rewrite::{Rewritten, Shape};
use crate::run::{self, RowStream, Suspects};
use crate::session::Session;
use crate::statement::{
    bind, gives_back, is_change, is_definition, is_insert_values, parameter_types, plain_insert, row_values,
    truncate_of, unsupported,
};
use crate::transaction::{Isolation, TransactionGuard, TransactionId, Transactions};
use crate::versions;

/// Times that a statement is run again after something changed underneath it.
const CONFLICT_ATTEMPTS_MAX: usize = 10;

pub struct CoordinatorOptions {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub engine: Arc<Engine>,
    pub writer: Writer,
    pub peers: Arc<dyn Peers>,
    /// Where `COPY ... TO` may write, if anywhere.
    pub export_dir: Option<PathBuf>,
    /// Whether a client may make this node fail, for tests.
    pub failpoints: bool,
}

/// Runs statements on this node.
pub struct Coordinator {
    node: NodeId,
    meta: Arc<Meta>,
    engine: Arc<Engine>,
    writer: Writer,
    peers: Arc<dyn Peers>,
    suspects: Suspects,
    plans: Plans,
    transactions: Arc<Transactions>,
    export_dir: Option<PathBuf>,
    failpoints: bool,
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug)]
pub struct Described {
    /// Of its rows; `None` for statements that return none.
    pub schema: Option<SchemaRef>,
    /// One field a parameter, named by its number from 1 on.
    pub parameters: SchemaRef,
    /// At which it was planned.
    pub version: Version,
}

/// What a statement did.
pub enum Executed {
    Rows(RowStream),
    /// Rows that were written; zero for statements that write none.
    Affected(u64),
    /// What `RETURNING` gives back of the rows that were written.
    Returned(RowStream, u64),
}

impl Executed {
    fn affected(&self) -> u64 {
        match self {
            Self::Rows(_) => 0,
            Self::Affected(rows) | Self::Returned(_, rows) => *rows,
        }
    }
}

/// What one statement runs with.
pub(crate) struct Scope<'a> {
    pub session: &'a Session,
    /// What it sees.
    pub manifest: Arc<Manifest>,
    pub values: &'a [ScalarValue],
    pub query_id: &'a str,
}

impl Coordinator {
    pub fn new(options: CoordinatorOptions) -> Self {
        let CoordinatorOptions { node, meta, engine, writer, peers, export_dir, failpoints } = options;
        let transactions = Arc::default();
        Self {
            node,
            meta,
            engine,
            writer,
            peers,
            suspects: Suspects::default(),
            plans: Plans::default(),
            transactions,
            export_dir,
            failpoints,
        }
    }

    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(crate) fn peers(&self) -> &dyn Peers {
        &*self.peers
    }

    pub(crate) fn transactions(&self) -> &Arc<Transactions> {
        &self.transactions
    }

    pub(crate) fn allows_failpoints(&self) -> bool {
        self.failpoints
    }

    pub(crate) fn export_dir(&self) -> Option<&Path> {
        self.export_dir.as_deref()
    }

    pub(crate) fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// The manifest for a strict read.
    pub async fn pin(&self) -> Result<Arc<Manifest>> {
        self.meta.read(READ_INDEX_TIMEOUT).await
    }

    /// What a session sees of a manifest: all of it, or an older version.
    fn seen(&self, session: &Session, manifest: Arc<Manifest>) -> Result<Arc<Manifest>> {
        match session.read_version() {
            Some(version) => manifest.as_of(version).map(Arc::new),
            None => Ok(manifest),
        }
    }

    /// A state of the engine for a statement.
    pub(crate) fn state(&self, scope: &Scope<'_>) -> Result<SessionState> {
        let pin = self.pinned(scope, Relations::default());
        configure(self.engine.session(pin), scope.session)
    }

    /// The same for a plan that is not spread over nodes.
    pub(crate) fn local_state(&self, scope: &Scope<'_>) -> Result<SessionState> {
        self.state_with(scope, Relations::default())
    }

    /// The same with relations of the statement's own.
    pub(crate) fn state_with(&self, scope: &Scope<'_>, relations: Relations) -> Result<SessionState> {
        let placement = Placement { workers: vec![], task_bytes: u64::MAX };
        let pin = Pin { placement, ..self.pinned(scope, relations) };
        configure(self.engine.session(pin), scope.session)
    }

    fn pinned(&self, scope: &Scope<'_>, relations: Relations) -> Pin {
        let status = self.meta.status();
        let task_bytes = scope.session.task_bytes();
        Pin {
            manifest: scope.manifest.clone(),
            view: ClusterView { leader: status.leader, voters: status.voters },
            placement: run::placement(&scope.manifest, self.node, &self.suspects, task_bytes),
            query_id: scope.query_id.to_owned(),
            relations,
        }
    }

    /// Replaces tables at a version in a statement by what stands for them.
    pub(crate) fn resolve_versions(&self, statement: &mut ast::Statement, scope: &Scope<'_>) -> Result<()> {
        versions::resolve(statement, &self.engine, &scope.manifest, &scope.session.schema())
    }

    /// Makes a statement ready for the planner.
    pub(crate) async fn resolve(&self, statement: &mut ast::Statement, scope: &Scope<'_>) -> Result<()> {
        self.resolve_versions(statement, scope)?;
        self.fill_arguments(statement, scope).await
    }

    /// Whether a statement returns rows that it reads, by its text alone. Others run when they arrive.
    pub fn returns_rows(&self, sql: &str) -> Result<bool> {
        let statement = self.plans.statement(sql)?;
        Ok(!is_definition(&statement)
            && !is_change(&statement)
            && !matches!(*statement, Statement::CopyTo(_)))
    }

    /// Plans a statement without running it; with its parameters, if they are bound already.
    pub async fn describe(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<Described> {
        let statement = self.plans.statement(sql)?;
        let none = || Described { schema: None, parameters: Arc::new(Schema::empty()), version: Version(0) };
        if is_definition(&statement) || matches!(*statement, Statement::CopyTo(_)) {
            return Ok(none());
        }
        let manifest = match session.transaction() {
            Some(id) => {
                let mut taken = self.transactions.take(id)?;
                self.pin_transaction(session, &mut taken).await?
            }
            None => self.seen(session, self.pin().await?)?,
        };
        let version = manifest.version;
        let scope = Scope { session, manifest, values: &[], query_id: "describe" };
        if let Some((table, rewritten)) = self.rewritten(&scope, &statement).await? {
            let plan = self.unbound_change(&scope, &rewritten).await?;
            let schema = match &rewritten.returning {
                Some(returning) => Some(self.returning_schema(&scope, &table, returning).await?),
                None => None,
            };
            return Ok(Described { schema, parameters: parameter_schema(&plan)?, version });
        }
        let plan = self.plan_of_text(&scope, sql, &statement).await?;
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

    /// The plan of a statement, which may be known.
    async fn plan_of_text(&self, scope: &Scope<'_>, sql: &str, statement: &Statement) -> Result<LogicalPlan> {
        let make = self.plan(scope, statement.clone()).boxed();
        self.plans.plan(scope, sql, statement, make).await
    }

    async fn plan(&self, scope: &Scope<'_>, mut statement: Statement) -> Result<LogicalPlan> {
        match &mut statement {
            Statement::Statement(statement) => self.resolve(statement, scope).await?,
            Statement::Explain(explained) => {
                if let Statement::Statement(statement) = explained.statement.as_mut() {
                    self.resolve(statement, scope).await?;
                }
            }
            _ => {}
        }
        self.state(scope)?.statement_to_plan(statement).await.map_err(from_datafusion)
    }

    /// Runs one statement, with one row of parameters if it takes any.
    pub async fn execute(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<Executed> {
        let statement = parse::statement(sql)?;
        let values = match parameters {
            Some(batch) => row_values(batch, 0)?,
            None => vec![],
        };
        self.execute_statement(session, statement, values).await
    }

    /// Runs one statement once for each row of parameters and returns the rows that it affected in all.
    pub async fn execute_many(
        &self,
        session: &Session,
        sql: &str,
        parameters: &[RecordBatch],
    ) -> Result<u64> {
        let statement = parse::statement(sql)?;
        let mut affected = 0;
        for batch in parameters {
            if let Some(rows) = self.insert_batch(session, &statement, batch).await? {
                affected += rows;
                continue;
            }
            for row in 0..batch.num_rows() {
                let values = row_values(batch, row)?;
                affected += self.execute_statement(session, statement.clone(), values).await?.affected();
            }
        }
        Ok(affected)
    }

    /// Runs several statements after each other and returns the rows that they affected in all.
    pub async fn execute_script(&self, session: &Session, sql: &str) -> Result<u64> {
        let mut affected = 0;
        for statement in parse::statements(sql)? {
            affected += self.execute_statement(session, statement, vec![]).await?.affected();
        }
        Ok(affected)
    }

    async fn execute_statement(
        &self,
        session: &Session,
        statement: Statement,
        values: Vec<ScalarValue>,
    ) -> Result<Executed> {
        let query_id = new_query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        let run = async {
            if let Some(executed) = self.control(session, &statement).await? {
                return Ok(executed);
            }
            match session.transaction() {
                Some(id) => {
                    let executed = self.execute_in(id, session, statement, &values, &query_id).await;
                    if self.transactions.is_gone(id) {
                        // The session goes on without it.
                        session.set_transaction(None)?;
                    }
                    executed
                }
                None => {
                    until_no_conflict(|| self.attempt(session, statement.clone(), &values, &query_id).boxed())
                        .await
                }
            }
        };
        // On the heap: one future of all kinds of statements is deeper than the compiler likes.
        run.boxed().instrument(span).await
    }

    /// Runs a statement that is a transaction of its own.
    async fn attempt(
        &self,
        session: &Session,
        statement: Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        if let Some(executed) = self.define(session, &statement, query_id).await? {
            return Ok(executed);
        }
        if let Statement::CopyTo(copy) = &statement {
            let manifest = self.seen(session, self.pin().await?)?;
            return self.copy_to(&Scope { session, manifest, values, query_id }, copy).await;
        }
        if let Some(inserted) = self.insert_values(session, &statement, values, query_id).await? {
            return Ok(inserted);
        }
        let manifest = self.seen(session, self.pin().await?)?;
        let scope = Scope { session, manifest, values, query_id };
        match self.rewritten(&scope, &statement).await? {
            Some((table, rewritten)) => self.change(&scope, table, rewritten).boxed().await,
            None => self.run_at(&scope, statement).await,
        }
    }

    // Transactions.

    /// Begins a transaction and says what it is called.
    pub fn begin(&self, isolation: Isolation) -> Result<TransactionId> {
        self.transactions.begin(isolation)
    }

    /// Commits a transaction, or forgets it. Either way it has ended.
    pub async fn end(&self, id: TransactionId, commit: bool) -> Result<()> {
        let transaction = self.transactions.take(id)?.end();
        if !commit {
            return Ok(());
        }
        if let Some(applied) = transaction.commit(&self.writer).await? {
            // The next statement of this client may plan against what this node knows.
            self.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        }
        Ok(())
    }

    /// `BEGIN`, `COMMIT` and `ROLLBACK`.
    async fn control(&self, session: &Session, statement: &Statement) -> Result<Option<Executed>> {
        let Statement::Statement(statement) = statement else {
            return Ok(None);
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
            _ => return Ok(None),
        }
        Ok(Some(Executed::Affected(0)))
    }

    /// Runs a statement of a transaction.
    async fn execute_in(
        &self,
        id: TransactionId,
        session: &Session,
        statement: Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        let mut taken = self.transactions.take(id)?;
        if let Some(truncate) = truncate_of(&statement) {
            let manifest = self.pin_transaction(session, &mut taken).await?;
            let scope = Scope { session, manifest, values, query_id };
            let Some((changes, rows)) = self.truncated(&scope, truncate)? else {
                return Ok(Executed::Affected(0));
            };
            taken.stage(self.writer(), changes).await?;
            return Ok(Executed::Affected(rows));
        }
        if is_definition(&statement) {
            return self.define_in(taken, session, statement, query_id).await;
        }
        let manifest = self.pin_transaction(session, &mut taken).await?;
        let scope = Scope { session, manifest, values, query_id };
        if let Statement::CopyTo(copy) = &statement {
            note_reads(&mut taken, &scope, &self.copied(&scope, copy).await?)?;
            return self.copy_to(&scope, copy).await;
        }
        if let Some((table, rewritten)) = self.rewritten(&scope, &statement).await? {
            tracing::Span::current().record("table", tracing::field::display(&table.name));
            if rewritten.shape != Shape::Rows {
                taken.note_read(table.id);
            }
            let plan = self.unbound_change(&scope, &rewritten).await?;
            note_reads(&mut taken, &scope, &plan)?;
            let staged = self.stage(&scope, &table, rewritten).boxed().await?;
            taken.stage(self.writer(), staged.changes.clone()).await?;
            return Ok(staged.into_executed());
        }
        let plan = self.plan(&scope, statement).await?;
        note_reads(&mut taken, &scope, &plan)?;
        self.run_plan(&scope, plan).await
    }

    /// Definitions are not part of transactions. They are let through between them, as clients that know no
    /// other mode need it: before the first change, after which the transaction starts anew.
    async fn define_in(
        &self,
        mut taken: TransactionGuard,
        session: &Session,
        statement: Statement,
        query_id: &str,
    ) -> Result<Executed> {
        taken.restart()?;
        drop(taken);
        let defined = until_no_conflict(|| self.define(session, &statement, query_id)).await?;
        defined.ok_or_else(|| unsupported(&statement.to_string()))
    }

    /// What a transaction sees, from its first statement on.
    pub(crate) async fn pin_transaction(
        &self,
        session: &Session,
        taken: &mut TransactionGuard,
    ) -> Result<Arc<Manifest>> {
        if taken.manifest().is_none() {
            taken.pin(self.pin().await?);
        }
        match taken.manifest() {
            Some(manifest) => self.seen(session, manifest.clone()),
            None => Err(Error::internal("a transaction without a version")),
        }
    }

    /// Runs a query whose ticket was made at `version`: there, or at a newer version that this node knows.
    /// Whoever made the ticket has asked the quorum, so this does not ask again.
    pub async fn redeem(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
        version: Version,
    ) -> Result<Executed> {
        let statement = self.plans.statement(sql)?;
        let values = parameters.map_or(Ok(vec![]), |batch| row_values(batch, 0))?;
        if session.transaction().is_some() {
            return self.execute_statement(session, Arc::unwrap_or_clone(statement), values).await;
        }
        let manifest = self.meta.wait_version(version, READ_INDEX_TIMEOUT).await?;
        let query_id = new_query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        let manifest = self.seen(session, manifest)?;
        let scope = Scope { session, manifest, values: &values, query_id: &query_id };
        let run = async {
            let plan = self.plan_of_text(&scope, sql, &statement).await?;
            self.run_plan(&scope, plan).await
        };
        run.boxed().instrument(span).await
    }

    async fn run_at(&self, scope: &Scope<'_>, statement: Statement) -> Result<Executed> {
        let plan = self.plan(scope, statement).await?;
        self.run_plan(scope, plan).await
    }

    async fn run_plan(&self, scope: &Scope<'_>, plan: LogicalPlan) -> Result<Executed> {
        tracing::Span::current().record("version", scope.manifest.version.0);
        let plan = bind(plan, scope.values)?;
        match plan {
            LogicalPlan::Explain(ref inner) => self.explain(&self.state(scope)?, &plan, &inner.plan).await,
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                scope.session.set(&set.variable, &set.value)?;
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(PlanStatement::ResetVariable(reset)) => {
                scope.session.unset(&reset.variable);
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(other) => Err(unsupported(&other.display().to_string())),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => {
                Err(unsupported(&plan.display().to_string()))
            }
            plan => self.query(scope, &plan).await.map(Executed::Rows),
        }
    }

    pub(crate) async fn query(&self, scope: &Scope<'_>, plan: &LogicalPlan) -> Result<RowStream> {
        // The engine would write files and tables of its own, wherever in a plan it finds that.
        let writes =
            |p: &LogicalPlan| matches!(p, LogicalPlan::Copy(_) | LogicalPlan::Dml(_) | LogicalPlan::Ddl(_));
        if plan.exists(|p| Ok(writes(p))).map_err(from_datafusion)? {
            return Err(unsupported("a query that writes"));
        }
        let rows = run::run(plan, &self.suspects, &scope.manifest, || self.state(scope)).await?;
        // What `describe` promised: the physical plan may know better which columns are never null, and
        // clients compare.
        Ok(RowStream { schema: Arc::new(plan.schema().as_arrow().clone()), ..rows })
    }

    async fn explain(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
        explained: &LogicalPlan,
    ) -> Result<Executed> {
        let physical = explain(state, explained).await.map_err(from_datafusion)?;
        let kinds = ["logical_plan", "physical_plan"];
        let texts = [explained.display_indent().to_string(), physical];
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let columns = vec![
            Arc::new(arrow::array::StringArray::from_iter_values(kinds)) as arrow::array::ArrayRef,
            Arc::new(arrow::array::StringArray::from_iter_values(texts)),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns)
            .map_err(|e| Error::internal(format!("explain: {e}")).with_source(e))?;
        Ok(Executed::Rows(RowStream::from_batches(schema, vec![batch])))
    }

    /// `INSERT ... VALUES`, planned against what this node knows: the commit checks that the schema is
    /// still that one, so a read index would only cost time.
    async fn insert_values(
        &self,
        session: &Session,
        statement: &Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Option<Executed>> {
        if !is_change(statement) || session.read_version().is_some() {
            return Ok(None);
        }
        let scope = Scope { session, manifest: self.meta.manifest(), values, query_id };
        // What does not plan here may plan at the newest version; that decides, and words the error.
        let Ok(Some((table, rewritten))) = self.rewritten(&scope, statement).await else {
            return Ok(None);
        };
        let Rewritten { statement, shape: Shape::Rows, returning: None, .. } = &rewritten else {
            return Ok(None);
        };
        if !is_insert_values(statement) {
            return Ok(None);
        }
        let statement = Statement::Statement(Box::new(statement.clone()));
        let pin = self.pinned(&scope, Relations::default());
        let state = configure(self.engine.literal_session(pin), session)?;
        let Ok(plan) = state.statement_to_plan(statement).await else {
            return Ok(None);
        };
        let LogicalPlan::Dml(dml) = bind(plan, values)? else {
            return Ok(None);
        };
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        tracing::Span::current().record("version", scope.manifest.version.0);
        let insert_into = table.clone();
        let written = async {
            let rows = run::run(&dml.input, &self.suspects, &scope.manifest, || Ok(state.clone())).await?;
            self.insert(table, &rewritten, rows).await
        };
        match written.await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
            result => result.map(Some).map_err(|e| name_null(e, &rewritten, &insert_into)),
        }
    }

    /// `executemany` of `INSERT INTO t VALUES ($1, ..., $n)`: the parameters are the rows.
    async fn insert_batch(
        &self,
        session: &Session,
        statement: &Statement,
        batch: &RecordBatch,
    ) -> Result<Option<u64>> {
        if !is_change(statement) || session.transaction().is_some() || gives_back(statement) {
            return Ok(None);
        }
        let attempt = || async {
            let scope = Scope { session, manifest: self.pin().await?, values: &[], query_id: "executemany" };
            let Some((table, rewritten)) = self.rewritten(&scope, statement).await? else {
                return Ok(None);
            };
            let columns = match rewritten.shape {
                Shape::Rows => plain_insert(&rewritten.statement, batch.num_columns()),
                Shape::Actions { .. } => None,
            };
            let Some(columns) = columns else {
                return Ok(None);
            };
            let columns = if columns.is_empty() { column_names(&table) } else { columns };
            let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, "insert")?;
            ingest.write(assign(arrange(batch, &columns, &table)?, ingest.schema(), &table)?).await?;
            ingest.finish().await.map(|written| Some(written.rows))
        };
        until_no_conflict(attempt).await
    }
}

/// Notes the tables that a plan reads.
fn note_reads(taken: &mut TransactionGuard, scope: &Scope<'_>, plan: &LogicalPlan) -> Result<()> {
    let mut names: Vec<TableReference> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.push(scan.table_name.clone());
        }
        if let Some(table) = searched_table(node) {
            taken.note_read(table);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    let schema = scope.session.schema();
    for name in names {
        let name = TableName::new(name.schema().unwrap_or(&schema), name.table());
        if let Some(id) = scope.manifest.names.get(&name) {
            taken.note_read(*id);
        }
    }
    Ok(())
}

fn isolation(modes: &[ast::TransactionMode]) -> Result<Isolation> {
    let mut wanted = Isolation::default();
    for mode in modes {
        match mode {
            ast::TransactionMode::IsolationLevel(ast::TransactionIsolationLevel::Serializable) => {
                wanted = Isolation::Serializable;
            }
            // Snapshots are at least as strong as the others.
            ast::TransactionMode::IsolationLevel(_) => wanted = Isolation::Snapshot,
            ast::TransactionMode::AccessMode(_) => {}
        }
    }
    Ok(wanted)
}

/// One field a parameter, named by its number.
fn parameter_schema(plan: &LogicalPlan) -> Result<SchemaRef> {
    let types = parameter_types(plan)?;
    let fields = types.into_iter().enumerate().map(|(i, t)| {
        // A type that does not follow from the statement is called text: clients refuse null.
        Field::new((i + 1).to_string(), if t.is_null() { DataType::Utf8 } else { t }, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// Runs a statement again when something changed underneath it, up to a bound.
async fn until_no_conflict<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    for _ in 1..CONFLICT_ATTEMPTS_MAX {
        match attempt().await {
            Err(e) if e.kind() == ErrorKind::Conflict => tracing::debug!(error = %e, "running again"),
            result => return result,
        }
    }
    attempt().await
}

pub(crate) fn new_query_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// The settings of a session, in a state of the engine.
fn configure(mut state: SessionState, session: &Session) -> Result<SessionState> {
    let options = state.config_mut().options_mut();
    options.catalog.default_schema = session.schema();
    for (name, value) in session.engine_settings() {
        options.set(&name, &value).map_err(from_datafusion)?;
    }
    Ok(state)
}

pub(crate) fn find(manifest: &Manifest, name: &TableName) -> Result<Arc<Table>> {
    manifest.table(name).cloned().ok_or_else(|| Error::not_found(format!("table {name} does not exist")))
}
