//! `array_has` is null only if the array or the value is, as in DuckDB. DataFusion makes null of some arrays
//! that have a null and not the value, depending on whether they are constant.

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::{Expr, lit, when};

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expr else {
        return Ok(Transformed::no(expr));
    };
    let ("array_has", [array, value]) = (call.name(), call.args.as_slice()) else {
        return Ok(Transformed::no(expr));
    };
    let is_null = array.clone().is_null().or(value.clone().is_null());
    let has = coalesce(vec![expr, lit(false)]);
    Ok(Transformed::yes(when(is_null, lit(ScalarValue::Boolean(None))).otherwise(has)?))
}
