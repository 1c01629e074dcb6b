//! `s ~ '.*'` is null for a null. DataFusion makes `s IS NOT NULL` of it (apache/datafusion#24379).

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit, when};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    use Operator::{RegexIMatch, RegexMatch};
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: RegexMatch | RegexIMatch, .. }))
}

/// The rule; runs before DataFusion simplifies expressions.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::RegexMatch | Operator::RegexIMatch, right })
            if right.as_literal().and_then(|pattern| pattern.try_as_str().flatten()) == Some(".*") =>
        {
            let matched = when(left.as_ref().clone().is_not_null(), lit(true)).end()?;
            Ok(Transformed::yes(matched))
        }
        _ => Ok(Transformed::no(expr)),
    }
}
