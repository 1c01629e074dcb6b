//! What travels with a query: its identity and version, and the planner's helpers that depend on nothing else.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, extensions_options};
use datafusion::config::ConfigExtension;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

extensions_options! {
    /// What travels with a query to its workers.
    pub struct QueryContext {
        /// Identity of the query in logs and spans.
        pub query_id: String, default = String::new()
        /// Manifest version that it pins.
        pub version: u64, default = 0
    }
}

impl ConfigExtension for QueryContext {
    const PREFIX: &'static str = "plexus_query";
}

/// The identity of the query that a session is for.
pub(crate) fn query_id(state: &dyn Session) -> String {
    let context = state.config_options().extensions.get::<QueryContext>();
    context.map(|context| context.query_id.clone()).unwrap_or_default()
}

/// A predicate with its values in the types of the columns that they are compared with, as pruning needs it.
pub(crate) fn simplify(expr: Expr, schema: DFSchema, state: &SessionState) -> Result<Expr> {
    let schema = Arc::new(schema);
    let context = SimplifyContext::builder()
        .with_schema(schema.clone())
        .with_config_options(state.config_options().clone())
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    simplifier.simplify(simplifier.coerce(expr, &schema)?)
}
