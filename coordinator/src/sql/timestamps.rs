//! Literals of timestamps have microseconds, unless they are written with more digits.
//!
//! The engine takes nanoseconds, which begin in the year 1677 and end in 2262: `TIMESTAMP '9999-12-31'` would
//! be an error.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Statement, TableFactor, TypedString, Value, VisitMut, VisitorMut,
};

use crate::sql::names::unqualified;

/// Digits behind the point of a second.
const MICROSECONDS: u64 = 6;
const NANOSECONDS: u64 = 9;

/// Gives the literals in a statement a precision.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = statement.visit(&mut Literals { series: 0 });
}

struct Literals {
    /// How many calls of `generate_series`, which takes nanoseconds only, are around the present expression.
    series: usize,
}

impl VisitorMut for Literals {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.series += usize::from(is_series(factor));
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.series -= usize::from(is_series(factor));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.series > 0 {
            return ControlFlow::Continue(());
        }
        let (data_type, digits) = match expr {
            Expr::Cast { data_type, expr, .. } => (data_type, digits_of(expr)),
            Expr::TypedString(TypedString { data_type, value, .. }) => {
                (data_type, digits_of_value(&value.value))
            }
            _ => return ControlFlow::Continue(()),
        };
        if let DataType::Timestamp(precision @ None, _) | DataType::Datetime(precision @ None) = data_type {
            *precision = digits;
        }
        ControlFlow::Continue(())
    }
}

/// Whether a relation is `generate_series(...)`.
fn is_series(factor: &TableFactor) -> bool {
    let name = match factor {
        TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => name,
        _ => return false,
    };
    unqualified(name).is_ok_and(|name| ["generate_series", "range"].contains(&name.as_str()))
}

fn digits_of(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Value(value) => digits_of_value(&value.value),
        Expr::Nested(expr) => digits_of(expr),
        _ => None,
    }
}

/// The precision of a literal; `None` if it is no text.
fn digits_of_value(value: &Value) -> Option<u64> {
    let (Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text)) = value else {
        return None;
    };
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    Some(if digits.trim_end_matches('0').len() > 6 { NANOSECONDS } else { MICROSECONDS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn literals_have_microseconds_unless_more_digits_are_written() {
        for (sql, expected) in [
            ("SELECT CAST(a AS TIMESTAMP)", "SELECT CAST(a AS TIMESTAMP)"),
            ("SELECT CAST('2024-01-01' AS TIMESTAMP)", "SELECT CAST('2024-01-01' AS TIMESTAMP(6))"),
            ("SELECT TIMESTAMP '2024-01-01 00:00:00.123'", "SELECT TIMESTAMP(6) '2024-01-01 00:00:00.123'"),
            (
                "SELECT TIMESTAMP '2024-01-01 00:00:00.1234567'",
                "SELECT TIMESTAMP(9) '2024-01-01 00:00:00.1234567'",
            ),
            (
                "SELECT 1 FROM generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-02', '1 day')",
                "SELECT 1 FROM generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-02', '1 day')",
            ),
        ] {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }
}
