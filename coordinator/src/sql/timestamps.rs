//! Literals of timestamps that nanoseconds cannot express have microseconds: `TIMESTAMP '9999-12-31'`.
//!
//! The engine takes nanoseconds, which begin in the year 1677 and end in 2262, and fails for others.

use std::ops::{ControlFlow, RangeInclusive};

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Statement, TableFactor, TypedString, Value, VisitorMut,
};

use crate::sql::names::unqualified;
use plexus_query::visit_mut;

/// Digits behind the point of a second.
const MICROSECONDS: u64 = 6;

/// The years of which nanoseconds express every instant.
const YEARS_IN_NANOSECONDS: RangeInclusive<i32> = 1678..=2261;

/// The years of which they express at least some.
const YEARS_OF_NANOSECONDS: RangeInclusive<i32> = 1677..=2262;

/// Gives the literals in a statement a precision, where they need another one than the engine gives.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_mut(statement, &mut Literals { series: 0 });
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

/// The precision of a literal; `None` if it is no text, or nanoseconds express it.
fn digits_of_value(value: &Value) -> Option<u64> {
    let (Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text)) = value else {
        return None;
    };
    let year = text.trim().split('-').next()?.parse().ok()?;
    // In the years in which nanoseconds begin and end they express some instants: those that need them either
    // fit or fail.
    let (_, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let needs_nanoseconds = YEARS_OF_NANOSECONDS.contains(&year) && digits > MICROSECONDS as usize;
    (!YEARS_IN_NANOSECONDS.contains(&year) && !needs_nanoseconds).then_some(MICROSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn literals_of_far_years_have_microseconds() {
        for (sql, expected) in [
            ("SELECT CAST(a AS TIMESTAMP)", "SELECT CAST(a AS TIMESTAMP)"),
            ("SELECT CAST('2024-01-01' AS TIMESTAMP)", "SELECT CAST('2024-01-01' AS TIMESTAMP)"),
            ("SELECT CAST('9999-12-31' AS TIMESTAMP)", "SELECT CAST('9999-12-31' AS TIMESTAMP(6))"),
            (
                "SELECT TIMESTAMP '2262-01-01 00:00:00.000000001'",
                "SELECT TIMESTAMP '2262-01-01 00:00:00.000000001'",
            ),
            ("SELECT TIMESTAMP '2262-01-01 00:00:00.5'", "SELECT TIMESTAMP(6) '2262-01-01 00:00:00.5'"),
            ("SELECT TIMESTAMP '0001-01-01 00:00:00'", "SELECT TIMESTAMP(6) '0001-01-01 00:00:00'"),
            (
                "SELECT 1 FROM generate_series(TIMESTAMP '1500-01-01', TIMESTAMP '1500-01-02', '1 day')",
                "SELECT 1 FROM generate_series(TIMESTAMP '1500-01-01', TIMESTAMP '1500-01-02', '1 day')",
            ),
        ] {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }
}
