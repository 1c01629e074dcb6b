//! PlanCache of queries, kept for a while.
//!
//! A query is planned when it is described, and again when its ticket is redeemed; a prepared one for every row of
//! parameters. Of one manifest the plan is the same each time, as far as it depends on nothing but the text, the tables
//! and the settings of the session. It is the manifest itself that counts, and not its version: what a transaction sees
//! has one that others see otherwise.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, TableFactor, Visit, Visitor, visit_expressions};
use moka::sync::Cache;
use plexus_model::{Manifest, Result};
use plexus_query::search::is_repeatable;

use crate::errors::from_datafusion;
use crate::exec::context::StatementContext;
use crate::sql::kind::Parsed;
use crate::sql::parse;

/// Longer texts are data in disguise, which does not come again.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// What a statement takes, about: so much, and so many times its text.
pub const BYTES: usize = 4 * 1024;

pub const BYTES_PER_TEXT: usize = 32;

/// What a column of a node of a plan takes, about.
pub const BYTES_PER_COLUMN: usize = 512;

/// Of all statements, and of all plans.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long they are kept. A prepared statement, or one that was just described, comes sooner.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(10);

/// What a plan is made of: a text, a manifest by its place in memory, and settings of a session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PlanKey {
    sql: String,
    manifest: usize,
    schema: String,
    settings: Vec<(String, String)>,
}

impl PlanKey {
    fn of(scope: &StatementContext<'_>, sql: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            manifest: Arc::as_ptr(&scope.manifest) as usize,
            schema: scope.session.schema(),
            settings: scope.session.engine_settings(),
        }
    }
}

/// A plan with the manifest that it is of, in whose place no other is as long as it is here.
pub struct Plan {
    plan: LogicalPlan,
    _manifest: Arc<Manifest>,
    bytes: usize,
}

/// Statements and plans that came a moment ago.
pub struct PlanCache {
    statements: Cache<String, Arc<Parsed>>,
    plans: Cache<PlanKey, Arc<Plan>>,
}

impl Default for PlanCache {
    fn default() -> Self {
        let bytes = |sql: &str| BYTES + sql.len() * BYTES_PER_TEXT;
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let statements = Cache::builder().weigher(move |sql: &String, _: &Arc<Parsed>| weight(bytes(sql)));
        let plans = Cache::builder()
            .weigher(move |key: &PlanKey, plan: &Arc<Plan>| weight(bytes(&key.sql) + plan.bytes));
        Self {
            statements: statements.max_capacity(BYTES_MAX).time_to_live(TIME_TO_LIVE).build(),
            plans: plans.max_capacity(BYTES_MAX).time_to_live(TIME_TO_LIVE).build(),
        }
    }
}

impl PlanCache {
    /// A statement, parsed and classified.
    pub fn statement(&self, sql: &str) -> Result<Arc<Parsed>> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement);
        }
        let statement = Arc::new(Parsed::from(parse::statement(sql)?));
        if sql.len() <= TEXT_BYTES_MAX {
            self.statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// The plan of a query, from `make` unless it is known.
    pub async fn plan(
        &self,
        scope: &StatementContext<'_>,
        sql: &str,
        statement: &Statement,
        make: impl Future<Output = Result<LogicalPlan>>,
    ) -> Result<LogicalPlan> {
        if sql.len() > TEXT_BYTES_MAX {
            return make.await;
        }
        let key = PlanKey::of(scope, sql);
        if let Some(known) = self.plans.get(&key) {
            return Ok(known.plan.clone());
        }
        let plan = make.await?;
        // Another statement of the session may have changed its settings meanwhile.
        let is_still = key == PlanKey::of(scope, sql);
        if is_still && is_the_same_each_time(statement) && is_repeatable(&plan).map_err(from_datafusion)? {
            let bytes = columns(&plan).map_err(from_datafusion)? * BYTES_PER_COLUMN;
            let kept = Plan { plan: plan.clone(), _manifest: scope.manifest.clone(), bytes };
            self.plans.insert(key, Arc::new(kept));
        }
        Ok(plan)
    }
}

/// Columns of all nodes of a plan.
pub fn columns(plan: &LogicalPlan) -> datafusion::common::Result<usize> {
    let mut columns = 0;
    plan.apply_with_subqueries(|node| {
        columns += 1 + node.schema().fields().len();
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

/// Whether a statement is a query whose plan depends on nothing that is known only when it is planned: the time in the
/// version of a table, or what is computed, or asked of tables, for an argument of a search.
pub fn is_the_same_each_time(statement: &Statement) -> bool {
    let Statement::Statement(statement) = statement else {
        return false;
    };
    statement.visit(&mut Changing).is_continue()
}

pub struct Changing;

impl Visitor for Changing {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { args, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        if version.is_some() {
            return ControlFlow::Break(());
        }
        visit_expressions(args, |expr| match expr {
            Expr::Function(_) | Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_time_to_time_is_not_kept() {
        let kept = |sql: &str| is_the_same_each_time(&parse::statement(sql).unwrap());
        for sql in [
            "SELECT a FROM t WHERE b < now()",
            "SELECT id FROM vector_search(t, v, $1, 10, filter => 'a < 5')",
            "SELECT id FROM vector_search(t, v, [1.0, 2.0], 10) s JOIN u ON u.id = s.id",
        ] {
            assert!(kept(sql), "{sql}");
        }
        for sql in [
            "SELECT a FROM t TIMESTAMP AS OF now() - INTERVAL '1 minute'",
            "SELECT a FROM (SELECT a FROM t VERSION AS OF 3)",
            "SELECT id FROM text_search(t, 'x', 10, filter => 'at > ' || now())",
            "SELECT id FROM vector_search(t, v, (SELECT v FROM t LIMIT 1), 10)",
            "SELECT id FROM text_search(t, current_date, 10)",
            "EXPLAIN SELECT a FROM t",
        ] {
            assert!(!kept(sql), "{sql}");
        }
    }
}
