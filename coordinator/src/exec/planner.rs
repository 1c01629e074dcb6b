//! Planning: pins the engine's sessions to a manifest, resolves time travel and search arguments in a
//! statement, and plans and runs queries.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, Value};
use futures::{FutureExt, TryStreamExt};
use plexus_model::{Error, Manifest, NodeId, Result, TableName};
use plexus_query::{ClusterView, Engine, Pin, Relations, WorkerSlots, optimize, visit_expressions_mut};
use plexus_raft::Meta;

use crate::errors::{from_datafusion, unsupported};
use crate::exec::all_running::AllRunning;
use crate::exec::context::{StatementContext, find};
use crate::exec::plan_cache::PlanCache;
use crate::exec::plan_statement::plan_statement;
use crate::exec::retry::{self, Suspects};
use crate::exec::row_stream::RowStream;
use crate::exec::session::{Session, canonical};
use crate::exec::transactions::TransactionGuard;
use crate::limits::READ_INDEX_TIMEOUT;
use crate::sql::kind::Parsed;
use crate::sql::parameters::parameter_types;
use crate::sql::reads::Reads;
use crate::sql::search_calls::{
    SUBQUERY_BYTES_MAX, SUBQUERY_ROWS_MAX, VectorSubquery, array_of, prepare, subquery_placeholder,
    vector_operand, vector_text,
};
use crate::sql::{dependent_columns, scopes, syntax, table_statements, time_travel};

/// Plans statements and runs queries. Every executor has one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Planner {
    /// The id of this node.
    pub(crate) node: NodeId,
    /// This node's member of the metadata group.
    pub(crate) meta: Arc<Meta>,
    /// The query engine.
    pub(crate) engine: Arc<Engine>,
    /// Nodes that failed a request recently.
    pub(crate) suspects: Arc<Suspects>,
    /// Recently parsed statements and their plans.
    pub(crate) cache: Arc<PlanCache>,
    /// The statements of all nodes.
    pub(crate) queries: Arc<AllRunning>,
}

impl Planner {
    /// The manifest for a linearizable read.
    ///
    /// # Errors
    /// `Unavailable` when no quorum answers in time.
    pub(crate) async fn pin(&self) -> Result<Arc<Manifest>> {
        self.meta.read(READ_INDEX_TIMEOUT).await
    }

    /// The manifest that a query of a session sees. A quorum is asked for the newest version only.
    ///
    /// # Errors
    /// `Unavailable` when no quorum answers in time, and those of [`Manifest::as_of`].
    pub(crate) async fn visible(&self, session: &Session, reads: Reads) -> Result<Arc<Manifest>> {
        let known = self.meta.manifest();
        let version = match reads {
            // A session can leave a version that is gone, and needs no quorum for that.
            Reads::Nothing => return Ok(known),
            Reads::Until(version) => Some(session.read_version().unwrap_or(version)),
            Reads::Newest => session.read_version(),
        };
        let is_known = version.is_some_and(|version| version <= known.version);
        let is_current = || {
            let (allowed, staleness) = (session.staleness(), self.meta.staleness());
            allowed.is_some_and(|allowed| staleness.is_some_and(|staleness| staleness <= allowed))
        };
        let manifest = if is_known || is_current() { known } else { self.pin().await? };
        self.visible_to(session, manifest)
    }

    /// The manifest as a session reads it: unchanged, or as of `plexus.read_version`.
    ///
    /// # Errors
    /// Those of [`Manifest::as_of`].
    pub(crate) fn visible_to(&self, session: &Session, manifest: Arc<Manifest>) -> Result<Arc<Manifest>> {
        match session.read_version() {
            Some(version) => manifest.as_of(version).map(Arc::new),
            None => Ok(manifest),
        }
    }

    /// An engine session for a statement. Its plans may be distributed over nodes.
    pub(crate) fn state(&self, context: &StatementContext<'_>) -> Result<SessionState> {
        let pin = self.pinned(context, Relations::default());
        configure(self.engine.session(pin), context.session)
    }

