//! Long chains of `AND` and `OR` as balanced trees. The parser makes a tree as deep as such a chain is long,
//! and whatever walks it recurses as deep.

use plexus_query::visit_mut;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, Value, VisitorMut};

/// Shorter chains stay as they are written.
const CHAIN_MIN: usize = 64;

/// Balances the chains of a statement.
pub(crate) fn balance(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_mut(statement, &mut Chains);
}

struct Chains;

impl VisitorMut for Chains {
    type Break = ();

    // Before the operands are visited, so that the visit does not descend the chain.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let op = match expr {
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => op.clone(),
            _ => return ControlFlow::Continue(()),
        };
        if is_long(expr, &op) {
            let chain = std::mem::replace(expr, Expr::value(Value::Null));
            *expr = balanced(&mut operands(chain, &op), &op);
        }
        ControlFlow::Continue(())
    }
}

fn is_long(mut expr: &Expr, wanted: &BinaryOperator) -> bool {
    let mut length = 1;
    while let Expr::BinaryOp { left, op, .. } = expr
        && op == wanted
    {
        length += 1;
        expr = left;
    }
    length >= CHAIN_MIN
}

/// The operands of a chain that is nested to the left, from the last to the first.
fn operands(mut expr: Expr, wanted: &BinaryOperator) -> Vec<Expr> {
    let mut operands = Vec::new();
    loop {
        match expr {
            Expr::BinaryOp { left, op, right } if op == *wanted => {
                operands.push(*right);
                expr = *left;
            }
            first => {
                operands.push(first);
                return operands;
            }
        }
    }
}

/// A tree of operands, which are taken from the end.
fn balanced(operands: &mut Vec<Expr>, op: &BinaryOperator) -> Expr {
    fn tree(operands: &mut Vec<Expr>, count: usize, op: &BinaryOperator) -> Expr {
        if count <= 1 {
            return operands.pop().unwrap_or_else(|| Expr::value(Value::Null));
        }
        let left = tree(operands, count / 2, op);
        let right = tree(operands, count - count / 2, op);
        Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
    }
    let count = operands.len();
    tree(operands, count, op)
}

#[cfg(test)]
mod tests {
    use plexus_query::visit;

    use super::*;
    use crate::sql::parse;

    #[test]
    fn chains_keep_their_order_and_become_flat() {
        let sql =
            format!("SELECT 0 = a{} FROM t", (1..1_000).map(|n| format!(" OR {n} = a")).collect::<String>());
        let mut statement = parse::plain_statement(&sql).unwrap();
        balance(&mut statement);
        assert_eq!(statement.to_string(), sql);
        struct Depth(usize, usize);
        impl datafusion::sql::sqlparser::ast::Visitor for Depth {
            type Break = ();
            fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
                self.0 += 1;
                self.1 = self.1.max(self.0);
                ControlFlow::Continue(())
            }
            fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
                self.0 -= 1;
                ControlFlow::Continue(())
            }
        }
        let mut depth = Depth(0, 0);
        let _ = visit(&statement, &mut depth);
        assert!(depth.1 < 15, "{}", depth.1);
    }
}
