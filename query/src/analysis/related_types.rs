//! Numbers and times are not compared with each other, and not mixed in one column. DataFusion takes the
//! number for a count of days or nanoseconds: `19000 = DATE '2022-01-08'`.

use arrow_schema::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{InList, InSubquery};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan};

use crate::analysis::{has_expression, is_call};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Union(_)) || has_expression(node, is_checked)
}

fn is_checked(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.supports_propagation(),
        expr => {
            matches!(expr, Expr::InList(_) | Expr::Between(_) | Expr::InSubquery(_) | Expr::Case(_))
                || is_call(expr, &FUNCTIONS)
        }
    }
}

/// Functions whose arguments are compared.
const FUNCTIONS: [&str; 3] = ["nullif", "greatest", "least"];

/// The rule; runs before types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Union(union) = node {
            for column in 0..union.schema.fields().len() {
                let types = union.inputs.iter().map(|input| input.schema().field(column).data_type().clone());
                check(types, "UNION")?;
            }
        }
        if has_expression(node, is_checked) {
            let schema = merge_schema(&node.inputs());
            node.apply_expressions(|expr| {
                expr.apply(|expr| check_expr(expr, &schema).map(|()| TreeNodeRecursion::Continue))
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(plan)
}

fn check_expr(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let operands: Vec<&Expr> = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => vec![left, right],
        Expr::InList(InList { expr, list, .. }) => std::iter::once(expr.as_ref()).chain(list).collect(),
        Expr::Between(Between { expr, low, high, .. }) => vec![expr, low, high],
        Expr::ScalarFunction(call) if FUNCTIONS.contains(&call.name()) => call.args.iter().collect(),
        Expr::InSubquery(InSubquery { expr: value, subquery, .. }) => {
            let (of_value, of_rows) =
                (value.get_type(schema), subquery.subquery.schema().field(0).data_type());
            return check([of_value.unwrap_or(DataType::Null), of_rows.clone()].into_iter(), expr);
        }
        Expr::Case(Case { expr: operand, when_then_expr, else_expr }) => {
            if let Some(operand) = operand {
                let whens = when_then_expr.iter().map(|(when, _)| when.as_ref());
                let types = std::iter::once(operand.as_ref()).chain(whens).map(|side| side.get_type(schema));
                check(types.map(|data_type| data_type.unwrap_or(DataType::Null)), expr)?;
            }
            when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(else_expr.as_deref()).collect()
        }
        _ => return Ok(()),
    };
    let types = operands.into_iter().map(|operand| operand.get_type(schema).unwrap_or(DataType::Null));
    check(types, expr)
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
