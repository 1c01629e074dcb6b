//! Long chains of `AND` and `OR` as balanced trees, and as lists where they compare a column with constants.
//! The parser makes a tree as deep as such a chain is long, and whatever walks it recurses as deep.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use crate::visit::visit_mut;

/// Shorter chains stay as they are written.
const CHAIN_MIN: usize = 64;

/// Balances the chains of a statement, or of an expression.
pub fn balance(part: &mut impl VisitMut) {
    let _: ControlFlow<()> = visit_mut(part, &mut Chains);
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
            *expr = balanced(&mut listed(operands(chain, &op), &op), &op);
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

/// Operands in which `a = 1 OR a = 2` and `a <> 1 AND a <> 2` are lists, each at the place of its first item.
/// From the last to the first as before.
fn listed(operands: Vec<Expr>, op: &BinaryOperator) -> Vec<Expr> {
    let (comparison, negated) = match op {
        BinaryOperator::Or => (BinaryOperator::Eq, false),
        _ => (BinaryOperator::NotEq, true),
    };
    let mut lists: HashMap<(String, Constant), usize> = HashMap::new();
    let mut rest: Vec<Expr> = Vec::new();
    for operand in operands.into_iter().rev() {
        let (left, right) = match operand {
            Expr::BinaryOp { left, op, right } if op == comparison => (left, right),
            other => {
                rest.push(other);
                continue;
            }
        };
        let is_column = matches!(*left, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        let Some(constant) = constant(&right).filter(|_| is_column) else {
            rest.push(Expr::BinaryOp { left, op: comparison.clone(), right });
            continue;
        };
        let at = *lists.entry((left.to_string(), constant)).or_insert(rest.len());
        match rest.get_mut(at) {
            Some(Expr::InList { list, .. }) => list.push(*right),
            _ => rest.push(Expr::InList { expr: left, list: vec![*right], negated }),
        }
    }
    rest.reverse();
    rest
}

/// A kind of constants whose comparisons with a column mean the same in a list.
#[derive(PartialEq, Eq, Hash)]
enum Constant {
    WholeNumber,
    Text,
}

fn constant(expr: &Expr) -> Option<Constant> {
    match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            constant(expr).filter(|constant| *constant == Constant::WholeNumber)
        }
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
            digits.bytes().all(|digit| digit.is_ascii_digit()).then_some(Constant::WholeNumber)
        }
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_), .. }) => Some(Constant::Text),
        _ => None,
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
    use datafusion::sql::sqlparser::ast::Statement;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::visit::visit;

    fn parsed(sql: &str) -> Statement {
        Parser::parse_sql(&GenericDialect {}, sql).unwrap().pop().unwrap()
    }

    #[test]
    fn comparisons_of_columns_with_constants_become_lists() {
        let chain = |op: &str, term: &str, count: usize| {
            (0..count).map(|n| term.replace('?', &n.to_string())).collect::<Vec<_>>().join(op)
        };
        let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        for (condition, expected) in [
            (
                format!("{} AND b", chain(" AND ", "t.a <> ?", 70)),
                format!("t.a NOT IN ({}) AND b", numbers(70)),
            ),
            (format!("b OR {}", chain(" OR ", "a = ?", 70)), format!("b OR a IN ({})", numbers(70))),
            // Constants of another kind, and other comparisons, stay apart.
            (
                format!("a = '0' OR a = 1.5 OR {} OR a = '1' OR a <> 3 OR b = 4", chain(" OR ", "a = ?", 70)),
                format!("a IN ('0', '1') OR a = 1.5 OR a IN ({}) OR a <> 3 OR b IN (4)", numbers(70)),
            ),
            // A short chain stays as it is.
            ("a = 1 OR a = 2".to_owned(), "a = 1 OR a = 2".to_owned()),
        ] {
            let mut statement = parsed(&format!("SELECT 1 FROM t WHERE {condition}"));
            balance(&mut statement);
            assert_eq!(statement.to_string(), format!("SELECT 1 FROM t WHERE {expected}"));
        }
    }

    #[test]
    fn chains_keep_their_order_and_become_flat() {
        let sql =
            format!("SELECT 0 = a{} FROM t", (1..1_000).map(|n| format!(" OR {n} = a")).collect::<String>());
        let mut statement = parsed(&sql);
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
