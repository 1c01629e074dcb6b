//! Computed floats have one zero and one NaN, as stored ones do (see `canonical_floats` of the storage).
//!
//! DataFusion compares, sorts and groups floats by their bits in some places and by their values in others.
//! `0e0 / 0e0` is a NaN with a sign, below all numbers, and `-0.0` differs from `0.0` as a key of a set.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, ScalarUDF, TryCast};

use crate::analysis::{has_expression, rewrite_whole_expressions};
use crate::canonical_float::{CanonicalFloat, NAME};
use crate::search::is_search_function;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.is_numerical_operators(),
        Expr::Literal(value, _) => value.data_type().is_floating(),
        expr => {
            matches!(expr, Expr::Negative(_) | Expr::Cast(_) | Expr::TryCast(_) | Expr::ScalarFunction(_))
        }
    })
}

/// The rule; runs when types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    rewrite_whole_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
}

/// Wraps each float that is computed and not an operand of further arithmetic.
fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let wrapped = expr.transform_up(|expr| match is_arithmetic(&expr, schema) {
        true => Ok(Transformed::no(expr)),
        false => expr.map_children(|child| Ok(canonical(child, schema))),
    })?;
    wrapped.transform_data(|expr| Ok(canonical(expr, schema)))
}

/// Whether an expression is arithmetic of floats, whose operands may be any floats.
fn is_arithmetic(expr: &Expr, schema: &DFSchema) -> bool {
    let is_operator = match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.is_numerical_operators(),
        Expr::Negative(_) => true,
        _ => false,
    };
    is_operator && is_float(expr, schema)
}

fn is_float(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| data_type.is_floating())
}

/// The expression with one zero and one NaN, if it may have others.
fn canonical(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let may_differ = match &expr {
        Expr::BinaryExpr(_) | Expr::Negative(_) => is_arithmetic(&expr, schema),
        Expr::Cast(Cast { expr: value, .. }) | Expr::TryCast(TryCast { expr: value, .. }) => {
            is_float(&expr, schema)
                && !value.get_type(schema).is_ok_and(|from| from.is_integer() || from.is_decimal())
        }
        Expr::ScalarFunction(call) => {
            call.name() != NAME && !is_search_function(&call.func) && is_float(&expr, schema)
        }
        Expr::Literal(ScalarValue::Float16(Some(value)), _) => differs(f64::from(*value)),
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => differs(f64::from(*value)),
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => differs(*value),
        _ => false,
    };
    match may_differ {
        true => Transformed::yes(ScalarUDF::from(CanonicalFloat::default()).call(vec![expr])),
        false => Transformed::no(expr),
    }
}

/// Whether a float is the other zero or another NaN.
fn differs(value: f64) -> bool {
    value.is_nan() || (value == 0.0 && value.is_sign_negative())
}
