//! Two lists about one nullable value: `x NOT IN (1) OR x NOT IN (2)`.
//!
//! The optimizer intersects and unites such lists as if the value were never null, and makes true of this one,
//! which is null for a null. See apache/datafusion#24246. All lists but the first of a value are hidden from it.

use std::collections::HashSet;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, lit};
use datafusion::optimizer::AnalyzerRule;

use crate::analysis::rewrite_expressions;

/// The rule; runs before types are coerced.
#[derive(Debug)]
pub(crate) struct InLists;

impl AnalyzerRule for InLists {
    fn name(&self) -> &str {
        "in_lists"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewrite = |expr: Expr, schema: &DFSchema| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let mut seen = HashSet::new();
                let left = hide(*left, schema, &mut seen);
                let right = hide(*right, schema, &mut seen);
                Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr {
                    left: Box::new(left),
                    op,
                    right: Box::new(right),
                })))
            }
            other => Ok(Transformed::no(other)),
        };
        rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
    }
}

/// Hides the lists of values that were seen before: `x IN (...)` becomes `nullif(x, NULL) IN (...)`, which is the
/// same to everybody but the optimizer.
fn hide(expr: Expr, schema: &DFSchema, seen: &mut HashSet<Expr>) -> Expr {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (hide(*left, schema, seen), hide(*right, schema, seen));
            Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
        }
        Expr::Not(inner) => Expr::Not(Box::new(hide(*inner, schema, seen))),
        Expr::InList(InList { expr, list, negated }) => {
            let is_new = seen.insert(expr.as_ref().clone());
            let expr = match is_new || !expr.nullable(schema).unwrap_or(true) {
                true => expr,
                false => {
                    let null = expr.get_type(schema).and_then(|t| ScalarValue::try_new_null(&t));
                    Box::new(nullif(*expr, lit(null.unwrap_or(ScalarValue::Null))))
                }
            };
            Expr::InList(InList { expr, list, negated })
        }
        other => other,
    }
}
