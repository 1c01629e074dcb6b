//! Statements, from text to rows or to a commit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, Statement as PlanStatement, WriteOp};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use futures::TryStreamExt;
use plexus_model::{Command, Error, ErrorKind, Manifest, NodeId, Result, Table, TableName, Version};
use plexus_query::{ClusterView, Engine, Pin, explain};
use plexus_raft::Meta;
use tracing::Instrument;
use tracing::field::Empty;

use crate::call::{self, Procedure};
use crate::conform::{arrange, assign, column_names};
use crate::ddl;
use crate::errors::from_datafusion;
use crate::ingest::Writer;
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::parse;
use crate::peers::Peers;
use crate::removal;
use crate::run::{self, Rows, Suspects};
use crate::session::Session;

/// Times that a statement is run again after something changed underneath it.
const CONFLICT_ATTEMPTS_MAX: usize = 5;
/// Parameters of a statement.
const PARAMETERS_MAX: usize = 65_535;

pub struct CoordinatorOptions {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub engine: Arc<Engine>,
    pub writer: Writer,
    pub peers: Arc<dyn Peers>,
}

/// Runs statements on this node.
pub struct Coordinator {
    node: NodeId,
    meta: Arc<Meta>,
    engine: Arc<Engine>,
    writer: Writer,
    peers: Arc<dyn Peers>,
    suspects: Suspects,
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
    Rows(Rows),
    /// Rows that were written; zero for statements that write none.
    Affected(u64),
}

impl Coordinator {
    pub fn new(options: CoordinatorOptions) -> Self {
        let CoordinatorOptions { node, meta, engine, writer, peers } = options;
        Self { node, meta, engine, writer, peers, suspects: Suspects::default() }
    }

    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The manifest for a strict read.
    pub async fn pin(&self) -> Result<Arc<Manifest>> {
        self.meta.read(READ_INDEX_TIMEOUT).await
    }

    fn session_state(
        &self,
        session: &Session,
        manifest: &Arc<Manifest>,
        query_id: &str,
    ) -> Result<SessionState> {
        configure(self.engine.session(self.pinned(session, manifest, query_id)), session)
    }

    fn pinned(&self, session: &Session, manifest: &Arc<Manifest>, query_id: &str) -> Pin {
        let status = self.meta.status();
        Pin {
            manifest: manifest.clone(),
            view: ClusterView { leader: status.leader, voters: status.voters },
            placement: run::placement(manifest, self.node, &self.suspects, session.task_bytes()),
            query_id: query_id.to_owned(),
        }
    }

    /// Whether a statement returns rows, by its text alone. Those that do not need no plan before they run.
    pub fn returns_rows(&self, sql: &str) -> Result<bool> {
        let statement = parse::statement(sql)?;
        Ok(!is_definition(&statement) && insert_of(&statement).is_none())
    }

