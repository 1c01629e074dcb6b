//! Comparisons of rows: `(a, b) = (1, 2)`, `(a, b) < (c, d)`, `(a, b) IN ((1, 2), (3, 4))` and `(a, b) IN
//! (SELECT x, y ...)`.
//!
//! The engine compares rows as structs, whose fields must have the same types and whose nulls are equal. Here
//! rows are compared field by field, as in the SQL standard.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Expr, Query, Select, Statement, UnaryOperator, Value, VisitorMut,
};
use plexus_model::{Error, Result};

use crate::sql::syntax;
use plexus_query::visit_mut;

/// Rewrites the comparisons of a statement.
///
/// # Errors
/// `Unsupported` for comparisons in each other that become too large.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match visit_mut(statement, &mut RowValues) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct RowValues;

impl VisitorMut for RowValues {
    type Break = Error;

    // Before its expressions are visited: a row of a `WHERE` counts where the condition is true, and needs no
    // null.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let Some(condition) = &mut select.selection {
            rewrite_condition(condition);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Some(rewritten) = rewrite_comparison(expr) {
            if let Err(error) = syntax::check_copied("a comparison of rows", &rewritten) {
                return ControlFlow::Break(error);
            }
            *expr = rewritten;
        }
        ControlFlow::Continue(())
    }
}

/// Rewrites the members of `AND` that ask whether a row is among those of a query.
fn rewrite_condition(condition: &mut Expr) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            rewrite_condition(left);
            rewrite_condition(right);
        }
        Expr::Nested(inner) => rewrite_condition(inner),
        Expr::InSubquery { expr, subquery, negated } => {
            if let Some(member) = fields(expr).and_then(|row| is_found(row, subquery, *negated)) {
                *condition = if *negated { not(member) } else { member };
            }
        }
        _ => {}
    }
}

fn rewrite_comparison(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } => compare(fields(left)?, op, fields(right)?),
        Expr::InList { expr, list, negated } => {
            let left = fields(expr)?;
            let equal = |row: &Expr| compare(left, &BinaryOperator::Eq, fields(row)?);
            let any = list.iter().map(equal).collect::<Option<Vec<_>>>()?.into_iter().reduce(or)?;
            Some(if *negated { not(any) } else { any })
        }
        Expr::InSubquery { expr, subquery, negated } => {
            let member = is_member(fields(expr)?, subquery)?;
            Some(if *negated { not(member) } else { member })
        }
        // Both hold if they do for each field.
        Expr::IsNull(row) => fields(row)?.iter().map(|field| Expr::IsNull(operand(field))).reduce(and),
        Expr::IsNotNull(row) => fields(row)?.iter().map(|field| Expr::IsNotNull(operand(field))).reduce(and),
        _ => None,
    }
}

fn operand(field: &Expr) -> Box<Expr> {
    Box::new(syntax::nested(field.clone()))
}

/// The fields of a row.
fn fields(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(fields) if fields.len() > 1 => Some(fields),
        Expr::Nested(inner) => fields(inner),
        _ => None,
    }
}

/// A comparison of rows; `None` if they have another number of fields, or there is no such comparison.
fn compare(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    if left.len() != right.len() {
        return None;
    }
    let pairs = || left.iter().cloned().zip(right.iter().cloned());
    let all_equal = || pairs().map(|(left, right)| syntax::binary(left, Eq, right)).reduce(and);
    match op {
        Eq => all_equal(),
        NotEq => all_equal().map(not),
        Lt | Gt | LtEq | GtEq => {
            let strict = if matches!(op, Lt | LtEq) { Lt } else { Gt };
            // From the last fields to the first: less, or equal and less behind.
            let mut pairs = pairs().rev();
            let (left, right) = pairs.next()?;
            let last = syntax::binary(left, op.clone(), right);
            Some(pairs.fold(last, |behind, (left, right)| {
                let less = syntax::binary(left.clone(), strict.clone(), right.clone());
                or(less, and(syntax::binary(left, Eq, right), behind))
            }))
        }
        _ => None,
    }
}

/// Whether a row is among those of a query: true if one is equal, null if one might be, otherwise false.
fn is_member(row: &[Expr], query: &Query) -> Option<Expr> {
    let (found, might_be) = (is_found(row, query, false)?, is_found(row, query, true)?);
    let unknown = syntax::cast(syntax::null(), DataType::Boolean);
    Some(syntax::case(vec![(found, boolean(true)), (might_be, unknown)], boolean(false)))
}

/// Whether a query has a row that is equal to another one; or that might be, if nulls stand for any value.
fn is_found(row: &[Expr], query: &Query, or_might_be: bool) -> Option<Expr> {
    let alias = syntax::ident("$row");
    let names: Vec<String> = (0..row.len()).map(|index| format!("$field_{index}")).collect();
    let columns: Vec<Expr> = names.iter().map(|name| syntax::column(&alias, name)).collect();
    let equal = compare(row, &BinaryOperator::Eq, &columns)?;
    let condition = if or_might_be { Expr::IsNotFalse(Box::new(syntax::nested(equal))) } else { equal };
    let rows = syntax::derived(query.clone(), alias, names.iter().map(syntax::ident).collect());
    let one = syntax::item(syntax::number(1), "$one");
    let select = syntax::select(vec![one], vec![syntax::relation(rows)], Some(condition));
    Some(Expr::Exists { subquery: Box::new(select), negated: false })
}

fn boolean(value: bool) -> Expr {
    syntax::literal(Value::Boolean(value))
}

fn and(left: Expr, right: Expr) -> Expr {
    syntax::binary(left, BinaryOperator::And, right)
}

fn or(left: Expr, right: Expr) -> Expr {
    syntax::binary(left, BinaryOperator::Or, right)
}

fn not(expr: Expr) -> Expr {
    syntax::nested(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(syntax::nested(expr)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn rows_are_compared_field_by_field() {
        let rewritten = |sql: &str| {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement).unwrap();
            statement.to_string()
        };
        let sql = rewritten("SELECT (a, b) = (1, 2)");
        assert!(!sql.contains("(a, b)") && sql.contains("AND"), "{sql}");
        let sql = rewritten("SELECT 1 FROM t WHERE (a, b) IN (SELECT x, y FROM u)");
        assert!(sql.contains("EXISTS") && sql.contains("\"$row\" (\"$field_0\", \"$field_1\")"), "{sql}");
        assert_eq!(rewritten("SELECT (a, b) = c"), "SELECT (a, b) = c");
    }
}