    /// Like [`Self::state`], for plans that run on this node alone.
    pub(crate) fn local_state(&self, context: &StatementContext<'_>) -> Result<SessionState> {
        self.state_with(context, Relations::default())
    }

    /// Like [`Self::local_state`], with relations that exist for this statement only.
    pub(crate) fn state_with(
        &self,
        context: &StatementContext<'_>,
        relations: Relations,
    ) -> Result<SessionState> {
        let worker_slots = WorkerSlots { workers: vec![], task_bytes: u64::MAX };
        let pin = Pin { worker_slots, ..self.pinned(context, relations) };
        configure(self.engine.session(pin), context.session)
    }

    /// The pinned manifest, cluster view and workers of a statement.
    pub(crate) fn pinned(&self, context: &StatementContext<'_>, relations: Relations) -> Pin {
        let status = self.meta.status();
        let task_bytes = context.session.task_bytes();
        Pin {
            manifest: context.manifest.clone(),
            view: ClusterView {
                leader: status.leader,
                voters: status.voters,
                queries: Some(self.queries.clone()),
            },
            worker_slots: retry::worker_slots(&context.manifest, self.node, &self.suspects, task_bytes),
            query_id: context.query_id.to_owned(),
            relations,
        }
    }

    /// Resolves what depends on the tables of a statement: columns that a key in `GROUP BY` determines, and
    /// the names under which the catalog has tables with a version (`VERSION AS OF`).
    pub(crate) fn resolve_tables(
        &self,
        statement: &mut ast::Statement,
        context: &StatementContext<'_>,
    ) -> Result<()> {
        let schema = context.session.schema();
        scopes::separate_fields(statement, &schema);
        dependent_columns::rewrite(statement, &context.manifest, &schema);
        time_travel::resolve(
            statement,
            &self.engine,
            &context.manifest,
            &schema,
            &context.session.time_zone(),
        )
    }

    /// Resolves time travel and search arguments, after which the engine can plan the statement.
    pub(crate) async fn resolve(
        &self,
        statement: &mut ast::Statement,
        context: &StatementContext<'_>,
    ) -> Result<()> {
        self.resolve_tables(statement, context)?;
        self.resolve_search_arguments(statement, context).await
    }

    /// The plan of a statement, from the plan cache if it is there.
    pub(crate) async fn cached_plan(
        &self,
        context: &StatementContext<'_>,
        sql: &str,
        parsed: &Parsed,
    ) -> Result<LogicalPlan> {
        let make = self.plan(context, parsed.statement.clone()).boxed();
        match parsed.text {
            // The text of an EXECUTE does not say what it is.
            Some(_) => make.await,
            None => self.cache.plan(context, sql, &parsed.statement, make).await,
        }
    }

    /// Resolves a statement and plans it.
    pub(crate) async fn plan(
        &self,
        context: &StatementContext<'_>,
        mut statement: Statement,
    ) -> Result<LogicalPlan> {
        match &mut statement {
            Statement::Statement(statement) => {
                show_setting(statement, context.session);
                let find = |name: &TableName| find(&context.manifest, name);
                table_statements::show(statement, &context.session.schema(), find)?;
                self.resolve(statement, context).await?;
            }
            Statement::Explain(explained) => {
                if let Statement::Statement(statement) = explained.statement.as_mut() {
                    self.resolve(statement, context).await?;
                }
            }
            _ => {}
        }
        plan_statement(&self.state(context)?, statement).await
    }

    /// Plans a query that the coordinator composed, for this node alone.
    pub(crate) async fn plan_query(
        &self,
        context: &StatementContext<'_>,
        query: ast::Query,
    ) -> Result<LogicalPlan> {
        let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
        plan_statement(&self.local_state(context)?, statement).await
    }

