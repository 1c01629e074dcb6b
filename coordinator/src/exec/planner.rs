//! Planning: sessions of the engine pinned for one statement, statements made ready for the planner, and queries.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, Value};
use futures::{FutureExt, TryStreamExt};
use plexus_model::{Error, Manifest, NodeId, Result};
use plexus_query::{ClusterView, Engine, Pin, Placement, Relations};
use plexus_raft::Meta;

use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::StatementContext;
use crate::exec::plan_cache::PlanCache;
use crate::exec::retry::{self, RowStream, Suspects};
use crate::exec::session::Session;
use crate::exec::transactions::TransactionGuard;
use crate::limits::READ_INDEX_TIMEOUT;
use crate::sql::parameters::parameter_types;
use crate::sql::search_calls::{SUBQUERY_ROWS_MAX, array, place_of, prepare, vector};
use crate::sql::time_travel;

/// PlanCache and runs queries for statements. Every executor has one. Cheap to clone.
#[derive(Clone)]
pub struct Planner {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub engine: Arc<Engine>,
    /// Nodes that failed under a query a moment ago.
    pub suspects: Arc<Suspects>,
    /// Parsed statements and plans, kept for a few seconds.
    pub cache: Arc<PlanCache>,
}

impl Planner {
    /// The manifest for a linearizable read.
    ///
    /// # Errors
    /// `Unavailable` when no quorum answers in time.
    pub async fn pin(&self) -> Result<Arc<Manifest>> {
        self.meta.read(READ_INDEX_TIMEOUT).await
    }

    /// What a session sees of a manifest: all of it, or an older version.
    pub fn visible_to(&self, session: &Session, manifest: Arc<Manifest>) -> Result<Arc<Manifest>> {
        match session.read_version() {
            Some(version) => manifest.as_of(version).map(Arc::new),
            None => Ok(manifest),
        }
    }

    /// A state of the engine for a statement.
    pub fn state(&self, scope: &StatementContext<'_>) -> Result<SessionState> {
        let pin = self.pinned(scope, Relations::default());
        configure(self.engine.session(pin), scope.session)
    }

    /// The same for a plan that is not spread over nodes.
    pub fn local_state(&self, scope: &StatementContext<'_>) -> Result<SessionState> {
        self.state_with(scope, Relations::default())
    }

    /// The same with relations of the statement's own.
    pub fn state_with(&self, scope: &StatementContext<'_>, relations: Relations) -> Result<SessionState> {
        let placement = Placement { workers: vec![], task_bytes: u64::MAX };
        let pin = Pin { placement, ..self.pinned(scope, relations) };
        configure(self.engine.session(pin), scope.session)
    }

    pub fn pinned(&self, scope: &StatementContext<'_>, relations: Relations) -> Pin {
        let status = self.meta.status();
        let task_bytes = scope.session.task_bytes();
        Pin {
            manifest: scope.manifest.clone(),
            view: ClusterView { leader: status.leader, voters: status.voters },
            placement: retry::placement(&scope.manifest, self.node, &self.suspects, task_bytes),
            query_id: scope.query_id.to_owned(),
            relations,
        }
    }

    /// Replaces tables at a version in a statement by what stands for them.
    pub fn resolve_versions(
        &self,
        statement: &mut ast::Statement,
        scope: &StatementContext<'_>,
    ) -> Result<()> {
        time_travel::resolve(statement, &self.engine, &scope.manifest, &scope.session.schema())
    }

    /// Makes a statement ready for the planner.
    pub async fn resolve(&self, statement: &mut ast::Statement, scope: &StatementContext<'_>) -> Result<()> {
        self.resolve_versions(statement, scope)?;
        self.fill_arguments(statement, scope).await
    }

    /// The plan of a statement, which may be known.
    pub async fn plan_of_text(
        &self,
        scope: &StatementContext<'_>,
        sql: &str,
        statement: &Statement,
    ) -> Result<LogicalPlan> {
        let make = self.plan(scope, statement.clone()).boxed();
        self.cache.plan(scope, sql, statement, make).await
    }