    /// Plans a statement without running it; with its parameters, if they are bound already.
    pub async fn describe(
        &self,
        session: &Session,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<Described> {
        let statement = parse::statement(sql)?;
        let none = || Described { schema: None, parameters: Arc::new(Schema::empty()), version: Version(0) };
        if is_definition(&statement) {
            return Ok(none());
        }
        let manifest = self.pin().await?;
        let state = self.session_state(session, &manifest, "describe")?;
        let plan = state.statement_to_plan(statement).await.map_err(from_datafusion)?;
        let types = parameter_types(&plan)?;
        let fields: Vec<Field> = types
            .into_iter()
            .enumerate()
            // A type that does not follow from the statement is called text: clients refuse null.
            .map(|(i, t)| Field::new((i + 1).to_string(), if t.is_null() { DataType::Utf8 } else { t }, true))
            .collect();
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
        Ok(Described { schema, parameters: Arc::new(Schema::new(fields)), version: manifest.version })
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
                if let Executed::Affected(rows) =
                    self.execute_statement(session, statement.clone(), values).await?
                {
                    affected += rows;
                }
            }
        }
        Ok(affected)
    }

    /// Runs several statements after each other and returns the rows that they affected in all.
    pub async fn execute_script(&self, session: &Session, sql: &str) -> Result<u64> {
        let mut affected = 0;
        for statement in parse::statements(sql)? {
            if let Executed::Affected(rows) = self.execute_statement(session, statement, vec![]).await? {
                affected += rows;
            }
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
        until_no_conflict(|| self.attempt(session, statement.clone(), &values, &query_id))
            .instrument(span)
            .await
    }

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
        if let Some(inserted) = self.insert_values(session, &statement, values, query_id).await? {
            return Ok(inserted);
        }
        let manifest = self.pin().await?;
        self.run_at(session, &manifest, statement, values, query_id).await
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
        let statement = parse::statement(sql)?;
        let values = parameters.map_or(Ok(vec![]), |batch| row_values(batch, 0))?;
        let manifest = self.meta.wait_version(version, READ_INDEX_TIMEOUT).await?;
        let query_id = new_query_id();
        let span = tracing::info_span!("statement", query_id, version = Empty, table = Empty);
        self.run_at(session, &manifest, statement, &values, &query_id).instrument(span).await
    }

    async fn run_at(
        &self,
        session: &Session,
        manifest: &Arc<Manifest>,
        statement: Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Executed> {
        tracing::Span::current().record("version", manifest.version.0);
        let state = self.session_state(session, manifest, query_id)?;
        let plan = state.statement_to_plan(statement).await.map_err(from_datafusion)?;
        let plan = bind(plan, values)?;
        match plan {
            LogicalPlan::Dml(dml) => {
                let rows = self.query(session, manifest, &dml.input, query_id).await?;
                self.write(session, manifest, &dml, rows).await.map(Executed::Affected)
            }
            LogicalPlan::Explain(ref inner) => self.explain(&state, &plan, &inner.plan).await,
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                session.set(&set.variable, &set.value)?;
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(PlanStatement::ResetVariable(reset)) => {
                session.unset(&reset.variable);
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(other) => Err(unsupported(&other.display().to_string())),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) => Err(unsupported(&plan.display().to_string())),
            plan => self.query(session, manifest, &plan, query_id).await.map(Executed::Rows),
        }
    }

    async fn query(
        &self,
        session: &Session,
        manifest: &Arc<Manifest>,
        plan: &LogicalPlan,
        query_id: &str,
    ) -> Result<Rows> {
        let rows =
            run::run(plan, &self.suspects, manifest, || self.session_state(session, manifest, query_id))
                .await?;
        // What `describe` promised: the physical plan may know better which columns are never null, and
        // clients compare.
        Ok(Rows { schema: Arc::new(plan.schema().as_arrow().clone()), ..rows })
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
        Ok(Executed::Rows(Rows::from_batches(schema, vec![batch])))
    }

    /// Statements that define things, which need no plan.
    async fn define(
        &self,
        session: &Session,
        statement: &Statement,
        query_id: &str,
    ) -> Result<Option<Executed>> {
        if let Some(call) = call::procedure(statement)? {
            return self.call(call).await.map(|()| Some(Executed::Affected(0)));
        }
        let command = match statement {
            Statement::CreateExternalTable(_) | Statement::CopyTo(_) => {
                return Err(unsupported(&statement.to_string()));
            }
            Statement::Statement(statement) => match statement.as_ref() {
                ast::Statement::CreateTable(create) => {
                    let manifest = self.pin().await?;
                    let state = self.session_state(session, &manifest, query_id)?;
                    Command::CreateTable(
                        ddl::create_table(create.clone(), &state, &manifest, &session.schema()).await?,
                    )
                }
                ast::Statement::CreateSchema { schema_name, if_not_exists, .. } => Command::CreateSchema {
                    name: ddl::free_schema_name(identifier(&schema_name.to_string()))?,
                    if_not_exists: *if_not_exists,
                },
                ast::Statement::Drop { object_type, if_exists, names, .. } => {
                    let [name] = names.as_slice() else {
                        return Err(Error::unsupported("DROP takes one name at a time"));
                    };
                    let name = name.to_string();
                    match object_type {
                        ObjectType::Table => {
                            let reference = TableReference::parse_str(&name);
                            let name = ddl::table_name(&reference, &session.schema())?;
                            Command::DropTable { name, if_exists: *if_exists }
                        }
                        ObjectType::Schema => Command::DropSchema {
                            name: ddl::free_schema_name(identifier(&name))?,
                            if_exists: *if_exists,
                        },
                        _ => return Err(unsupported(&statement.to_string())),
                    }
                }
                ast::Statement::Delete(_)
                | ast::Statement::Update(_)
                | ast::Statement::Merge(_)
                | ast::Statement::Truncate(_)
                | ast::Statement::AlterTable(_)
                | ast::Statement::CreateIndex(_)
                | ast::Statement::CreateView(_)
                | ast::Statement::StartTransaction { .. }
                | ast::Statement::Commit { .. }
                | ast::Statement::Rollback { .. } => {
                    return Err(unsupported(&statement.to_string()));
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let applied = self.meta.propose(command, COMMIT_TIMEOUT).await?;
        // The next statement of this client may plan against what this node knows.
        self.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        Ok(Some(Executed::Affected(0)))
    }

    async fn call(&self, procedure: Procedure) -> Result<()> {
        match procedure {
            Procedure::RemoveNode(node) => removal::remove_node(&self.meta, &*self.peers, node).await,
        }
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
        if !is_insert_values(statement) {
            return Ok(None);
        }
        let manifest = self.meta.manifest();
        let pin = self.pinned(session, &manifest, query_id);
        let state = configure(self.engine.literal_session(pin), session)?;
        // What does not plan here may plan at the newest version; that decides, and words the error.
        let Ok(plan) = state.statement_to_plan(statement.clone()).await else {
            return Ok(None);
        };
        let LogicalPlan::Dml(dml) = bind(plan, values)? else {
            return Ok(None);
        };
        let written = async {
            let rows = run::run(&dml.input, &self.suspects, &manifest, || Ok(state.clone())).await?;
            self.write(session, &manifest, &dml, rows).await
        };
        match written.await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
            result => result.map(|rows| Some(Executed::Affected(rows))),
        }
    }

    /// Writes the rows that a plan makes.
    async fn write(
        &self,
        session: &Session,
        manifest: &Manifest,
        dml: &DmlStatement,
        mut rows: Rows,
    ) -> Result<u64> {
        if !matches!(dml.op, WriteOp::Insert(InsertOp::Append)) {
            return Err(unsupported(dml.op.name()));
        }
        let name = ddl::table_name(&dml.table_name, &session.schema())?;
        let table = find(manifest, &name)?;
        tracing::Span::current().record("table", tracing::field::display(&name));
        let mut ingest = self.writer.begin(table, "insert");
        while let Some(batch) = rows.stream.try_next().await? {
            ingest.write(batch).await?;
        }
        ingest.finish().await.map(|written| written.rows)
    }

    /// `executemany` of `INSERT INTO t VALUES ($1, ..., $n)`: the parameters are the rows.
    async fn insert_batch(
        &self,
        session: &Session,
        statement: &Statement,
        batch: &RecordBatch,
    ) -> Result<Option<u64>> {
        let Some((reference, columns)) = plain_insert(statement, batch.num_columns()) else {
            return Ok(None);
        };
        let name = ddl::table_name(&TableReference::parse_str(&reference), &session.schema())?;
        let attempt = || async {
            let manifest = self.pin().await?;
            let table = find(&manifest, &name)?;
            let columns = if columns.is_empty() { column_names(&table) } else { columns.clone() };
            let mut ingest = self.writer.begin(table.clone(), "insert");
            ingest.write(assign(arrange(batch, &columns, &table)?, ingest.schema(), &table)?).await?;
            ingest.finish().await.map(|written| Some(written.rows))
        };
        until_no_conflict(attempt).await
    }
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

fn is_definition(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(
            statement.as_ref(),
            ast::Statement::CreateTable(_)
                | ast::Statement::CreateSchema { .. }
                | ast::Statement::Drop { .. }
                | ast::Statement::Call(_)
        ),
        _ => false,
    }
}

fn insert_of(statement: &Statement) -> Option<(&ast::Insert, &ast::Values)> {
    let Statement::Statement(statement) = statement else {
        return None;
    };
    let ast::Statement::Insert(insert) = statement.as_ref() else {
        return None;
    };
    let source = insert.source.as_ref()?;
    let ast::SetExpr::Values(values) = source.body.as_ref() else {
        return None;
    };
    Some((insert, values))
}

/// Whether an insert gives its values themselves: no functions, which the optimizer must see, and no
/// subqueries, which want a strict pin.
fn is_insert_values(statement: &Statement) -> bool {
    fn is_literal(expr: &ast::Expr) -> bool {
        match expr {
            ast::Expr::Value(_) | ast::Expr::TypedString(_) => true,
            ast::Expr::UnaryOp { expr, .. } | ast::Expr::Nested(expr) => is_literal(expr),
            ast::Expr::Array(array) => array.elem.iter().all(is_literal),
            _ => false,
        }
    }
    let rows = |values: &ast::Values| values.rows.iter().all(|row| row.content.iter().all(is_literal));
    insert_of(statement).is_some_and(|(_, values)| rows(values))
}

/// Table and columns of an insert whose only row is exactly the parameters in order.
fn plain_insert(statement: &Statement, parameters: usize) -> Option<(String, Vec<String>)> {
    let (insert, values) = insert_of(statement)?;
    if insert.on.is_some() || insert.returning.is_some() || insert.overwrite {
        return None;
    }
    let [row] = values.rows.as_slice() else {
        return None;
    };
    let expected = (1..=parameters).map(|i| format!("${i}"));
    if !row.content.iter().map(ToString::to_string).eq(expected) {
        return None;
    }
    let columns = insert.columns.iter().map(|c| identifier(&c.to_string())).collect();
    Some((insert.table.to_string(), columns))
}

/// An identifier as it is meant: lower case unless quoted.
fn identifier(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

fn unsupported(what: &str) -> Error {
    let what: String = what.chars().take(80).collect();
    Error::unsupported(format!("not supported yet: {what}"))
}

fn parameter_types(plan: &LogicalPlan) -> Result<Vec<DataType>> {
    let fields = plan.get_parameter_fields().map_err(from_datafusion)?;
    let number = |name: &str| -> Result<usize> {
        name.strip_prefix('$')
            .and_then(|n| n.parse().ok())
            .filter(|n| (1..=PARAMETERS_MAX).contains(n))
            .ok_or_else(|| Error::invalid(format!("parameter {name}: write ? or $1 to ${PARAMETERS_MAX}")))
    };
    let mut types = Vec::new();
    for (name, field) in &fields {
        let number = number(name)?;
        if types.len() < number {
            types.resize(number, DataType::Null);
        }
        if let Some(field) = field {
            types[number - 1] = field.data_type().clone();
        }
    }
    Ok(types)
}

/// Puts values in the place of parameters, cast to the types that the statement needs.
fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    let types = parameter_types(&plan)?;
    if types.len() != values.len() {
        return Err(Error::invalid(format!(
            "the statement takes {} parameters, {} were given",
            types.len(),
            values.len()
        )));
    }
    if types.is_empty() {
        return Ok(plan);
    }
    let values = values
        .iter()
        .zip(&types)
        .enumerate()
        .map(|(i, (value, t))| {
            if t.is_null() {
                return Ok(value.clone());
            }
            value.cast_to(t).map_err(|e| {
                Error::invalid(format!("parameter ${}: {}", i + 1, e.strip_backtrace())).with_source(e)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    plan.with_param_values(ParamValues::from(values)).map_err(from_datafusion)
}

fn row_values(batch: &RecordBatch, row: usize) -> Result<Vec<ScalarValue>> {
    if batch.num_columns() > 0 && batch.num_rows() <= row {
        return Err(Error::invalid("the parameters have no row"));
    }
    batch
        .columns()
        .iter()
        .map(|column| ScalarValue::try_from_array(column, row).map_err(from_datafusion))
        .collect()
}
