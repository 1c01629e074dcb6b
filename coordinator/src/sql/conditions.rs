//! Conditions that are given as text, such as the `filter` of a search: they mean what they mean in `WHERE`.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, SelectItem, SetExpr, Value};
use plexus_model::{Error, Result};
use plexus_query::{ExpressionParsers, visit_expressions};

use crate::sql::kind::Parsed;
use crate::sql::search_calls::prepare;
use crate::sql::{parse, syntax};

/// The parsers of expressions in texts.
pub const EXPRESSION_PARSERS: ExpressionParsers =
    ExpressionParsers { definition: parse::expression, condition };

/// Parses a condition and rewrites it as a part of a statement.
///
/// # Errors
/// `InvalidArgument` for a syntax error, and `Unsupported` for subqueries and parameters, whose values are
/// not known where it is evaluated.
fn condition(sql: &str) -> Result<Expr> {
    let expr = parse::expression(sql)?;
    let stopped = visit_expressions(&expr, &mut |part| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
            ControlFlow::Break("a condition in a text has no subquery: join the result of the search")
        }
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => ControlFlow::Break(
            "a condition in a text has no parameters of its own: pass the whole text as one",
        ),
        _ => ControlFlow::Continue(()),
    });
    if let ControlFlow::Break(reason) = stopped {
        return Err(Error::unsupported(reason));
    }
    let query = syntax::select(vec![syntax::item(expr, "condition")], vec![], None);
    let statement = ast::Statement::Query(Box::new(query));
    let parsed = Parsed::new(Statement::Statement(Box::new(statement)))?;
    let Statement::Statement(mut statement) = parsed.statement else {
        return Err(Error::internal("a condition became another statement"));
    };
    prepare(&mut statement)?;
    let ast::Statement::Query(query) = *statement else {
        return Err(Error::internal("a condition became another statement"));
    };
    match *query.body {
        SetExpr::Select(select) => match select.projection.into_iter().next() {
            Some(SelectItem::ExprWithAlias { expr, .. } | SelectItem::UnnamedExpr(expr)) => Ok(expr),
            _ => Err(Error::internal("a condition without an expression")),
        },
        _ => Err(Error::internal("a condition became another query")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_in_statements() {
        for (text, expected) in
            [("a IS NOT DISTINCT FROM b AND c", "a IS NOT DISTINCT FROM b AND c"), ("a > 1", "a > 1")]
        {
            let Expr::BinaryOp { op, .. } = condition(text).unwrap() else { panic!("{text}") };
            let Expr::BinaryOp { op: wanted, .. } = parse::expression(expected).unwrap() else { panic!() };
            assert_eq!(op, wanted, "{text}");
        }
        for text in
            ["id = $1", "id IN (SELECT 1)", "EXISTS (SELECT 1)", "id = (SELECT 1)", "id = 1; DROP TABLE t"]
        {
            assert!(condition(text).is_err(), "{text}");
        }
    }
}
