//! Columns of `JOIN ... USING`: one column for both sides, first in `SELECT *`.
//!
//! The planner takes that of the left side, which is null in rows that only the right side has, and leaves it
//! in its place. See apache/datafusion#22881.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, ExcludeSelectItem, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator,
    ObjectName, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    TableFactor, TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use plexus_model::{Error, Result};

use crate::sql::columns::replace_unqualified;
use crate::sql::names::{last_part, name_of};
use crate::sql::result_names::output_names;
use crate::sql::syntax;
use plexus_query::visit_mut;

/// Rewrites the joins with `USING` in a statement, and natural ones where the columns of both sides are
/// known.
///
/// # Errors
/// `Unsupported` for joins whose columns would be wrong.
pub(crate) fn rewrite(part: &mut impl VisitMut) -> Result<()> {
    match visit_mut(part, &mut Joins) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Joins;

impl VisitorMut for Joins {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let explicit = select.from.iter_mut().try_for_each(make_natural_explicit);
        let common = match explicit.and_then(|()| CommonColumns::of(select)) {
            Ok(common) => common,
            Err(error) => return ControlFlow::Break(error),
        };
        if let Some(ast::OrderBy { kind: OrderByKind::Expressions(exprs), .. }) = &mut query.order_by {
            let mut replaced = common.replaced;
            // Names of the result come first.
            for item in &select.projection {
                match item {
                    SelectItem::UnnamedExpr(Expr::Identifier(name)) => replaced.remove(&name_of(name)),
                    SelectItem::ExprWithAlias { alias, .. } => replaced.remove(&name_of(alias)),
                    SelectItem::Wildcard(_) => {
                        replaced.clear();
                        None
                    }
                    _ => None,
                };
            }
            replace_unqualified(exprs, |column| replaced.get(&name_of(column)).cloned());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        match rewrite_select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn rewrite_select(select: &mut Select) -> Result<()> {
    select.from.iter_mut().try_for_each(make_natural_explicit)?;
    let common = CommonColumns::of(select)?;
    if let Some(items) = common.items {
        expand_wildcards(select, &items);
        select.from.iter_mut().for_each(write_conditions);
    }
    if !common.replaced.is_empty() {
        replace_columns(select, &common.replaced);
    }
    Ok(())
}

/// Writes `USING` as conditions where three joins or more may have one common column. The planner then takes
/// it for several, and calls it ambiguous. All of its other uses have been rewritten.
fn write_conditions(from: &mut TableWithJoins) {
    let Some(left) = alias_of(&from.relation).filter(|_| from.joins.len() > 2) else {
        return;
    };
    for Join { relation, join_operator, .. } in &mut from.joins {
        use JoinOperator::*;
        let (Join(constraint) | Inner(constraint) | Left(constraint) | LeftOuter(constraint)) = join_operator
        else {
            continue;
        };
        if let (JoinConstraint::Using(columns), Some(right)) = (&*constraint, alias_of(relation)) {
            let names = columns.iter().filter_map(|column| last_part(column).ok());
            let equal = names.map(|name| {
                let [left, right] =
                    [&left, &right].map(|side| Expr::CompoundIdentifier(vec![side.clone(), name.clone()]));
                syntax::binary(left, BinaryOperator::Eq, right)
            });
            *constraint = JoinConstraint::On(syntax::all(equal.collect::<Vec<_>>()));
        }
    }
}

/// The common columns of the joins of a query.
#[derive(Default)]
struct CommonColumns {
    /// What stands for each of them, by name.
    replaced: HashMap<String, Expr>,
    /// What stands for `*`; `None` if there is no `USING`.
    items: Option<Vec<SelectItem>>,
}

impl CommonColumns {
    fn of(select: &Select) -> Result<Self> {
        let mut common = Self::default();
        let mut items = Vec::new();
        let (mut has_using, mut is_known) = (false, true);
        for TableWithJoins { relation: first, joins } in &select.from {
            check_nested(first)?;
            let left = alias_of(first);
            let mut merged: Vec<(String, Expr)> = Vec::new();
            // Each relation, with the columns that are not repeated behind the common ones.
            let mut relations = vec![(left.clone(), Vec::new())];
            for (index, Join { relation, join_operator, .. }) in joins.iter().enumerate() {
                check_nested(relation)?;
                let right = alias_of(relation);
                let mut excluded = Vec::new();
                if let Some((kind, columns)) = using(join_operator) {
                    has_using = true;
                    if kind != Kind::Inner && (joins.len() > 1 || left.is_none() || right.is_none()) {
                        return Err(Error::unsupported(
                            "USING in a RIGHT or FULL JOIN of more than two tables, or of one without a \
                             name, is not supported: write ON",
                        ));
                    }
                    for column in columns {
                        let column = last_part(column)?;
                        let name = name_of(column);
                        excluded.push(name.clone());
                        // A column of a later join may be of any of the tables before it.
                        let is_of_first = index == 0 || merged.iter().any(|(merged, _)| *merged == name);
                        let (Some(left), Some(right), true) = (&left, &right, is_of_first) else {
                            is_known = false;
                            continue;
                        };
                        let of = |side: &Ident| Expr::CompoundIdentifier(vec![side.clone(), column.clone()]);
                        let value = match kind {
                            Kind::Inner => of(left),
                            Kind::Right => of(right),
                            Kind::Full => syntax::call("coalesce", vec![of(left), of(right)]),
                        };
                        if merged.iter().all(|(merged, _)| *merged != name) {
                            relations[0].1.push(name.clone());
                            merged.push((name, value));
                        }
                    }
                }
                relations.push((right, excluded));
            }
            items.extend(merged.iter().map(|(name, value)| syntax::item(value.clone(), name)));
            for (alias, excluded) in relations {
                match alias {
                    Some(alias) => items.push(columns_of_relation(alias, &excluded)),
                    None => is_known = false,
                }
            }
            common.replaced.extend(merged);
        }
        common.items = (has_using && is_known).then_some(items);
        Ok(common)
    }
}

/// Refuses joins in parentheses whose common columns would be those of one side.
fn check_nested(factor: &TableFactor) -> Result<()> {
    let TableFactor::NestedJoin { table_with_joins, .. } = factor else {
        return Ok(());
    };
    let is_outer = |join: &Join| using(&join.join_operator).is_some_and(|(kind, _)| kind != Kind::Inner);
    if table_with_joins.joins.iter().any(is_outer) {
        return Err(Error::unsupported(
            "USING in a RIGHT or FULL JOIN in parentheses is not supported: write ON",
        ));
    }
    check_nested(&table_with_joins.relation)?;
    table_with_joins.joins.iter().try_for_each(|join| check_nested(&join.relation))
}

/// The columns of a relation but some.
fn columns_of_relation(alias: Ident, excluded: &[String]) -> SelectItem {
    let name = ObjectName::from(vec![alias]);
    let names: Vec<ObjectName> = excluded.iter().map(|name| syntax::object_name([name.as_str()])).collect();
    let opt_exclude = (!names.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
    SelectItem::QualifiedWildcard(
        SelectItemQualifiedWildcardKind::ObjectName(name),
        WildcardAdditionalOptions { opt_exclude, ..WildcardAdditionalOptions::default() },
    )
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

/// Replaces `*` by the common columns and those of each relation.
fn expand_wildcards(select: &mut Select, columns: &[SelectItem]) {
    for item in std::mem::take(&mut select.projection) {
        match item {
            SelectItem::Wildcard(options) if is_plain(&options) => {
                select.projection.extend(columns.iter().cloned());
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
    let value = |column: &Ident| replaced.get(&name_of(column)).cloned();
    replace_unqualified(&mut select.projection, value);
    for part in [&mut select.selection, &mut select.having, &mut select.qualify] {
        replace_unqualified(part, value);
    }
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        replace_unqualified(exprs, value);
    }
    replace_unqualified(&mut select.named_window, value);
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
        let expected = "SELECT a.k AS \"k\", a.* EXCLUDE (\"k\"), b.* EXCLUDE (\"k\") FROM a JOIN b USING(k)";
        assert_eq!(sql, expected);
        let sql = rewritten("SELECT x FROM a FULL JOIN b USING (k) ORDER BY k").unwrap();
        assert_eq!(sql, format!("SELECT x FROM a FULL JOIN b USING(k) ORDER BY {merged}"));
        let sql =
            rewritten("SELECT * FROM a LEFT JOIN b USING (k) LEFT JOIN c USING (k) ORDER BY k").unwrap();
        assert!(
            sql.ends_with("c.* EXCLUDE (\"k\") FROM a LEFT JOIN b USING(k) LEFT JOIN c USING(k) ORDER BY k")
        );
    }

    #[test]
    fn many_joins_are_written_with_conditions() {
        let sql = rewritten("SELECT k FROM a JOIN b USING (k) LEFT JOIN c USING (k) JOIN d USING (k, l)");
        assert!(sql.unwrap().ends_with("JOIN d USING(k, l)"));
        let sql = rewritten("SELECT k FROM a JOIN b USING (k) LEFT JOIN c USING (k) JOIN d USING (k)");
        let expected = "SELECT a.k AS \"k\" FROM a JOIN b ON a.k = b.k LEFT JOIN c ON a.k = c.k \
                        JOIN d ON a.k = d.k";
        assert_eq!(sql.unwrap(), expected);
    }

    #[test]
    fn joins_whose_columns_would_be_wrong_are_refused() {
        assert!(rewritten("SELECT k FROM a FULL JOIN b USING (k) FULL JOIN c USING (k)").is_err());
        assert!(rewritten("SELECT * FROM a NATURAL FULL JOIN b").is_err());
        assert!(rewritten("SELECT k FROM (a FULL JOIN b USING (k))").is_err());
        assert!(rewritten("SELECT * FROM a NATURAL JOIN b").is_ok());
        let sql = rewritten("SELECT k FROM (SELECT k, 1 AS x) a NATURAL FULL JOIN (SELECT k) b").unwrap();
        assert!(sql.contains("\"coalesce\"(a.\"k\", b.\"k\")"), "{sql}");
    }
}
