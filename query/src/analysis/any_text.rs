//! `s ~ '.*'` and `regexp_like(s, '.*')` are null for a null. DataFusion makes `s IS NOT NULL` of them
//! (apache/datafusion#24379).

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit, when};

use crate::analysis::is_call;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    use Operator::{RegexIMatch, RegexMatch};
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: RegexMatch | RegexIMatch, .. }))
        || is_call(expr, &["regexp_like"])
}

fn is_any(pattern: &Expr) -> bool {
    pattern.as_literal().and_then(|pattern| pattern.try_as_str().flatten()) == Some(".*")
}

/// The rule; runs before DataFusion simplifies expressions.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::RegexMatch | Operator::RegexIMatch, right })
            if is_any(right) =>
        {
            let matched = when(left.as_ref().clone().is_not_null(), lit(true)).end()?;
            Ok(Transformed::yes(matched))
        }
        // With flags, it is left as it is.
        Expr::ScalarFunction(call) if call.name() == "regexp_like" => match call.args.as_slice() {
            [text, pattern] if is_any(pattern) => {
                Ok(Transformed::yes(when(text.clone().is_not_null(), lit(true)).end()?))
            }
            _ => Ok(Transformed::no(expr)),
        },
        _ => Ok(Transformed::no(expr)),
    }
}
