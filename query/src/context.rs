//! The identity and version of a query, which travel with it, and helpers of planning.

use datafusion::common::DataFusionError;
use plexus_model::Error;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result, extensions_options, internal_err};
use datafusion::config::ConfigExtension;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast;

use crate::analysis::float_operands;
use crate::analysis::literals::make_doubles_in;
use crate::conditions::balance;

extensions_options! {
    /// What the workers of a query know of it.
    pub(crate) struct QueryContext {
        /// Id of the query in logs and spans.
        pub query_id: String, default = String::new()
        /// The manifest version that the query is pinned to.
        pub version: u64, default = 0
        /// Whether its plan may run on several nodes.
        pub distributed: bool, default = false
        /// When its planning must have ended, in milliseconds since the Unix epoch; zero for no limit.
        pub planning_deadline: u64, default = 0
    }
}

impl ConfigExtension for QueryContext {
    const PREFIX: &'static str = "plexus_query";
}

/// The id of the query that a session is for; empty if it has none.
pub(crate) fn query_id(state: &dyn Session) -> String {
    let context = state.config_options().extensions.get::<QueryContext>();
    context.map(|context| context.query_id.clone()).unwrap_or_default()
}

/// Simplifies a predicate and casts its constants to the types of the columns that they are compared with, as
/// pruning requires.
///
/// # Errors
/// When the types cannot be coerced.
pub(crate) fn simplify(expr: Expr, schema: DFSchema, state: &SessionState) -> Result<Expr> {
    let schema = Arc::new(schema);
    let context = SimplifyContext::builder()
        .with_schema(schema.clone())
        .with_config_options(state.config_options().clone())
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let expr = expr.transform_up(|expr| float_operands::rewrite(expr, &schema))?.data;
    let simplifier = ExprSimplifier::new(context);
    simplifier.simplify(simplifier.coerce(expr, &schema)?)
}

/// Longest expression that is given as text, in bytes.
const EXPRESSION_BYTES_MAX: usize = 64 * 1024;

/// How expressions that are kept or given as text are parsed: as those of statements are. The crate that
/// knows the dialect of SQL provides it.
#[derive(Clone, Copy, Debug)]
pub struct ExpressionParsers {
    /// Parses a default or a check, whose text was made from a tree that has been rewritten.
    pub definition: fn(&str) -> plexus_model::Result<ast::Expr>,
    /// Parses a condition as a user writes it, and rewrites it as a part of a statement.
    pub condition: fn(&str) -> plexus_model::Result<ast::Expr>,
}

impl ExpressionParsers {
    fn of(state: &SessionState, sql: &str) -> Result<Self> {
        if sql.len() > EXPRESSION_BYTES_MAX {
            let error = format!("an expression of {} bytes is longer than {EXPRESSION_BYTES_MAX}", sql.len());
            return Err(external(Error::invalid(error)));
        }
        match state.config().get_extension::<Self>() {
            Some(parsers) => Ok(*parsers),
            None => internal_err!("a session that parses no expressions"),
        }
    }
}

/// Plans the SQL text of a default or a check over the columns of a schema.
///
/// # Errors
/// When the text cannot be parsed, or the expression cannot be planned.
pub(crate) fn plan_definition(sql: &str, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    let parse = ExpressionParsers::of(state, sql)?.definition;
    plan_parsed(parse(sql).map_err(external)?, schema, state)
}

/// Plans the SQL text of a condition over the columns of a schema.
///
/// # Errors
/// When the text cannot be parsed, or the expression cannot be planned.
pub(crate) fn plan_condition(sql: &str, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    let parse = ExpressionParsers::of(state, sql)?.condition;
    plan_parsed(parse(sql).map_err(external)?, schema, state)
}

/// The same for an expression that is parsed.
///
/// # Errors
/// When the expression cannot be planned.
pub(crate) fn plan_parsed(mut expr: ast::Expr, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    balance(&mut expr);
    make_doubles_in(&mut expr);
    let expr = ast::ExprWithAlias { expr, alias: None };
    let expr = state.create_logical_expr_from_sql_expr(expr, schema)?;
    if expr.exists(|expr| Ok(matches!(expr, Expr::Placeholder(_))))? {
        return Ok(expr.transform_up(|expr| float_operands::rewrite(expr, schema))?.data);
    }
    analyzed(expr, schema, state)
}

/// An expression by the rules that hold for the select list of a query.
fn analyzed(expr: Expr, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    let input = EmptyRelation { produce_one_row: true, schema: Arc::new(schema.clone()) };
    let plan = LogicalPlanBuilder::from(LogicalPlan::EmptyRelation(input)).project([expr])?.build()?;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    match plan.expressions().pop() {
        Some(expr) => Ok(expr.unalias()),
        None => internal_err!("an expression without a plan"),
    }
}

/// Wraps an error of this project as an error of DataFusion.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