    /// Runs the plan of a query.
    ///
    /// # Errors
    /// `Unsupported` when the plan writes, otherwise those of [`Self::run`].
    pub(crate) async fn query(
        &self,
        context: &StatementContext<'_>,
        plan: &LogicalPlan,
    ) -> Result<RowStream> {
        // The engine would execute writes of its own wherever they occur in a plan, bypassing the commit
        // path.
        let is_write =
            |p: &LogicalPlan| matches!(p, LogicalPlan::Copy(_) | LogicalPlan::Dml(_) | LogicalPlan::Ddl(_));
        if plan.exists(|p| Ok(is_write(p))).map_err(from_datafusion)? {
            return Err(unsupported("a query that writes"));
        }
        // The rounds of a recursive query read the rows of the round before, which are on this node.
        let is_recursive =
            plan.exists(|p| Ok(matches!(p, LogicalPlan::RecursiveQuery(_)))).map_err(from_datafusion)?;
        let state = || if is_recursive { self.local_state(context) } else { self.state(context) };
        let rows = retry::run(plan, &self.suspects, &context.manifest, state).await?;
        Ok(RowStream { schema: announced_schema(plan, &rows.schema), ..rows })
    }

    /// The schema of the rows of a plan, before it is run.
    ///
    /// # Errors
    /// The error of analyzing the plan.
    pub(crate) async fn result_schema(
        &self,
        context: &StatementContext<'_>,
        plan: &LogicalPlan,
    ) -> Result<SchemaRef> {
        // The optimizer computes constants, on which types may depend.
        match optimize(&self.local_state(context)?, plan).await {
            Ok(optimized) => Ok(announced_schema(plan, optimized.schema().as_arrow())),
            // Some expressions have no type until their parameters are bound.
            Err(_) if !parameter_types(plan)?.is_empty() => {
                Ok(announced_schema(plan, plan.schema().as_arrow()))
            }
            Err(error) => Err(from_datafusion(error)),
        }
    }

    /// The manifest that a transaction reads. Its first statement pins one.
    ///
    /// # Errors
    /// `Unavailable` when the first statement cannot pin a version.
    pub(crate) async fn pin_transaction(
        &self,
        session: &Session,
        guard: &mut TransactionGuard,
    ) -> Result<Arc<Manifest>> {
        if guard.manifest().is_none() {
            guard.pin(self.pin().await?);
        }
        match guard.manifest() {
            Some(manifest) => self.visible_to(session, manifest.clone()),
            None => Err(Error::internal("a transaction without a version")),
        }
    }

    /// Runs a plan, again on other nodes when a worker fails before the first rows have been returned.
    /// `session` creates the engine session of each attempt.
    ///
    /// # Errors
    /// `Unavailable` after too many failed attempts, otherwise those of the query.
    pub(crate) async fn run(
        &self,
        plan: &LogicalPlan,
        manifest: &Manifest,
        session: impl Fn() -> Result<SessionState>,
    ) -> Result<RowStream> {
        retry::run(plan, &self.suspects, manifest, session).await
    }

