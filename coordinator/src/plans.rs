//! Plans of queries, kept for a while.
//!
//! A query is planned when it is described, and again when its ticket is redeemed; a prepared one for every row of
//! parameters. At one version of the manifest the plan is the same each time, as far as it depends on nothing but the
//! text, the tables and the settings of the session.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, TableFactor, Visit, Visitor};
use moka::sync::Cache;
use plexus_model::{Result, Version};
use plexus_query::search::is_repeatable;

use crate::coordinator::Scope;
use crate::errors::from_datafusion;
use crate::parse;

/// Longer texts are data in disguise, which does not come again.
const TEXT_BYTES_MAX: usize = 32 * 1024;
/// What a statement or a plan takes, about: so much, and so many times its text.
const BYTES: usize = 16 * 1024;
const BYTES_PER_TEXT: usize = 32;
/// Of all statements, and of all plans.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// After so long what nobody asked for is forgotten, and the version of the manifest with it: a prepared statement that
/// is used again and again, or one that was just described, comes sooner.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What a plan is made of: a text, a version, and settings of a session.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PlanKey {
    sql: String,
    version: Version,
    schema: String,
    settings: Vec<(String, String)>,
}

pub struct Plans {
    statements: Cache<String, Arc<Statement>>,
    plans: Cache<PlanKey, Arc<LogicalPlan>>,
}

impl Default for Plans {
    fn default() -> Self {
        let bytes = |sql: &str| u32::try_from(BYTES + sql.len() * BYTES_PER_TEXT).unwrap_or(u32::MAX);
        let statements =
            Cache::builder().weigher(move |sql: &String, _: &Arc<Statement>| bytes(sql.as_str()));
        let plans = Cache::builder().weigher(move |key: &PlanKey, _: &Arc<LogicalPlan>| bytes(&key.sql));
        Self {
            statements: statements.max_capacity(BYTES_MAX).time_to_idle(IDLE_MAX).build(),
            plans: plans.max_capacity(BYTES_MAX).time_to_idle(IDLE_MAX).build(),
        }
    }
}

impl Plans {
    /// A statement, parsed.
    pub fn statement(&self, sql: &str) -> Result<Arc<Statement>> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement);
        }
        let statement = Arc::new(parse::statement(sql)?);
        if sql.len() <= TEXT_BYTES_MAX {
            self.statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// The plan of a query, from `make` unless it is known.
    pub async fn plan(
        &self,
        scope: &Scope<'_>,
        sql: &str,
        statement: &Statement,
        make: impl Future<Output = Result<LogicalPlan>>,
    ) -> Result<LogicalPlan> {
        // What a transaction sees has a version that others see otherwise.
        if scope.session.transaction().is_some() || sql.len() > TEXT_BYTES_MAX {
            return make.await;
        }
        let key = PlanKey {
            sql: sql.to_owned(),
            version: scope.manifest.version,
            schema: scope.session.schema(),
            settings: scope.session.engine_settings(),
        };
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan.as_ref().clone());
        }
        let plan = make.await?;
        if is_the_same_each_time(statement) && is_repeatable(&plan).map_err(from_datafusion)? {
            self.plans.insert(key, Arc::new(plan.clone()));
        }
        Ok(plan)
    }
}

/// Whether a statement is a query whose plan depends on nothing that is known only when it is planned: the time in the
/// version of a table, or what a subquery gives that is an argument of a search.
fn is_the_same_each_time(statement: &Statement) -> bool {
    let Statement::Statement(statement) = statement else {
        return false;
    };
    statement.visit(&mut Changing).is_continue()
}

struct Changing;

impl Visitor for Changing {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { args, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let is_subquery = |arg: &FunctionArg| {
            let (FunctionArg::Unnamed(value)
            | FunctionArg::Named { arg: value, .. }
            | FunctionArg::ExprNamed { arg: value, .. }) = arg;
            matches!(value, FunctionArgExpr::Expr(Expr::Subquery(_)))
        };
        let subqueries = args.as_ref().is_some_and(|args| args.args.iter().any(is_subquery));
        match version.is_some() || subqueries {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
