//! Two lists about one nullable value: `x NOT IN (1) OR x NOT IN (2)`.
//!
//! The optimizer intersects and unites such lists as if the value were never null, and makes true of this
//! one, which is null for a null. See apache/datafusion#24246. All lists but the first of a value are hidden
//! from it.

use std::collections::HashSet;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit};

use crate::analysis::rewrite_whole_expressions;

/// The rule; runs before types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    rewrite_whole_expressions(plan, &hide_repeated, &|plan| Ok(Transformed::no(plan)))
}

/// Hides the lists of values that have one already: `x IN (...)` becomes `nullif(x, NULL) IN (...)`, which is
/// the same to everybody but the optimizer.
fn hide_repeated(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut lists = 0;
    expr.apply(|expr| {
        lists += usize::from(matches!(expr, Expr::InList(_)));
        Ok(if lists > 1 { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if lists < 2 {
        return Ok(Transformed::no(expr));
    }
    let mut seen = HashSet::new();
    expr.transform_up(|expr| {
        let Expr::InList(InList { expr: value, list, negated }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_new = seen.insert(value.as_ref().clone());
        if is_new || !value.nullable(schema).unwrap_or(true) {
            return Ok(Transformed::no(Expr::InList(InList { expr: value, list, negated })));
        }
        let null = value.get_type(schema).and_then(|t| ScalarValue::try_new_null(&t));
        let hidden = Box::new(nullif(*value, lit(null.unwrap_or(ScalarValue::Null))));
        Ok(Transformed::yes(Expr::InList(InList { expr: hidden, list, negated })))
    })
}