    pub async fn plan(&self, scope: &StatementContext<'_>, mut statement: Statement) -> Result<LogicalPlan> {
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

    pub async fn query(&self, scope: &StatementContext<'_>, plan: &LogicalPlan) -> Result<RowStream> {
        // The engine would write files and tables of its own, wherever in a plan it finds that.
        let writes =
            |p: &LogicalPlan| matches!(p, LogicalPlan::Copy(_) | LogicalPlan::Dml(_) | LogicalPlan::Ddl(_));
        if plan.exists(|p| Ok(writes(p))).map_err(from_datafusion)? {
            return Err(unsupported("a query that writes"));
        }
        let rows = retry::run(plan, &self.suspects, &scope.manifest, || self.state(scope)).await?;
        // What `describe` promised: the physical plan may know better which columns are never null, and
        // clients compare.
        Ok(RowStream { schema: Arc::new(plan.schema().as_arrow().clone()), ..rows })
    }

    /// What a transaction sees, from its first statement on.
    ///
    /// # Errors
    /// `Unavailable` when the first statement cannot pin a version.
    pub async fn pin_transaction(
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

    /// Runs a plan, again on other nodes when one fails before the first rows have left. `session` makes the session of
    /// each attempt.
    ///
    /// # Errors
    /// `Unavailable` after too many failed attempts, otherwise those of the query.
    pub async fn run(
        &self,
        plan: &LogicalPlan,
        manifest: &Manifest,
        session: impl Fn() -> Result<SessionState>,
    ) -> Result<RowStream> {
        retry::run(plan, &self.suspects, manifest, session).await
    }

    /// Prepares the searches of a statement and runs the subqueries among their arguments.
    pub async fn fill_arguments(
        &self,
        statement: &mut ast::Statement,
        scope: &StatementContext<'_>,
    ) -> Result<()> {
        let subqueries = prepare(statement)?;
        if subqueries.is_empty() {
            return Ok(());
        }
        let mut values = Vec::with_capacity(subqueries.len());
        for query in subqueries {
            let sql = query.to_string();
            let vectors = Box::pin(self.vectors(query, scope)).await;
            values.push(vectors.map_err(|e| e.context(format!("argument ({sql:.200})")))?);
        }
        let _: ControlFlow<()> = ast::visit_expressions_mut(statement, |expr| {
            let place = match expr {
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(text) => {
                        (0..values.len()).find(|place| *text == place_of(*place))
                    }
                    _ => None,
                },
                _ => None,
            };
            if let Some(place) = place {
                *expr = values[place].clone();
            }
            ControlFlow::Continue(())
        });
        Ok(())
    }

    /// The vectors that a query gives, one a row, as an expression: one vector as it is.
    async fn vectors(&self, query: ast::Query, scope: &StatementContext<'_>) -> Result<Expr> {
        let mut statement = ast::Statement::Query(Box::new(query));
        self.resolve(&mut statement, scope).await?;
        let state = self.state(scope)?;
        let plan = state.statement_to_plan(Statement::Statement(Box::new(statement))).await;
        let plan = plan.map_err(from_datafusion)?;
        if !parameter_types(&plan)?.is_empty() {
            return Err(Error::unsupported(
                "parameters are not taken inside the subquery of a search: give the vector as a parameter",
            ));
        }
        let mut rows = self.query(scope, &plan).await?;
        let mut vectors = Vec::new();
        while let Some(batch) = rows.stream.try_next().await? {
            if batch.num_columns() != 1 {
                return Err(Error::invalid(format!(
                    "it gives {} columns: one is needed",
                    batch.num_columns()
                )));
            }
            for row in 0..batch.num_rows() {
                vectors.push(vector(batch.column(0), row)?);
            }
            if vectors.len() > SUBQUERY_ROWS_MAX {
                return Err(Error::invalid(format!("it gives more than {SUBQUERY_ROWS_MAX} rows")));
            }
        }
        match vectors.len() {
            0 => Err(Error::invalid("it gives no row: a vector is needed")),
            1 => Ok(vectors.remove(0)),
            _ => Ok(array(vectors)),
        }
    }
}

/// The settings of a session, in a state of the engine.
pub fn configure(mut state: SessionState, session: &Session) -> Result<SessionState> {
    let options = state.config_mut().options_mut();
    options.catalog.default_schema = session.schema();
    for (name, value) in session.engine_settings() {
        options.set(&name, &value).map_err(from_datafusion)?;
    }
    Ok(state)
}
