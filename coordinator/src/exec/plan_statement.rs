//! Plans statements, also those in which the engine finds two columns of one name.

use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use plexus_model::Result;

use crate::engine_text;
use crate::errors::from_datafusion;
use crate::sql::distinct_names;

/// The plan of a statement.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn plan_statement(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let mut again = statement.clone();
    let error = match state.statement_to_plan(statement).await {
        Ok(plan) if distinct_names::has_grouped_casts(&again) => match state.optimize(&plan) {
            // The optimizer selects what the groups need, under the names that the engine gives.
            Err(error) if is_name_clash(&error) => error,
            _ => return Ok(plan),
        },
        Err(error) if is_name_clash(&error) => error,
        planned => return planned.map_err(from_datafusion),
    };
    distinct_names::rewrite(&mut again);
    state.statement_to_plan(again).await.map_err(|_| from_datafusion(error))
}

/// Whether two columns have one name.
fn is_name_clash(error: &DataFusionError) -> bool {
    use datafusion::common::SchemaError::{
        AmbiguousReference, DuplicateQualifiedField, DuplicateUnqualifiedField,
    };
    match error.find_root() {
        DataFusionError::SchemaError(error, _) => matches!(
            error.as_ref(),
            AmbiguousReference { .. } | DuplicateQualifiedField { .. } | DuplicateUnqualifiedField { .. }
        ),
        DataFusionError::Plan(text) => engine_text::is_name_clash(text),
        _ => false,
    }
}
