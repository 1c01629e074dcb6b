//! `ceil` and `floor` of a decimal may have one digit more: `ceil(9.9)` is 10. DataFusion's keep the number
//! of digits, and fail.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{Expr, ExprSchemable, cast};

use crate::analysis::is_call;

/// Most digits of the decimals that DataFusion computes with by default.
const DIGITS_MAX: u8 = 38;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    is_call(expr, &["ceil", "floor"])
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else {
        return Ok(Transformed::no(expr));
    };
    let is_widened = match (call.func.name(), call.args.as_mut_slice()) {
        ("ceil" | "floor", [value]) => match value.get_type(schema) {
            Ok(DataType::Decimal128(digits, scale)) if scale > 0 && digits < DIGITS_MAX => {
                *value = cast(std::mem::take(value), DataType::Decimal128(digits + 1, scale));
                true
            }
            _ => false,
        },
        _ => false,
    };
    Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_widened))
}
