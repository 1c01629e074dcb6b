//! Parameters of statements: their types, and binding of values.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use plexus_model::{Error, Result};
use plexus_query::search::bind_searches;

use crate::errors::from_datafusion;

/// Maximum number of parameters of a statement.
const PARAMETERS_MAX: usize = 65_535;

/// The types of the parameters of a plan, in order from `$1`. [`DataType::Null`] when a type does not follow
/// from the plan.
///
/// # Errors
/// `InvalidArgument` for named parameters and numbers out of range.
pub(crate) fn parameter_types(plan: &LogicalPlan) -> Result<Vec<DataType>> {
    let fields = plan.get_parameter_fields().map_err(from_datafusion)?;
    let number = |name: &str| -> Result<usize> {
        name.strip_prefix('$')
            .and_then(|n| n.parse().ok())
            .filter(|n| (1..=PARAMETERS_MAX).contains(n))
            .ok_or_else(|| Error::invalid(format!("parameter {name}: write ? or $1 to ${PARAMETERS_MAX}")))
    };
    let mut types = Vec::new();
    for (name, field) in &fields {
        let number = number(name)?;
        if types.len() < number {
            types.resize(number, DataType::Null);
        }
        if let Some(field) = field {
            types[number - 1] = field.data_type().clone();
        }
    }
    Ok(types)
}

/// Replaces the parameters of a plan by values, cast to the types that the plan needs.
///
/// # Errors
/// `InvalidArgument` when the number of values differs, or a value cannot be cast.
pub(crate) fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    let types = parameter_types(&plan)?;
    if types.len() != values.len() {
        return Err(Error::invalid(format!(
            "the statement takes {} parameters, {} were given",
            types.len(),
            values.len()
        )));
    }
    if types.is_empty() {
        return Ok(plan);
    }
    let values = values
        .iter()
        .zip(&types)
        .enumerate()
        .map(|(i, (value, t))| {
            if t.is_null() {
                return Ok(value.clone());
            }
            value.cast_to(t).map_err(|e| {
                Error::invalid(format!("parameter ${}: {}", i + 1, e.strip_backtrace())).with_source(e)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let plan = bind_searches(plan, &values).map_err(from_datafusion)?;
    plan.with_param_values(ParamValues::from(values)).map_err(from_datafusion)
}

/// The values in one row of a parameter batch.
///
/// # Errors
/// `InvalidArgument` when the batch has columns but no such row.
pub(crate) fn row_values(batch: &RecordBatch, row: usize) -> Result<Vec<ScalarValue>> {
    if batch.num_columns() > 0 && batch.num_rows() <= row {
        return Err(Error::invalid("the parameters have no row"));
    }
    batch
        .columns()
        .iter()
        .map(|column| ScalarValue::try_from_array(column, row).map_err(from_datafusion))
        .collect()
}

/// The parameters of a plan as a schema: one nullable field per parameter, named by its number.
pub(crate) fn parameter_schema(plan: &LogicalPlan) -> Result<SchemaRef> {
    let types = parameter_types(plan)?;
    let fields = types.into_iter().enumerate().map(|(i, t)| {
        // Clients refuse the null type, so a parameter of unknown type is reported as text.
        Field::new((i + 1).to_string(), if t.is_null() { DataType::Utf8 } else { t }, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}
