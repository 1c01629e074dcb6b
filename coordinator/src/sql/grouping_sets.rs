//! `HAVING` without groups or aggregates, as the one group of all rows that it makes, and
//! `ROLLUP` and `CUBE` with keys in parentheses or with one key twice, as the grouping sets that they are
//! short for: `ROLLUP (a, (b, c))` is `GROUPING SETS ((a, b, c), (a), ())`. The engine refuses both.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Select, SelectItem, Statement, Value, ValueWithSpan, VisitorMut,
};
use plexus_model::{Error, Result};
use plexus_query::visit_mut;

use crate::sql::clauses::{has_aggregates, has_groups};

/// Keys of a `CUBE` at most: it has a set for each selection of them.
const CUBE_KEYS_MAX: usize = 12;

/// Rewrites these in a statement.
///
/// # Errors
/// `InvalidArgument` for a `CUBE` of too many keys.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match visit_mut(statement, &mut Groups) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Groups;

impl VisitorMut for Groups {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if is_one_group(select) {
            select.group_by = GroupByExpr::Expressions(vec![Expr::GroupingSets(vec![vec![]])], vec![]);
        }
        if let GroupByExpr::Expressions(groups, _) = &mut select.group_by {
            for group in groups {
                if let Err(error) = rewrite_group(group, &select.projection) {
                    return ControlFlow::Break(error);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether all rows are one group because of `HAVING` alone: the engine knows that only of aggregates.
fn is_one_group(select: &Select) -> bool {
    select.having.is_some()
        && !has_groups(select)
        && !has_aggregates(&select.having)
        && !has_aggregates(&select.projection)
}

fn rewrite_group(group: &mut Expr, items: &[SelectItem]) -> Result<()> {
    if let Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets) = group {
        for set in sets {
            *set = flattened(std::mem::take(set));
            set.iter_mut().try_for_each(|key| name_item(key, items))?;
        }
    }
    if let Some(sets) = sets_of(group)? {
        *group = Expr::GroupingSets(sets);
    }
    Ok(())
}

/// Keys without the parentheses around some of them.
fn flattened(keys: Vec<Expr>) -> Vec<Expr> {
    let flat = keys.into_iter().flat_map(|key| match key {
        Expr::Tuple(keys) => flattened(keys),
        key => vec![key],
    });
    flat.collect()
}

/// Replaces the position of an item of the select list by the item. The engine does so outside of sets only,
/// where it takes each number for a position.
fn name_item(key: &mut Expr, items: &[SelectItem]) -> Result<()> {
    let Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) = key else {
        return Ok(());
    };
    let Ok(position) = number.parse::<usize>() else {
        return Err(Error::invalid(format!("GROUP BY: {number} is not the position of an item")));
    };
    let before = &items[..position.min(items.len())];
    match before.last() {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. })
            if before.len() == position && !before.iter().any(is_wildcard) =>
        {
            *key = expr.clone();
            Ok(())
        }
        _ if items.iter().any(is_wildcard) => Err(Error::invalid(format!(
            "GROUP BY: position {number} is one of a list with `*`: give the name of the column"
        ))),
        _ => Err(Error::invalid(format!(
            "GROUP BY: there is no position {number}, the select list has {} items",
            items.len()
        ))),
    }
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

/// The sets that a group is short for; `None` if the engine takes it as it is.
fn sets_of(group: &Expr) -> Result<Option<Vec<Vec<Expr>>>> {
    let keys = match group {
        // `GROUP BY ()` makes one group of all rows.
        Expr::Tuple(keys) if keys.is_empty() => return Ok(Some(vec![vec![]])),
        Expr::Rollup(keys) | Expr::Cube(keys) => keys,
        _ => return Ok(None),
    };
    if matches!(group, Expr::Cube(_)) && keys.len() > CUBE_KEYS_MAX {
        return Err(Error::invalid(format!(
            "CUBE has {} keys: at most {CUBE_KEYS_MAX} are possible",
            keys.len()
        )));
    }
    let all = set(keys.iter());
    if keys.iter().all(|key| key.len() == 1) && all.len() == keys.len() {
        return Ok(None);
    }
    let sets = match group {
        Expr::Rollup(_) => (0..=keys.len()).rev().map(|count| set(keys[..count].iter())).collect(),
        _ => (0..1_usize << keys.len())
            .rev()
            .map(|chosen| {
                let is_chosen = |index: &usize| chosen & (1 << (keys.len() - 1 - index)) != 0;
                set((0..keys.len()).filter(is_chosen).map(|index| &keys[index]))
            })
            .collect(),
    };
    Ok(Some(sets))
}

/// The keys of a set, each once.
fn set<'a>(keys: impl Iterator<Item = &'a Vec<Expr>>) -> Vec<Expr> {
    let mut set: Vec<Expr> = Vec::new();
    for key in keys.flatten() {
        if !set.contains(key) {
            set.push(key.clone());
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn rollup_and_cube_are_grouping_sets() {
        for (sql, expected) in [
            ("ROLLUP (a, (b, c))", "GROUPING SETS ((a, b, c), (a), ())"),
            ("ROLLUP (a, (b, (c, d)))", "GROUPING SETS ((a, b, c, d), (a), ())"),
            ("GROUPING SETS ((a, (b, c)), (a))", "GROUPING SETS ((a, b, c), (a))"),
            ("ROLLUP (a, a)", "GROUPING SETS ((a), (a), ())"),
            ("CUBE (a, b, a)", "GROUPING SETS ((a, b), (a, b), (a), (a), (b, a), (b), (a), ())"),
            ("ROLLUP (a, b)", "ROLLUP (a, b)"),
        ] {
            let mut statement = parse::plain_statement(&format!("SELECT 1 FROM t GROUP BY {sql}")).unwrap();
            rewrite(&mut statement).unwrap();
            assert_eq!(statement.to_string(), format!("SELECT 1 FROM t GROUP BY {expected}"));
        }
    }

    #[test]
    fn positions_are_those_of_the_select_list() {
        let rewritten = |items: &str, key: &str| {
            let sql = format!("SELECT {items} FROM t GROUP BY ROLLUP ({key})");
            let mut statement = parse::plain_statement(&sql).unwrap();
            rewrite(&mut statement).map(|()| statement.to_string())
        };
        assert_eq!(rewritten("a + 1, b", "1").unwrap(), "SELECT a + 1, b FROM t GROUP BY ROLLUP (a + 1)");
        for (items, key, expected) in [
            ("a, b", "3", "no position 3"),
            ("a, b", "0", "no position 0"),
            ("a, b", "1.5", "1.5 is not the position"),
            ("*, b", "2", "position 2 is one of a list with `*`"),
        ] {
            let error = rewritten(items, key).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        }
    }
}
