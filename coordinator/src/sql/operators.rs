//! `a ^ b` is a power, as in PostgreSQL and DuckDB: the engine takes it for an exclusive or. A sign before it
//! is one of `a`: the parser takes it for one of the power. `mod(a, b)` is
//! `a % b`, `~a` inverts all bits, and `U&'...'` and `N'...'` are texts: the engine does not know them.
//!
//! `SIMILAR TO` has the patterns of the SQL standard, which are those of `LIKE` with alternatives, repetition
//! and sets, and match a text as a whole; the engine takes them for regular expressions that match a part.
//! `x = ANY (list)` is null if no item is equal and one is null; the engine leaves such items out.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, FunctionArguments, Statement, UnaryOperator, Value, VisitorMut,
};
use plexus_model::Result;
use plexus_query::{
    BITWISE_NOT, HAS_UNKNOWN_ITEM, INTERVAL_TIMES, SIMILAR_PATTERN, visit_expressions_mut, visit_mut,
};

use crate::sql::names::unqualified;
use crate::sql::syntax;
use crate::sql::window_calls::argument;

/// Moves the sign of a power to its base.
struct Signs;

impl VisitorMut for Signs {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } = expr
            && is_power(inner)
        {
            let mut power = std::mem::replace(inner.as_mut(), syntax::null());
            let mut base = &mut power;
            while let Expr::BinaryOp { left, op: BinaryOperator::BitwiseXor, .. } = base {
                base = left;
            }
            let of_base = std::mem::replace(base, syntax::null());
            *base = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(of_base) };
            *expr = power;
        }
        ControlFlow::Continue(())
    }
}

fn is_power(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::BitwiseXor, .. })
}

/// Rewrites the operators of a statement.
///
/// # Errors
/// `Unsupported` for `ANY` and `ALL` of lists in each other, too deep.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    let _ = visit_mut(statement, &mut Signs);
    let rewritten = visit_expressions_mut(statement, &mut |expr| {
        if let Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } = expr
            && let Err(error) = [left, right]
                .into_iter()
                .try_for_each(|side| syntax::check_copied("ANY or ALL of a list", side.as_ref()))
        {
            return ControlFlow::Break(error);
        }
        if let Expr::BinaryOp { left, op: BinaryOperator::Multiply, right } = expr {
            let product = match (is_interval(left), is_interval(right)) {
                (true, false) => Some((left.as_ref().clone(), right.as_ref().clone())),
                (false, true) => Some((right.as_ref().clone(), left.as_ref().clone())),
                _ => None,
            };
            if let Some((interval, number)) = product {
                *expr = syntax::call(INTERVAL_TIMES, vec![interval, number]);
            }
        }
        if let Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr: inner } = expr {
            *expr = syntax::call(BITWISE_NOT, vec![inner.as_ref().clone()]);
        } else if let Some((left, right)) = modulo(expr) {
            *expr = syntax::nested(syntax::binary(left, BinaryOperator::Modulo, right));
        } else if let Expr::BinaryOp { left, op: BinaryOperator::BitwiseXor, right } = expr {
            *expr = syntax::call("power", vec![left.as_ref().clone(), right.as_ref().clone()]);
        }
        match expr {
            Expr::SimilarTo { negated, expr: text, pattern, escape_char } => {
                let op = match negated {
                    true => BinaryOperator::PGRegexNotMatch,
                    false => BinaryOperator::PGRegexMatch,
                };
                let escape = escape_char.clone().map_or_else(|| syntax::text("\\"), Expr::Value);
                let regex = syntax::call(SIMILAR_PATTERN, vec![pattern.as_ref().clone(), escape]);
                let left = Box::new(Expr::Nested(text.clone()));
                *expr = Expr::BinaryOp { left, op, right: Box::new(regex) };
            }
            Expr::AnyOp { left, compare_op, right, .. } if !is_query(right) => {
                *expr = any_item(left, compare_op.clone(), right);
            }
            Expr::AllOp { left, compare_op, right } if !is_query(right) => {
                if let Some(negation) = negation_of(compare_op) {
                    let any = Box::new(any_item(left, negation, right));
                    *expr = Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(any)) };
                }
            }
            _ => {}
        }
        if let Expr::Value(value) = expr
            && let Value::UnicodeStringLiteral(text) | Value::NationalStringLiteral(text) = &value.value
        {
            value.value = Value::SingleQuotedString(text.clone());
        }
        ControlFlow::Continue(())
    });
    match rewritten {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The operands of `mod(a, b)`.
fn modulo(expr: &Expr) -> Option<(Expr, Expr)> {
    let Expr::Function(function) = expr else {
        return None;
    };
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    match (unqualified(&function.name).ok()?.as_str(), list.args.as_slice()) {
        ("mod", [left, right]) => Some((argument(left)?.clone(), argument(right)?.clone())),
        _ => None,
    }
}

fn is_interval(expr: &Expr) -> bool {
    match expr {
        Expr::Interval(_) => true,
        Expr::Nested(inner) => is_interval(inner),
        _ => false,
    }
}

fn is_query(expr: &Expr) -> bool {
    match expr {
        Expr::Subquery(_) => true,
        Expr::Nested(inner) => is_query(inner),
        _ => false,
    }
}

/// `left op ANY (list)`: true for one item, and otherwise null if an item or the list is.
fn any_item(left: &Expr, op: BinaryOperator, list: &Expr) -> Expr {
    let any = Expr::AnyOp {
        left: Box::new(left.clone()),
        compare_op: op,
        right: Box::new(list.clone()),
        is_some: false,
    };
    let is_unknown = syntax::call(HAS_UNKNOWN_ITEM, vec![list.clone(), Expr::IsNull(Box::new(left.clone()))]);
    let when = |condition, result| CaseWhen { condition, result };
    let boolean = |value| Expr::value(Value::Boolean(value));
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![when(any, boolean(true)), when(is_unknown, syntax::null())],
        else_result: Some(Box::new(boolean(false))),
    }
}

fn negation_of(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Eq => BinaryOperator::NotEq,
        BinaryOperator::NotEq => BinaryOperator::Eq,
        BinaryOperator::Lt => BinaryOperator::GtEq,
        BinaryOperator::LtEq => BinaryOperator::Gt,
        BinaryOperator::Gt => BinaryOperator::LtEq,
        BinaryOperator::GtEq => BinaryOperator::Lt,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn powers_bind_tighter_than_products_and_texts_lose_their_prefix() {
        let rewritten = |sql: &str| {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement).unwrap();
            statement.to_string()
        };
        assert_eq!(rewritten("SELECT -a ^ b ^ 2"), "SELECT \"power\"(\"power\"(-a, b), 2)");
        assert_eq!(rewritten("SELECT -(a ^ b)"), "SELECT -(\"power\"(a, b))");
        assert_eq!(rewritten("SELECT 1 + 2 * a ^ 3"), "SELECT 1 + 2 * \"power\"(a, 3)");
        assert_eq!(
            rewritten("SELECT a SIMILAR TO b FROM t"),
            "SELECT (a) ~ \"$similar_pattern\"(b, '\\') FROM t"
        );
        assert_eq!(rewritten("SELECT U&'\\0041', N'b'"), "SELECT 'A', 'b'");
    }
}
