//! Decimals are compared with numbers that have more digits before or after the point together than a decimal
//! of 38 digits holds: `DECIMAL(38, 30)` with integers of ten digits. DataFusion casts both to 38 digits, and
//! fails at the first number that does not fit. They are compared with 76 digits.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, cast};

/// Digits of the widest decimals that queries compute with, and of those that they compare.
const DIGITS_MAX: u8 = 38;
const WIDE_DIGITS_MAX: u8 = 76;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.supports_propagation(),
        expr => matches!(expr, Expr::InList(_) | Expr::Between(_)),
    }
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let widened = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) if concerns(&expr) => {
            widen([left.as_ref(), right], schema)
        }
        Expr::InList(InList { expr, list, .. }) => widen([expr.as_ref()].into_iter().chain(list), schema),
        Expr::Between(Between { expr, low, high, .. }) => widen([expr.as_ref(), low, high], schema),
        _ => None,
    };
    let Some(mut widened) = widened.map(Vec::into_iter) else {
        return Ok(Transformed::no(expr));
    };
    let mut next = || widened.next().map(Box::new).unwrap_or_default();
    Ok(Transformed::yes(match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => {
            let (left, right) = (next(), next());
            Expr::BinaryExpr(BinaryExpr { left, op, right })
        }
        Expr::InList(InList { negated, .. }) => {
            let expr = next();
            Expr::InList(InList { expr, list: widened.collect(), negated })
        }
        Expr::Between(Between { negated, .. }) => {
            let (expr, low, high) = (next(), next(), next());
            Expr::Between(Between { expr, negated, low, high })
        }
        expr => expr,
    }))
}

/// The operands as wide decimals; `None` if that is not needed, or not possible.
fn widen<'a>(operands: impl IntoIterator<Item = &'a Expr>, schema: &DFSchema) -> Option<Vec<Expr>> {
    let operands: Vec<&Expr> = operands.into_iter().collect();
    let (mut whole, mut scale, mut has_decimal) = (0, 0, false);
    for operand in &operands {
        match operand.get_type(schema).ok()? {
            DataType::Decimal128(digits, digits_after) => {
                has_decimal = true;
                whole = whole.max(i16::from(digits) - i16::from(digits_after));
                scale = scale.max(digits_after);
            }
            data_type if data_type.is_integer() => whole = whole.max(integer_digits(operand, &data_type)),
            DataType::Null => {}
            _ => return None,
        }
    }
    let digits = whole + i16::from(scale);
    let is_wide = has_decimal && digits > i16::from(DIGITS_MAX) && digits <= i16::from(WIDE_DIGITS_MAX);
    let to = DataType::Decimal256(WIDE_DIGITS_MAX, scale);
    is_wide.then(|| operands.into_iter().map(|operand| cast(operand.clone(), to.clone())).collect())
}

/// Digits that an integer may have.
fn integer_digits(operand: &Expr, data_type: &DataType) -> i16 {
    if let Some(literal) = operand.as_literal() {
        return literal.to_string().trim_start_matches('-').len() as i16;
    }
    match data_type.primitive_width() {
        Some(1) => 3,
        Some(2) => 5,
        Some(4) => 10,
        _ => 20,
    }
}