    /// Prepares the search functions of a statement, runs the subqueries among their arguments, and puts in
    /// their results.
    pub(crate) async fn resolve_search_arguments(
        &self,
        statement: &mut ast::Statement,
        context: &StatementContext<'_>,
    ) -> Result<()> {
        let subqueries = prepare(statement)?;
        if subqueries.is_empty() {
            return Ok(());
        }
        let mut values = Vec::with_capacity(subqueries.len());
        for VectorSubquery { query, alone, is_argument } in subqueries {
            let vectors = match alone {
                Some(alone) => Box::pin(self.vectors(alone, context)).await,
                None => Err(Error::unsupported("two common tables that it reads have the same name")),
            };
            values.push(match vectors {
                Ok(vectors) if is_argument => vectors,
                Err(error) if is_argument => {
                    return Err(error.context(format!("argument ({:.200})", query.to_string())));
                }
                Ok(Expr::Value(vector)) => vector_operand(Expr::Value(vector)),
                // It depends on the row, or has no row or several: the engine evaluates it, or says what is
                // wrong.
                _ => Expr::Subquery(Box::new(query)),
            });
        }
        let _: ControlFlow<()> = visit_expressions_mut(statement, &mut |expr| {
            let index = match expr {
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(text) => {
                        (0..values.len()).find(|index| *text == subquery_placeholder(*index))
                    }
                    _ => None,
                },
                _ => None,
            };
            if let Some(index) = index {
                *expr = values[index].clone();
            }
            ControlFlow::Continue(())
        });
        Ok(())
    }

    /// Runs a query whose rows are vectors. One row becomes a vector literal, several become an array of
    /// them.
    async fn vectors(&self, query: ast::Query, context: &StatementContext<'_>) -> Result<Expr> {
        let mut statement = ast::Statement::Query(Box::new(query));
        self.resolve(&mut statement, context).await?;
        let state = self.state(context)?;
        let plan = state.statement_to_plan(Statement::Statement(Box::new(statement))).await;
        let plan = plan.map_err(from_datafusion)?;
        if !parameter_types(&plan)?.is_empty() {
            return Err(Error::unsupported(
                "parameters are not taken inside the subquery of a search: pass the vector itself as a \
                 parameter",
            ));
        }
        let mut rows = self.query(context, &plan).await?;
        let (mut vectors, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = rows.stream.try_next().await? {
            if batch.num_columns() != 1 {
                return Err(Error::invalid(format!(
                    "the subquery returns {} columns, one is needed",
                    batch.num_columns()
                )));
            }
            for row in 0..batch.num_rows() {
                let vector = vector_text(batch.column(0), row)?;
                bytes += vector.len();
                if bytes > SUBQUERY_BYTES_MAX {
                    return Err(Error::invalid(format!(
                        "the subquery returns vectors of more than {SUBQUERY_BYTES_MAX} bytes as text: ask \
                         for fewer at once"
                    )));
                }
                vectors.push(syntax::text(&vector));
            }
            if vectors.len() > SUBQUERY_ROWS_MAX {
                return Err(Error::invalid(format!(
                    "the subquery returns more than {SUBQUERY_ROWS_MAX} rows"
                )));
            }
        }
        match vectors.len() {
            0 => Err(Error::invalid("the subquery returns no row, a vector is needed")),
            1 => Ok(vectors.remove(0)),
            _ => Ok(array_of(vectors)),
        }
    }
}

/// `SHOW name` of a setting of ours: the engine knows its own only.
fn show_setting(statement: &mut ast::Statement, session: &Session) {
    if let ast::Statement::ShowVariable { variable } = statement {
        let name: Vec<&str> = variable.iter().map(|part| part.value.as_str()).collect();
        let name = canonical(&name.join("."));
        if let Some(value) = session.all().get(&name) {
            let items = [("name", &name), ("value", value)];
            let items = items.map(|(column, value)| syntax::item(syntax::text(value), column)).to_vec();
            *statement = ast::Statement::Query(Box::new(syntax::select(items, vec![], None)));
        }
    }
}

/// The schema of the rows of a plan, as clients see it. Names come from the plan, and types from its rows,
/// since they are known only when types are coerced. All columns are nullable: what a plan knows about nulls
/// depends on how far it is optimized, and clients compare what was announced with what is sent.
pub(crate) fn announced_schema(plan: &LogicalPlan, rows: &Schema) -> SchemaRef {
    let field = |(planned, row): (&FieldRef, &FieldRef)| {
        planned.as_ref().clone().with_data_type(row.data_type().clone()).with_nullable(true)
    };
    let fields: Vec<Field> = plan.schema().fields().iter().zip(rows.fields()).map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, plan.schema().metadata().clone()))
}

/// Applies the settings of a session to an engine session.
pub(crate) fn configure(mut state: SessionState, session: &Session) -> Result<SessionState> {
    let options = state.config_mut().options_mut();
    options.catalog.default_schema = session.schema();
    for (name, value) in session.engine_settings() {
        options.set(&name, &value).map_err(from_datafusion)?;
    }
    plexus_query::follow_settings(&mut state).map_err(from_datafusion)?;
    Ok(state)
}
