//! What can be said of a statement by its text, and its parameters.

use arrow::array::RecordBatch;
use arrow_schema::DataType;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result};
use plexus_query::search::bind_searches;

use crate::errors::from_datafusion;
use crate::rewrite::{self, identifier};

/// Parameters of a statement.
const PARAMETERS_MAX: usize = 65_535;

/// Whether a statement defines, tends or controls something: it needs no plan, and runs when it arrives.
pub fn is_definition(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(
            statement.as_ref(),
            ast::Statement::CreateTable(_)
                | ast::Statement::CreateSchema { .. }
                | ast::Statement::CreateIndex(_)
                | ast::Statement::Drop { .. }
                | ast::Statement::AlterTable(_)
                | ast::Statement::Truncate(_)
                | ast::Statement::Call(_)
                | ast::Statement::OptimizeTable { .. }
                | ast::Statement::StartTransaction { .. }
                | ast::Statement::Commit { .. }
                | ast::Statement::Rollback { .. }
        ),
        _ => false,
    }
}

/// A statement that takes all rows out of a table, which needs no plan either and yet changes rows.
pub fn truncate_of(statement: &Statement) -> Option<&ast::Truncate> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            ast::Statement::Truncate(truncate) => Some(truncate),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a statement changes rows of a table.
pub fn is_change(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if rewrite::target(statement).is_some())
}

/// Whether a statement that changes rows gives any back.
pub fn gives_back(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if rewrite::returns_rows(statement))
}

fn insert_of(statement: &ast::Statement) -> Option<(&ast::Insert, &ast::Values)> {
    let ast::Statement::Insert(insert) = statement else {
        return None;
    };
    let ast::SetExpr::Values(values) = insert.source.as_ref()?.body.as_ref() else {
        return None;
    };
    Some((insert, values))
}

/// Whether an insert gives its values themselves: no functions, which the optimizer must see, and no
/// subqueries, which want a strict pin.
pub fn is_insert_values(statement: &ast::Statement) -> bool {
    fn is_literal(expr: &ast::Expr) -> bool {
        match expr {
            ast::Expr::Value(_) | ast::Expr::TypedString(_) => true,
            ast::Expr::UnaryOp { expr, .. } | ast::Expr::Nested(expr) => is_literal(expr),
            ast::Expr::Array(array) => array.elem.iter().all(is_literal),
            _ => false,
        }
    }
    let rows = |values: &ast::Values| values.rows.iter().all(|row| row.content.iter().all(is_literal));
    insert_of(statement).is_some_and(|(_, values)| rows(values))
}

/// The columns of an insert whose only row is exactly the parameters in order.
pub fn plain_insert(statement: &ast::Statement, parameters: usize) -> Option<Vec<String>> {
    let (insert, values) = insert_of(statement)?;
    let [row] = values.rows.as_slice() else {
        return None;
    };
    let expected = (1..=parameters).map(|i| format!("${i}"));
    if !row.content.iter().map(ToString::to_string).eq(expected) {
        return None;
    }
    Some(insert.columns.iter().map(|c| identifier(&c.to_string())).collect())
}

pub fn unsupported(what: &str) -> Error {
    let what: String = what.chars().take(80).collect();
    Error::unsupported(format!("not supported yet: {what}"))
}

pub fn parameter_types(plan: &LogicalPlan) -> Result<Vec<DataType>> {
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

/// Puts values in the place of parameters, cast to the types that the statement needs.
pub fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
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

pub fn row_values(batch: &RecordBatch, row: usize) -> Result<Vec<ScalarValue>> {
    if batch.num_columns() > 0 && batch.num_rows() <= row {
        return Err(Error::invalid("the parameters have no row"));
    }
    batch
        .columns()
        .iter()
        .map(|column| ScalarValue::try_from_array(column, row).map_err(from_datafusion))
        .collect()
}
