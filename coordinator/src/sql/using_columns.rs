//! Columns of `JOIN ... USING`: one column for both sides, first in `SELECT *`.
//!
//! The planner takes that of the left side, which is null in rows that only the right side has, and leaves it
//! in its place. See apache/datafusion#22881.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, Query,
    Select, SelectItem, TableFactor, TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use plexus_model::{Error, Result};

use crate::sql::names::{last_part, name_of};
use crate::sql::result_names::output_names;
use crate::sql::syntax;

/// Rewrites the joins with `USING` in a statement, and natural ones where the columns of both sides are
/// known.
///
/// # Errors
/// `Unsupported` for joins whose columns would be wrong.
pub(crate) fn rewrite(part: &mut impl VisitMut) -> Result<()> {
    match part.visit(&mut Joins) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Joins;

impl VisitorMut for Joins {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        match rewrite_select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// The common columns of a join: their names, in order, and what each of them is.
type Merged = Vec<(Ident, Expr)>;

fn rewrite_select(select: &mut Select) -> Result<()> {
    let is_only = select.from.len() == 1;
    let mut replaced: HashMap<String, Expr> = HashMap::new();
    let mut first: Option<Merged> = None;
    for from in &mut select.from {
        make_natural_explicit(from)?;
        let TableWithJoins { relation, joins } = from;
        let count = joins.len();
        for Join { relation: right, join_operator, .. } in joins.iter() {
            let Some((kind, columns)) = using(join_operator) else {
                continue;
            };
            let (Some(left), Some(right)) = (alias_of(relation), alias_of(right)) else {
                continue;
            };
            if kind != Kind::Inner && count > 1 {
                return Err(Error::unsupported(
                    "USING in a RIGHT or FULL JOIN of more than two tables is not supported: write ON",
                ));
            }
            let mut merged = Merged::new();
            for column in columns {
                let column = last_part(column)?;
                let of = |side: &Ident| Expr::CompoundIdentifier(vec![side.clone(), column.clone()]);
                let value = match kind {
                    Kind::Inner => of(&left),
                    Kind::Right => of(&right),
                    Kind::Full => syntax::call("coalesce", vec![of(&left), of(&right)]),
                };
                if kind != Kind::Inner {
                    replaced.insert(name_of(column), value.clone());
                }
                merged.push((column.clone(), value));
            }
            if is_only && count == 1 {
                first = Some(merged);
            }
        }
    }
    if let Some(merged) = first {
        put_first(select, &merged);
    }
    if !replaced.is_empty() {
        replace_columns(select, &replaced);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The left side has every row.
    Inner,
    Right,
    Full,
}

/// The columns of `USING`, and which side they come from.
fn using(operator: &JoinOperator) -> Option<(Kind, &Vec<ObjectName>)> {
    use JoinOperator::*;
    let (kind, constraint) = match operator {
        Join(c) | Inner(c) | Left(c) | LeftOuter(c) => (Kind::Inner, c),
        Right(c) | RightOuter(c) => (Kind::Right, c),
        FullOuter(c) => (Kind::Full, c),
        _ => return None,
    };
    match constraint {
        JoinConstraint::Using(columns) => Some((kind, columns)),
        _ => None,
    }
}

/// Makes `NATURAL` the `USING` of the common columns, if those of both sides are listed in the statement.
fn make_natural_explicit(from: &mut TableWithJoins) -> Result<()> {
    let left = columns_of(&from.relation);
    let count = from.joins.len();
    for Join { relation, join_operator, .. } in &mut from.joins {
        use JoinOperator::*;
        let (is_outer, constraint) = match join_operator {
            Right(c) | RightOuter(c) | FullOuter(c) => (true, c),
            Join(c) | Inner(c) | Left(c) | LeftOuter(c) => (false, c),
            _ => continue,
        };
        if !matches!(constraint, JoinConstraint::Natural) {
            continue;
        }
        match (&left, columns_of(relation)) {
            (Some(left), Some(right)) if count == 1 => {
                let common = left.iter().filter(|column| right.contains(column));
                let columns: Vec<ObjectName> =
                    common.map(|column| syntax::object_name([column.as_str()])).collect();
                if !columns.is_empty() {
                    *constraint = JoinConstraint::Using(columns);
                }
            }
            _ if is_outer => {
                return Err(Error::unsupported(
                    "NATURAL RIGHT and FULL JOIN are not supported: write USING with the common columns",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The names of the columns of a relation, if the statement lists them.
fn columns_of(factor: &TableFactor) -> Option<Vec<String>> {
    match factor {
        TableFactor::Derived { subquery, alias, .. } => match alias {
            Some(alias) if !alias.columns.is_empty() => {
                Some(alias.columns.iter().map(|column| name_of(&column.name)).collect())
            }
            _ => output_names(&subquery.body),
        },
        _ => None,
    }
}

/// The name by which a statement refers to a relation.
fn alias_of(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, .. } => last_part(name).ok().cloned(),
        _ => None,
    }
}

/// Puts the common columns first in `SELECT *`.
fn put_first(select: &mut Select, merged: &Merged) {
    let items = std::mem::take(&mut select.projection);
    for item in items {
        match item {
            SelectItem::Wildcard(options) if is_plain(&options) => {
                let name = |column: &Ident| name_of(column);
                select
                    .projection
                    .extend(merged.iter().map(|(c, value)| syntax::item(value.clone(), &name(c))));
                let excluded = merged.iter().map(|(c, _)| syntax::object_name([name(c).as_str()])).collect();
                let opt_exclude = Some(ExcludeSelectItem::Multiple(excluded));
                select
                    .projection
                    .push(SelectItem::Wildcard(WildcardAdditionalOptions { opt_exclude, ..options }));
            }
            item => select.projection.push(item),
        }
    }
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_ilike.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
}

/// Replaces unqualified references to common columns.
fn replace_columns(select: &mut Select, replaced: &HashMap<String, Expr>) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(Expr::Identifier(column)) = item
            && let Some(value) = replaced.get(&name_of(column))
        {
            *item = syntax::item(value.clone(), &name_of(column));
        }
    }
    let mut replace = Replace { replaced, subqueries: 0 };
    let _: ControlFlow<()> = select.projection.visit(&mut replace);
    for part in [&mut select.selection, &mut select.having, &mut select.qualify] {
        let _: ControlFlow<()> = part.visit(&mut replace);
    }
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        let _: ControlFlow<()> = exprs.visit(&mut replace);
    }
}

struct Replace<'a> {
    replaced: &'a HashMap<String, Expr>,
    subqueries: usize,
}

impl VisitorMut for Replace<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.subqueries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.subqueries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(column) = expr
            && self.subqueries == 0
            && let Some(value) = self.replaced.get(&name_of(column))
        {
            *expr = value.clone();
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn rewritten(sql: &str) -> Result<String> {
        let mut statement = parse::plain_statement(sql).unwrap();
        rewrite(&mut statement).map(|()| statement.to_string())
    }

    #[test]
    fn common_columns_come_from_the_side_that_has_them() {
        let sql =
            rewritten("SELECT k, count(*) FROM a FULL JOIN b USING (k) WHERE k = 1 GROUP BY k").unwrap();
        let merged = "\"coalesce\"(a.k, b.k)";
        let expected = format!(
            "SELECT {merged} AS \"k\", count(*) FROM a FULL JOIN b USING(k) WHERE {merged} = 1 \
             GROUP BY {merged}"
        );
        assert_eq!(sql, expected);
        let sql = rewritten("SELECT k FROM a RIGHT JOIN b AS c USING (k)").unwrap();
        assert_eq!(sql, "SELECT c.k AS \"k\" FROM a RIGHT JOIN b AS c USING(k)");
        let sql = rewritten("SELECT * FROM a JOIN b USING (k)").unwrap();
        assert_eq!(sql, "SELECT a.k AS \"k\", * EXCLUDE (\"k\") FROM a JOIN b USING(k)");
        assert_eq!(rewritten("SELECT k FROM a JOIN b USING (k)").unwrap(), "SELECT k FROM a JOIN b USING(k)");
    }

    #[test]
    fn joins_whose_columns_would_be_wrong_are_refused() {
        assert!(rewritten("SELECT k FROM a FULL JOIN b USING (k) FULL JOIN c USING (k)").is_err());
        assert!(rewritten("SELECT * FROM a NATURAL FULL JOIN b").is_err());
        assert!(rewritten("SELECT * FROM a NATURAL JOIN b").is_ok());
        let sql = rewritten("SELECT k FROM (SELECT k, 1 AS x) a NATURAL FULL JOIN (SELECT k) b").unwrap();
        assert!(sql.contains("\"coalesce\"(a.k, b.k)"), "{sql}");
    }
}
