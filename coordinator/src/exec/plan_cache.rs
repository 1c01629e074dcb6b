//! The plan cache: recently parsed statements, and the plans of queries.
//!
//! A query is planned when it is described and again when its ticket is redeemed; a prepared query is planned
//! for every row of parameters. As long as a plan depends only on the text, the tables and the session
//! settings, it is the same each time for one manifest. The key is the identity of the manifest and not its
//! version: the private manifest of a transaction shares its version with the manifest that it started from.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, TableFactor, Visitor};
use moka::sync::Cache;
use plexus_model::{Manifest, Result};
use plexus_query::search::is_repeatable;

use crate::errors::from_datafusion;
use crate::exec::context::StatementContext;
use crate::sql::kind::Parsed;
use crate::sql::parse;
use crate::sql::search_calls::is_distance_from_subquery;
use plexus_query::{visit, visit_expressions};

/// Longer statements are not cached: they consist of literal data and do not repeat.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Estimated fixed memory of a parsed statement.
const STATEMENT_BYTES: usize = 4 * 1024;

/// Estimated memory of a parsed statement per byte of its text.
const STATEMENT_BYTES_PER_TEXT_BYTE: usize = 32;

/// Estimated memory of one column in one node of a plan.
const PLAN_BYTES_PER_COLUMN: usize = 512;

/// Memory of all statements, and again of all plans.
const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long entries are cached. A prepared or described statement is executed sooner.
const TIME_TO_LIVE: Duration = Duration::from_secs(10);

/// Everything that a plan depends on: the text, the manifest by its address, and the session settings.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PlanKey {
    sql: String,
    manifest: usize,
    schema: String,
    settings: Vec<(String, String)>,
}

impl PlanKey {
    fn of(context: &StatementContext<'_>, sql: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            manifest: Arc::as_ptr(&context.manifest) as usize,
            schema: context.session.schema(),
            settings: context.session.engine_settings(),
        }
    }
}

/// A cached plan. It holds its manifest, so that no other manifest gets the address in the key while the
/// entry lives.
struct CachedPlan {
    plan: LogicalPlan,
    _manifest: Arc<Manifest>,
    bytes: usize,
}

/// Cache of parsed statements by text, and of plans by [`PlanKey`].
pub(crate) struct PlanCache {
    statements: Cache<String, Arc<Parsed>>,
    plans: Cache<PlanKey, Arc<CachedPlan>>,
    /// Words and signs that a statement may have.
    tokens_max: usize,
}

impl PlanCache {
    /// An empty cache of a node whose queries have `memory_bytes` together.
    pub(crate) fn new(memory_bytes: usize) -> Self {
        let bytes = |sql: &str| STATEMENT_BYTES + sql.len() * STATEMENT_BYTES_PER_TEXT_BYTE;
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let statements = Cache::builder().weigher(move |sql: &String, _: &Arc<Parsed>| weight(bytes(sql)));
        let plans = Cache::builder()
            .weigher(move |key: &PlanKey, plan: &Arc<CachedPlan>| weight(bytes(&key.sql) + plan.bytes));
        Self {
            statements: statements.max_capacity(CACHE_BYTES_MAX).time_to_live(TIME_TO_LIVE).build(),
            plans: plans.max_capacity(CACHE_BYTES_MAX).time_to_live(TIME_TO_LIVE).build(),
            tokens_max: parse::tokens_max(memory_bytes),
        }
    }

    /// Parses several statements, which are not kept.
    ///
    /// # Errors
    /// Those of [`parse::statements`], and `ResourceExhausted` for a text that is too long for this node.
    pub(crate) fn script(&self, sql: &str) -> Result<VecDeque<Statement>> {
        parse::check_tokens(sql, self.tokens_max)?;
        parse::statements(sql)
    }

