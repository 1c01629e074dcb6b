//! Numbers and times are not compared with each other, and not mixed in one column. DataFusion takes the
//! number for a count of days or nanoseconds: `19000 = DATE '2022-01-08'`.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{InList, InSubquery};
use datafusion::logical_expr::{Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan};

use crate::analysis::rewrite_expressions;

/// The rule; runs before types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let check_node = |plan: LogicalPlan| {
        if let LogicalPlan::Union(union) = &plan {
            for column in 0..union.schema.fields().len() {
                let types = union.inputs.iter().map(|input| input.schema().field(column).data_type().clone());
                check(types, "UNION")?;
            }
        }
        Ok(Transformed::no(plan))
    };
    rewrite_expressions(plan, &check_expr, &check_node)
}

fn check_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let operands: Vec<&Expr> = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => vec![left, right],
        Expr::InList(InList { expr, list, .. }) => std::iter::once(expr.as_ref()).chain(list).collect(),
        Expr::Between(Between { expr, low, high, .. }) => vec![expr, low, high],
        Expr::ScalarFunction(call) if ["nullif", "greatest", "least"].contains(&call.name()) => {
            call.args.iter().collect()
        }
        Expr::InSubquery(InSubquery { expr: value, subquery, .. }) => {
            let (of_value, of_rows) =
                (value.get_type(schema), subquery.subquery.schema().field(0).data_type());
            check([of_value.unwrap_or(DataType::Null), of_rows.clone()].into_iter(), &expr)?;
            vec![]
        }
        Expr::Case(Case { expr: Some(operand), when_then_expr, else_expr }) => {
            let whens = when_then_expr.iter().map(|(when, _)| when.as_ref());
            let types = std::iter::once(operand.as_ref()).chain(whens).map(|side| side.get_type(schema));
            check(types.map(|data_type| data_type.unwrap_or(DataType::Null)), &expr)?;
            when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(else_expr.as_deref()).collect()
        }
        Expr::Case(Case { when_then_expr, else_expr, .. }) => {
            when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(else_expr.as_deref()).collect()
        }
        _ => vec![],
    };
    let types = operands.into_iter().map(|operand| operand.get_type(schema).unwrap_or(DataType::Null));
    check(types, &expr)?;
    Ok(Transformed::no(expr))
}

/// Fails if there are a number and a time among types.
fn check(types: impl Iterator<Item = DataType>, place: impl std::fmt::Display) -> Result<()> {
    let is_time = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(..)
                | DataType::Time32(_)
                | DataType::Time64(_)
        )
    };
    let (mut number, mut time) = (None, None);
    for data_type in types {
        match data_type {
            data_type if data_type.is_numeric() => number = Some(data_type),
            data_type if is_time(&data_type) => time = Some(data_type),
            _ => {}
        }
    }
    match (number, time) {
        (Some(number), Some(time)) => {
            plan_err!("{place} mixes {number} and {time}: write a CAST of one of them")
        }
        _ => Ok(()),
    }
}
