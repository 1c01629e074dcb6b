//! Lists about one nullable value: `x NOT IN (1) OR x NOT IN (2)`, or `NOT ((x = 1 OR x = 2) AND (x = 5 OR x
//! = 6))`.
//!
//! The optimizer makes lists of alternatives, and intersects and unites the lists of a value as if it were
//! never null: it makes true of the first condition and of the second, which are null for a null. See
//! apache/datafusion#24246. The values of such lists are told apart, so that it finds no two of one value. In
//! the conditions of a filter, where null counts as false, alternatives stay as they are: an intersection
//! that is empty is false as well.

use std::collections::HashSet;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::analysis::has_expression;
use crate::analysis::typed::typed_apart;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| is_list(expr) || is_or(expr))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let is_filter = matches!(plan, LogicalPlan::Filter(_));
    if !concerns(&plan) {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    let preserver = NamePreserver::new(&plan);
    let mut lists = Lists { schema: &schema, seen: HashSet::new(), apart: 0 };
    plan.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let expr = if is_filter { lists.condition(expr)? } else { lists.value(expr)? };
        Ok(Transformed::yes(name.restore(expr)))
    })
}

fn is_list(expr: &Expr) -> bool {
    matches!(expr, Expr::InList(_))
}

fn is_or(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }))
}

/// The lists of the expressions of a node.
struct Lists<'a> {
    schema: &'a DFSchema,
    /// Values that have a list under their own name.
    seen: HashSet<Expr>,
    /// How many values were told apart.
    apart: u64,
}

impl Lists<'_> {
    /// Rewrites a condition for which null counts as false.
    #[recursive::recursive]
    fn condition(&mut self, expr: Expr) -> Result<Expr> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let (left, right) = (self.condition(*left)?, self.condition(*right)?);
                Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
            }
            Expr::InList(list) if self.seen.insert(list.expr.as_ref().clone()) => Ok(Expr::InList(list)),
            expr => self.value(expr),
        }
    }

    /// Rewrites an expression whose null differs from false.
    fn value(&mut self, expr: Expr) -> Result<Expr> {
        let has_alternatives = expr.exists(|expr| Ok(is_or(expr)))?;
        let rewritten = expr.transform_up(|expr| match expr {
            Expr::InList(InList { expr, list, negated }) => {
                let expr = Box::new(self.told_apart(*expr));
                Ok(Transformed::yes(Expr::InList(InList { expr, list, negated })))
            }
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Eq | Operator::NotEq), right })
                if has_alternatives && right.as_literal().is_some() =>
            {
                let left = Box::new(self.told_apart(*left));
                Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
            }
            expr => Ok(Transformed::no(expr)),
        });
        rewritten.map(|rewritten| rewritten.data)
    }

    fn told_apart(&mut self, value: Expr) -> Expr {
        if !value.nullable(self.schema).unwrap_or(true) || value.as_literal().is_some() {
            return value;
        }
        self.apart += 1;
        typed_apart(value, self.apart)
    }
}
