//! Plans statements, also those in which the engine finds two columns of one name.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_memory::inherit_in;
use plexus_model::{Error, Result, TableName};
use plexus_query::{CATALOG, LongLane, visit_expressions};

use crate::engine_text;
use crate::errors::from_datafusion;
use crate::running;
use crate::sql::distinct_names;
use crate::sql::kind::is_rows;
use crate::suggestions::did_you_mean_table;

/// The plan of a statement.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn plan_statement(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    // The engine compares the columns of a statement with each other: thousands of them take seconds.
    match is_large(&statement) {
        true => {
            beside(state, statement, |state, statement| async move { plan(&state, statement).await }).await
        }
        false => plan(state, statement).await,
    }
}

/// The plan of literal rows, which have no names that could clash.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn plan_rows(
    state: &SessionState,
    statement: Statement,
    rows: usize,
) -> Result<LogicalPlan> {
    let plan = |state: SessionState, statement: Statement| async move {
        state.statement_to_plan(statement).await.map_err(from_datafusion)
    };
    match rows > ROWS_OF_LARGE {
        true => beside(state, statement, plan).await,
        false => plan(state.clone(), statement).await,
    }
}

/// Plans a statement in the long lane, beside the tasks of the thread.
async fn beside<F>(
    state: &SessionState,
    statement: Statement,
    plan: impl FnOnce(SessionState, Statement) -> F + Send + 'static,
) -> Result<LogicalPlan>
where
    F: Future<Output = Result<LogicalPlan>>,
{
    let Some(lane) = LongLane::of(state) else {
        return plan(state.clone(), statement).await;
    };
    running::admit_long().await?;
    let (state, runtime) = (state.clone(), lane.runtime().clone());
    let planned =
        runtime.clone().spawn_blocking(inherit_in(move || runtime.block_on(plan(state, statement))));
    planned.await.map_err(|e| Error::internal(format!("planning: {e}")))?
}

/// Literal rows of a statement from which on it is planned beside the tasks of the thread.
const ROWS_OF_LARGE: usize = 200;

/// Expressions of a statement from which on it is planned beside the tasks of the thread.
const EXPRESSIONS_OF_LARGE: usize = 500;

/// Whether planning a statement may take long.
fn is_large(statement: &Statement) -> bool {
    let inner = match statement {
        Statement::Statement(statement) => statement,
        Statement::Explain(explain) => return is_large(&explain.statement),
        _ => return false,
    };
    // Rows are many expressions, but simple ones.
    let query = match inner.as_ref() {
        ast::Statement::Query(query) => Some(query),
        ast::Statement::Insert(insert) => insert.source.as_ref(),
        _ => None,
    };
    if query.is_some_and(|query| is_rows(query)) {
        return false;
    }
    let mut expressions = 0;
    let counted = visit_expressions(inner.as_ref(), &mut |_| {
        expressions += 1;
        if expressions > EXPRESSIONS_OF_LARGE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    counted.is_break()
}

async fn plan(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let mut again = statement.clone();
    let error = match state.statement_to_plan(statement).await {
        Ok(plan) if distinct_names::has_grouped_casts(&again) => match state.optimize(&plan) {
            // The optimizer selects what the groups need, under the names that the engine gives.
            Err(error) if is_name_clash(&error) => error,
            _ => return Ok(plan),
        },
        Err(error) if is_name_clash(&error) => error,
        planned => return planned.map_err(|error| with_suggestion(state, error)),
    };
    distinct_names::rewrite(&mut again);
    state.statement_to_plan(again).await.map_err(|_| from_datafusion(error))
}

/// An error of planning, which says what an unknown table was meant to be.
fn with_suggestion(state: &SessionState, error: DataFusionError) -> Error {
    let missing = match error.find_root() {
        DataFusionError::Plan(text) => engine_text::unknown_table(text),
        _ => None,
    };
    let error = from_datafusion(error);
    let Some(missing) = missing else {
        return error;
    };
    let catalogs = state.catalog_list();
    let Some(catalog) = catalogs.catalog(CATALOG) else {
        return error;
    };
    let mut known: Vec<TableName> = Vec::new();
    for schema in catalog.schema_names() {
        let tables = catalog.schema(&schema).map(|tables| tables.table_names()).unwrap_or_default();
        known.extend(tables.iter().map(|table| TableName::new(&schema, table)));
    }
    let message =
        engine_text::insert_before_position(error.message(), &did_you_mean_table(&missing, || known.iter()));
    Error::new(error.kind(), message).with_source(error)
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
