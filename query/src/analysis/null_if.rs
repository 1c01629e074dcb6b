//! `nullif(a, b)` has the type of `a`, and compares as `=` does. DataFusion brings both to one type, in which
//! `nullif(9007199254740993, 1e0)` is another number.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, lit, when};

use crate::analysis::is_call;

/// Largest first argument, which is computed twice. A call in a call would double the work at each level.
const NODES_MAX: usize = 8;

/// Whether the common type of two values changes the first, or compares them otherwise than `=`.
fn changes(value: &Expr, other: &Expr, schema: &DFSchema) -> bool {
    match (value.get_type(schema), other.get_type(schema)) {
        (Ok(DataType::Interval(_)), _) => true,
        (Ok(from), Ok(to)) => (from.is_integer() || from.is_decimal()) && to.is_floating(),
        _ => false,
    }
}

fn is_small(expr: &Expr) -> Result<bool> {
    let mut nodes = 0;
    expr.apply(|_| {
        nodes += 1;
        Ok(if nodes > NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(nodes <= NODES_MAX)
}

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    is_call(expr, &["nullif"])
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expr else {
        return Ok(Transformed::no(expr));
    };
    match (call.name(), call.args.as_slice()) {
        ("nullif", [value, other])
            if !value.is_volatile() && is_small(value)? && changes(value, other, schema) =>
        {
            let is_equal = value.clone().eq(other.clone());
            Ok(Transformed::yes(when(is_equal, lit(ScalarValue::Null)).otherwise(value.clone())?))
        }
        _ => Ok(Transformed::no(expr)),
    }
}
