//! Expressions that fail for some values: quotients, casts of text, arithmetic that overflows.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, when};

/// What the rule for filtered arguments looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::AggregateFunction(aggregate) if aggregate.params.filter.is_some())
}

/// An aggregate with a `FILTER` evaluates its arguments for the rows that pass: `sum(10 / v) FILTER (WHERE v
/// <> 0)` does not divide by zero. DataFusion evaluates them for all rows. See apache/datafusion#24443.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::AggregateFunction(mut aggregate) = expr else {
        return Ok(Transformed::no(expr));
    };
    let Some(filter) = aggregate.params.filter.clone().filter(|filter| !filter.is_volatile()) else {
        return Ok(Transformed::no(Expr::AggregateFunction(aggregate)));
    };
    let mut is_changed = false;
    for arg in &mut aggregate.params.args {
        if can_fail(arg, schema) {
            *arg = when(filter.as_ref().clone(), std::mem::take(arg)).end()?;
            is_changed = true;
        }
    }
    Ok(Transformed::new_transformed(Expr::AggregateFunction(aggregate), is_changed))
}

/// Functions that fail for no value, but for want of memory. All others may.
const TOTAL: [&str; 41] = [
    "$at_time_zone",
    "$canonical_float",
    "$concatenate",
    "$has_unknown_item",
    "$interval_length",
    "$named_value",
    "$typed",
    "array_has",
    "array_length",
    "array_position",
    "bit_length",
    "bm25_score",
    "btrim",
    "cardinality",
    "character_length",
    "coalesce",
    "concat",
    "contains",
    "cosine_distance",
    "date_part",
    "ends_with",
    "get_field",
    "inner_product",
    "is_nan",
    "isnan",
    "iszero",
    "l2_distance",
    "lower",
    "ltrim",
    "make_array",
    "named_struct",
    "negative_inner_product",
    "now",
    "nullif",
    "octet_length",
    "reverse",
    "rtrim",
    "starts_with",
    "strpos",
    "text_match",
    "upper",
];

/// Whether an expression may fail for some values of its columns.
pub(crate) fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let fails = |expr: &Expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, .. }) if is_arithmetic(*op) => {
            !left.get_type(schema).is_ok_and(|data_type| data_type.is_floating())
        }
        Expr::Cast(Cast { expr, field }) => {
            !expr.get_type(schema).is_ok_and(|from| is_total(&from, field.data_type()))
        }
        Expr::ScalarFunction(call) => !TOTAL.contains(&call.name()),
        _ => false,
    };
    expr.exists(|expr| Ok(fails(expr))).unwrap_or(true)
}

fn is_arithmetic(op: Operator) -> bool {
    use Operator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo)
}

pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether a cast fits all values.
pub(crate) fn is_total(from: &DataType, to: &DataType) -> bool {
    if from == to {
        return true;
    }
    if is_text(to) {
        return !matches!(from, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    }
    match (from.is_integer(), to.is_integer()) {
        (true, true) => {
            let is_wider = to.primitive_width() > from.primitive_width();
            is_wider && (to.is_signed_integer() || from.is_unsigned_integer())
        }
        _ => from.is_numeric() && to.is_floating(),
    }
}
