//! `CHECK` constraints, defaults, and expressions that are evaluated without a table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result, TableSchema};
use plexus_storage::types;

use crate::context::{plan_definition, plan_parsed, simplify};
use crate::engine::Engine;
use crate::plain_errors::plain;
use crate::search::has_text_call;
use crate::time_zones::follow_settings;

/// The `CHECK` constraints of a table, compiled over its columns.
#[derive(Default)]
pub struct RowChecks(Vec<RowCheck>);

/// One compiled constraint.
struct RowCheck {
    name: String,
    /// For error messages.
    text: String,
    expr: Arc<dyn PhysicalExpr>,
}

impl Engine {
    /// Compiles the `CHECK` constraints of a table.
    ///
    /// # Errors
    /// `InvalidArgument` names a constraint that cannot be evaluated over the columns.
    pub fn row_checks(&self, schema: &TableSchema) -> Result<RowChecks> {
        compile(self.table_free_state(), schema)
    }

    /// The value of an SQL expression without columns in a time zone, as an array of one row.
    ///
    /// # Errors
    /// `InvalidArgument` when the expression cannot be evaluated.
    pub fn evaluate_constant(&self, expr: &ast::Expr, zone: &str) -> Result<ArrayRef> {
        let fail = |e: DataFusionError| {
            let text = expr.to_string();
            Error::invalid(format!("{}: {}", plexus_model::cut(&text, 200), plain(&e)))
        };
        let none = DFSchema::empty();
        let state = self.state_in_zone(zone).map_err(fail)?;
        let expr = plan_parsed(expr.clone(), &none, &state).map_err(fail)?;
        let now = state.execution_props().query_execution_start_time;
        let info = SimplifyContext::builder()
            .with_config_options(state.config_options().clone())
            .with_query_execution_start_time(now)
            .build();
        let expr = ExprSimplifier::new(info).simplify(expr).map_err(fail)?;
        let expr = state.create_physical_expr(expr, &none).map_err(fail)?;
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(none.inner().clone(), vec![], &options)
            .map_err(|e| fail(e.into()))?;
        expr.evaluate(&row).and_then(|value| value.into_array(1)).map_err(fail)
    }
}

/// The defaults of columns that rows lack, compiled.
#[derive(Default)]
pub struct ColumnDefaults {
    exprs: HashMap<String, Arc<dyn PhysicalExpr>>,
    zone: String,
}

impl Engine {
    /// A session without tables whose times are those of a zone.
    fn state_in_zone(&self, zone: &str) -> datafusion::common::Result<SessionState> {
        let mut state = self.table_free_state().clone();
        state.config_mut().options_mut().execution.time_zone = Some(zone.to_owned());
        follow_settings(&mut state)?;
        state.mark_start_execution();
        Ok(state)
    }

    /// Compiles the defaults of the columns of a table that are not among `given`, for a session in a time
    /// zone.
    ///
    /// # Errors
    /// `InvalidArgument` names a default that cannot be evaluated.
    pub fn column_defaults(
        &self,
        schema: &TableSchema,
        given: &[String],
        zone: &str,
    ) -> Result<ColumnDefaults> {
        let none = DFSchema::empty();
        let state = self
            .state_in_zone(zone)
            .map_err(|e| Error::invalid(format!("time zone {zone:?}: {}", plain(&e))))?;
        let mut defaults = HashMap::new();
        for column in schema.columns.iter().filter(|column| !given.contains(&column.name)) {
            let Some(sql) = schema.default_of(column.id) else {
                continue;
            };
            let compile = || {
                let expr = simplify(plan_definition(sql, &none, &state)?, none.clone(), &state)?;
                state.create_physical_expr(expr, &none)
            };
            let expr = compile()
                .map_err(|e| Error::invalid(format!("default of column {:?}: {}", column.name, plain(&e))))?;
            defaults.insert(column.name.clone(), expr);
        }
        Ok(ColumnDefaults { exprs: defaults, zone: zone.to_owned() })
    }
}

impl ColumnDefaults {
    /// The time zone in which the defaults are evaluated.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The values of a column in `rows` new rows; `None` if it has no default. Each row has a value of its
    /// own where the default is not the same for all, such as `uuid()`.
    ///
    /// # Errors
    /// `InvalidArgument` when the default cannot be evaluated.
    pub fn values(&self, column: &str, rows: usize) -> Result<Option<ArrayRef>> {
        let Some(expr) = self.exprs.get(column) else {
            return Ok(None);
        };
        let fail =
            |e: DataFusionError| Error::invalid(format!("default of column {column:?}: {}", plain(&e)));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = DFSchema::empty().inner().clone();
        let batch =
            RecordBatch::try_new_with_options(schema, vec![], &options).map_err(|e| fail(e.into()))?;
        expr.evaluate(&batch).and_then(|value| value.into_array(rows)).map(Some).map_err(fail)
    }
}

fn compile(state: &SessionState, schema: &TableSchema) -> Result<RowChecks> {
    if schema.checks.is_empty() {
        return Ok(RowChecks::default());
    }
    let fail = |name: &str, e: DataFusionError| Error::invalid(format!("check {name:?}: {}", plain(&e)));
    let columns = DFSchema::try_from(types::to_arrow(schema)).map_err(|e| fail("", e))?;
    let compiled = schema.checks.iter().map(|check| {
        let named = |e| fail(&check.name, e);
        let expr = plan_definition(&check.expression, &columns, state).map_err(named)?;
        if has_text_call(&expr) {
            let name = &check.name;
            return Err(Error::unsupported(format!(
                "check {name:?}: a full-text search is no condition of a row"
            )));
        }
        let expr = state.create_physical_expr(expr, &columns).map_err(named)?;
        let data_type = expr.data_type(columns.as_arrow()).map_err(named)?;
        if data_type != arrow_schema::DataType::Boolean {
            let data_type = plexus_storage::sql_name(&data_type);
            return Err(Error::invalid(format!("check {:?} is {data_type}, not a condition", check.name)));
        }
        Ok(RowCheck { name: check.name.clone(), text: check.expression.clone(), expr })
    });
    compiled.collect::<Result<Vec<_>>>().map(RowChecks)
}

impl RowChecks {
    /// Checks all rows of a batch. As in the SQL standard, a condition that is null holds.
    ///
    /// # Errors
    /// `InvalidArgument` names the constraint and the first row that violates it.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        for RowCheck { name, text, expr } in &self.0 {
            let values = expr
                .evaluate(batch)
                .and_then(|v| v.into_array(batch.num_rows()))
                .map_err(|e| Error::invalid(format!("check {name:?}: {}", plain(&e))))?;
            let values = values.as_boolean();
            let broken = (0..values.len()).find(|&row| values.is_valid(row) && !values.value(row));
            if let Some(row) = broken {
                return Err(Error::invalid(format!(
                    "a row breaks check {name:?} ({}): {}",
                    plexus_model::cut(text, 200),
                    describe(batch, row)
                )));
            }
        }
        Ok(())
    }
}

/// A row for error messages, shortened where it is long.
fn describe(batch: &RecordBatch, row: usize) -> String {
    let value = |(field, column): (&Arc<arrow_schema::Field>, &arrow::array::ArrayRef)| {
        let text = arrow::util::display::array_value_to_string(column, row).unwrap_or_default();
        format!("{} = {}", field.name(), plexus_model::cut(&text, 100))
    };
    let schema = batch.schema();
    let values: Vec<String> = schema.fields().iter().zip(batch.columns()).take(8).map(value).collect();
    values.join(", ")
}