    /// Parses and classifies a statement.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not exactly one statement, `ResourceExhausted` when it is too long
    /// for this node.
    pub(crate) fn statement(&self, sql: &str) -> Result<Arc<Parsed>> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement);
        }
        parse::check_tokens(sql, self.tokens_max)?;
        let statement = Arc::new(Parsed::new(parse::statement(sql)?)?);
        if sql.len() <= TEXT_BYTES_MAX {
            self.statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// The plan of a query, from the cache or from `make`.
    pub(crate) async fn plan(
        &self,
        context: &StatementContext<'_>,
        sql: &str,
        statement: &Statement,
        make: impl Future<Output = Result<LogicalPlan>>,
    ) -> Result<LogicalPlan> {
        if sql.len() > TEXT_BYTES_MAX {
            return make.await;
        }
        let key = PlanKey::of(context, sql);
        if let Some(found) = self.plans.get(&key) {
            return Ok(found.plan.clone());
        }
        let plan = make.await?;
        // A concurrent statement of the session may have changed the settings that `make` read.
        let is_current = key == PlanKey::of(context, sql);
        if is_current && is_plan_reusable(statement) && is_repeatable(&plan).map_err(from_datafusion)? {
            let bytes = columns(&plan).map_err(from_datafusion)? * PLAN_BYTES_PER_COLUMN;
            let cached = CachedPlan { plan: plan.clone(), _manifest: context.manifest.clone(), bytes };
            self.plans.insert(key, Arc::new(cached));
        }
        Ok(plan)
    }
}

/// The number of columns of all nodes of a plan, plus one per node.
pub(crate) fn columns(plan: &LogicalPlan) -> datafusion::common::Result<usize> {
    let mut columns = 0;
    plan.apply_with_subqueries(|node| {
        columns += 1 + node.schema().fields().len();
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

/// Whether the plan of a statement may be reused. Planning evaluates versions of tables (`TIMESTAMP AS OF
/// now()`) as well as functions and subqueries in search arguments, so plans of statements with those may
/// not.
fn is_plan_reusable(statement: &Statement) -> bool {
    let Statement::Statement(statement) = statement else {
        return false;
    };
    // The value of a setting, or the definition of a table, which are not part of the key.
    if matches!(statement.as_ref(), ast::Statement::ShowVariable { .. } | ast::Statement::ShowCreate { .. }) {
        return false;
    }
    visit(statement, &mut EvaluatedByPlanning).is_continue()
}

/// Stops at the first part of a statement that planning evaluates.
struct EvaluatedByPlanning;

impl Visitor for EvaluatedByPlanning {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if is_distance_from_subquery(expr) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { args, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        if version.is_some() {
            return ControlFlow::Break(());
        }
        visit_expressions(args, &mut |expr| match expr {
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
    fn plans_with_values_computed_while_planning_are_not_cached() {
        let cached = |sql: &str| is_plan_reusable(&parse::statement(sql).unwrap());
        for sql in [
            "SELECT a FROM t WHERE b < now()",
            "SELECT id FROM vector_search(t, v, $1, 10, filter => 'a < 5')",
            "SELECT id FROM vector_search(t, v, [1.0, 2.0], 10) s JOIN u ON u.id = s.id",
        ] {
            assert!(cached(sql), "{sql}");
        }
        for sql in [
            "SELECT a FROM t TIMESTAMP AS OF now() - INTERVAL '1 minute'",
            "SELECT a FROM (SELECT a FROM t VERSION AS OF 3)",
            "SELECT id FROM text_search(t, 'x', 10, filter => 'at > ' || now())",
            "SELECT id FROM vector_search(t, v, (SELECT v FROM t LIMIT 1), 10)",
            "SELECT id FROM text_search(t, current_date, 10)",
            "SELECT id FROM t ORDER BY v <=> (SELECT v FROM t WHERE id = 1) LIMIT 3",
            "SELECT cosine_distance((SELECT v FROM u), v) FROM t",
            "EXPLAIN SELECT a FROM t",
            "SHOW statement_timeout",
            "SHOW CREATE TABLE t",
        ] {
            assert!(!cached(sql), "{sql}");
        }
    }
}
