//! The text of definitions: defaults and checks as they are kept in the schema of a table.
//!
//! The printer of the parser repeats quotes as they are, so `'\''` and `"a""""b"` would come back as
//! something else. Here quotes are doubled before they are printed, and what was printed is parsed again and
//! compared.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArguments, Ident, ObjectName, ObjectNamePart, UnaryOperator, Value,
    ValueWithSpan, VisitorMut,
};
use plexus_model::{Error, Result};

use crate::sql::parse;
use plexus_query::visit_mut;

/// An expression as text that parses to the same expression.
///
/// # Errors
/// `Unsupported` when the expression has no such text.
pub(crate) fn definition(expr: &Expr) -> Result<String> {
    let mut printed = expr.clone();
    let _: ControlFlow<()> = visit_mut(&mut printed, &mut DoubleQuotes);
    let text = printed.to_string();
    match parse::expression(&text) {
        Ok(parsed) if without_parentheses(parsed.clone()) == without_parentheses(expr.clone()) => Ok(text),
        _ => Err(Error::unsupported(format!("{expr} cannot be kept in the definition of a table"))),
    }
}

/// An expression without the parentheses that its tree does not need.
fn without_parentheses(mut expr: Expr) -> Expr {
    struct Unwrap;

    impl VisitorMut for Unwrap {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            while let Expr::Nested(inner) = expr {
                let inner = std::mem::replace(inner.as_mut(), Expr::value(Value::Null));
                *expr = inner;
            }
            ControlFlow::Continue(())
        }
    }

    let _: ControlFlow<()> = visit_mut(&mut expr, &mut Unwrap);
    expr
}

/// Doubles the quotes in literals and identifiers, which the printer leaves as they are.
struct DoubleQuotes;

impl VisitorMut for DoubleQuotes {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        match &mut value.value {
            Value::SingleQuotedString(text) | Value::NationalStringLiteral(text) => {
                *text = text.replace('\'', "''");
            }
            Value::DoubleQuotedString(text) => *text = text.replace('"', "\"\""),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => double(ident),
            Expr::CompoundIdentifier(parts) => parts.iter_mut().for_each(double),
            // Two signs in a row would start a comment.
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } if matches!(**expr, Expr::UnaryOp { .. }) => {
                let inner = std::mem::replace(expr.as_mut(), Expr::value(Value::Null));
                **expr = Expr::Nested(Box::new(inner));
            }
            Expr::Function(function) => {
                double_name(&mut function.name);
                if let FunctionArguments::List(list) = &mut function.args {
                    for arg in &mut list.args {
                        if let FunctionArg::Named { name, .. } = arg {
                            double(name);
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn double(ident: &mut Ident) {
    if let Some(quote) = ident.quote_style.filter(|quote| ['"', '`'].contains(quote)) {
        ident.value = ident.value.replace(quote, &format!("{quote}{quote}"));
    }
}

fn double_name(name: &mut ObjectName) {
    for part in &mut name.0 {
        if let ObjectNamePart::Identifier(ident) = part {
            double(ident);
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::BinaryOperator;
    use proptest::prelude::*;

    use super::*;
    use crate::sql::syntax;

    /// Characters that quoting has to do with, and others.
    fn text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            Just('\''),
            Just('"'),
            Just('\\'),
            Just('`'),
            Just('\n'),
            Just('-'),
            Just('a'),
            Just('é'),
        ];
        proptest::collection::vec(character, 0..8).prop_map(String::from_iter)
    }

    fn expression() -> impl Strategy<Value = Expr> {
        let leaf = prop_oneof![
            text().prop_map(|text| syntax::text(&text)),
            text()
                .prop_filter("an identifier", |t| !t.is_empty())
                .prop_map(|t| Expr::Identifier(syntax::ident(t))),
            any::<u32>().prop_map(|n| syntax::number(i64::from(n))),
            Just(syntax::null()),
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| syntax::binary(a, BinaryOperator::Plus, b)),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| syntax::binary(a, BinaryOperator::Eq, b)),
                (inner.clone(), text()).prop_map(|(a, t)| syntax::call("f", vec![a, syntax::text(&t)])),
                (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| syntax::case([(a, b)], c)),
            ]
        })
    }

    proptest! {
        #[test]
        fn definitions_parse_to_what_was_printed(expr in expression()) {
            let text = definition(&expr).unwrap();
            prop_assert_eq!(parse::expression(&text).unwrap(), expr);
        }
    }

    #[test]
    fn definitions_as_users_write_them_are_kept() {
        for sql in [
            r"s = '\' OR true",
            "'a''''b'",
            "\"a\"\"\"\"b\" > - -0",
            "a IN (1, 2.50, NULL) AND b NOT LIKE 'x%' ESCAPE '\\'",
            "CAST(x AS DECIMAL(10, 2)) BETWEEN 0 AND 1e5",
            "now() - INTERVAL '1 day'",
            "E'a\\'b'",
            "x IS NOT DISTINCT FROM y",
        ] {
            let expr = parse::expression(sql).unwrap();
            let text = definition(&expr).unwrap_or_else(|e| panic!("{sql}: {e}"));
            let parsed = without_parentheses(parse::expression(&text).unwrap());
            assert_eq!(parsed, without_parentheses(expr), "{sql}: {text}");
        }
    }
}
