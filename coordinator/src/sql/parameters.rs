//! Parameters of statements: their types, and binding of values.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan};
use plexus_model::{Error, Result};
use plexus_query::search::bind_searches;

use crate::errors::from_datafusion;
use crate::write::assign::AssignFunction;
use crate::write::coerce::cast_exactly;

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
    for (name, data_type) in types_from_use(plan).map_err(from_datafusion)? {
        let slot = &mut types[number(&name)? - 1];
        if slot.is_null() {
            *slot = data_type;
        }
    }
    Ok(types)
}

/// Types of parameters that follow from what is done with them: an assignment to a column, a cast, a limit.
/// The engine infers those of comparisons only.
fn types_from_use(plan: &LogicalPlan) -> datafusion::common::Result<Vec<(String, DataType)>> {
    fn add(found: &mut Vec<(String, DataType)>, expr: &Expr, data_type: Option<DataType>) {
        if let (Expr::Placeholder(placeholder), Some(data_type)) = (expr, data_type) {
            found.push((placeholder.id.clone(), data_type));
        }
    }
    let mut found = Vec::new();
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::Limit(limit) = plan {
            for expr in limit.skip.iter().chain(&limit.fetch) {
                add(&mut found, expr, Some(DataType::Int64));
            }
        }
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Cast(cast) => add(&mut found, &cast.expr, Some(cast.field.data_type().clone())),
                    Expr::ScalarFunction(call) => {
                        if let ([value, Expr::Literal(column, _)], Some(assign)) =
                            (call.args.as_slice(), AssignFunction::in_plan(&call.func))
                        {
                            add(&mut found, value, assign.data_type(column));
                        }
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// Replaces the parameters of a plan by values, in the types that the plan needs where these hold them.
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
    let operands = arithmetic_operands(&plan).map_err(from_datafusion)?;
    let values = values.iter().zip(&types).enumerate().map(|(index, (value, data_type))| {
        // `10 / ?` with 4.0 is 2.5, also where the engine expects an integer.
        let is_whole = data_type.is_integer() && !value.data_type().is_integer();
        match is_whole && operands.contains(&format!("${}", index + 1)) {
            true => Ok(value.clone()),
            false => fit(value, data_type),
        }
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    let plan = bind_searches(plan, &values).map_err(from_datafusion)?;
    plan.with_param_values(ParamValues::from(values)).map_err(from_datafusion)
}

/// The parameters that are operands of arithmetic.
fn arithmetic_operands(plan: &LogicalPlan) -> datafusion::common::Result<HashSet<String>> {
    let mut operands = HashSet::new();
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr
                    && op.is_numerical_operators()
                {
                    for side in [left, right] {
                        if let Expr::Placeholder(placeholder) = side.as_ref() {
                            operands.insert(placeholder.id.clone());
                        }
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(operands)
}

/// A value in the type that the plan expects, if that holds it exactly. Otherwise the value keeps its own
/// type and means what a literal of that type would: `id = ?` with 1.5 finds no row.
fn fit(value: &ScalarValue, data_type: &DataType) -> Result<ScalarValue> {
    // A time without a zone is one of the clock of the session, as a literal is.
    let is_clock =
        matches!(value.data_type(), DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64);
    let is_instant = matches!(data_type, DataType::Timestamp(_, Some(_)));
    if data_type.is_null() || value.data_type() == *data_type || (is_clock && is_instant) {
        return Ok(value.clone());
    }
    let array = value.to_array().map_err(from_datafusion)?;
    // A float is rounded to a narrower one where it is stored, but not where it is compared.
    let is_rounded = |cast: &ArrayRef| {
        let is_float = value.data_type().is_floating() && data_type.is_floating();
        is_float && compute::cast(cast, &value.data_type()).is_ok_and(|back| *back != *array)
    };
    match cast_exactly(&array, data_type) {
        Ok(cast) if is_rounded(&cast) => Ok(value.clone()),
        Ok(cast) => ScalarValue::try_from_array(&cast, 0).map_err(from_datafusion),
        Err(_) => Ok(value.clone()),
    }
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

/// The values of the first row of parameters, if there are any, in a zone.
///
/// # Errors
/// Those of [`in_zone`] and [`row_values`].
pub(crate) fn first_row(batch: Option<&RecordBatch>, zone: &str) -> Result<Vec<ScalarValue>> {
    batch.map_or(Ok(vec![]), |batch| row_values(&in_zone(batch, zone)?, 0))
}

/// Parameters as values of a session: their instants are in its zone, as those of columns are.
///
/// # Errors
/// `InvalidArgument` when a value cannot be converted.
pub(crate) fn in_zone(batch: &RecordBatch, zone: &str) -> Result<RecordBatch> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
        let data_type = type_in_zone(field.data_type(), zone);
        let column = compute::cast(column, &data_type);
        let column =
            column.map_err(|e| Error::invalid(format!("parameter {}: {e}", field.name())).with_source(e))?;
        Ok((field.as_ref().clone().with_data_type(data_type), column))
    });
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        fields.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let schema = Schema::new_with_metadata(fields, batch.schema_ref().metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)
        .map_err(|e| Error::invalid(format!("parameters: {e}")).with_source(e))
}

fn type_in_zone(data_type: &DataType, zone: &str) -> DataType {
    let item = |field: &Arc<Field>| {
        Arc::new(field.as_ref().clone().with_data_type(type_in_zone(field.data_type(), zone)))
    };
    match data_type {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(zone.into())),
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        other => other.clone(),
    }
}

/// The parameters of a plan as a schema: one nullable field per parameter, named by its number.
pub(crate) fn parameter_schema(plan: &LogicalPlan) -> Result<SchemaRef> {
    let types = parameter_types(plan)?;
    let fields = types.into_iter().enumerate().map(|(i, t)| {
        // Clients refuse the null type, so a parameter of unknown type is reported as text; and many do not
        // know views.
        let t = match t {
            DataType::Null | DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            t => t,
        };
        Field::new((i + 1).to_string(), t, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}
