//! `a ^ b` is a power, as in PostgreSQL and DuckDB: the engine takes it for an exclusive or. `U&'...'` and
//! `N'...'` are texts: the engine does not know them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, Value, visit_expressions_mut};

use crate::sql::syntax;

/// Rewrites the operators of a statement.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::BinaryOp { left, op: BinaryOperator::BitwiseXor, right } = expr {
            *expr = syntax::call("power", vec![left.as_ref().clone(), right.as_ref().clone()]);
        }
        if let Expr::Value(value) = expr
            && let Value::UnicodeStringLiteral(text) | Value::NationalStringLiteral(text) = &value.value
        {
            value.value = Value::SingleQuotedString(text.clone());
        }
        ControlFlow::Continue(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn powers_bind_tighter_than_products_and_texts_lose_their_prefix() {
        let rewritten = |sql: &str| {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            statement.to_string()
        };
        assert_eq!(rewritten("SELECT 1 + 2 * a ^ 3"), "SELECT 1 + 2 * \"power\"(a, 3)");
        assert_eq!(rewritten("SELECT U&'\\0041', N'b'"), "SELECT 'A', 'b'");
    }
}
