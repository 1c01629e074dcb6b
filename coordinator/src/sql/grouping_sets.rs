//! `ROLLUP` and `CUBE` with keys in parentheses or with one key twice, as the grouping sets that they are
//! short for: `ROLLUP (a, (b, c))` is `GROUPING SETS ((a, b, c), (a), ())`. The engine refuses both.

use plexus_query::visit_mut;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select, SelectItem, Statement, Value, VisitorMut};
use plexus_model::{Error, Result};

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
        if let GroupByExpr::Expressions(groups, _) = &mut select.group_by {
            for group in groups {
                if let Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets) = group {
                    sets.iter_mut().flatten().for_each(|key| name_item(key, &select.projection));
                }
                match sets_of(group) {
                    Ok(Some(sets)) => *group = Expr::GroupingSets(sets),
                    Ok(None) => {}
                    Err(error) => return ControlFlow::Break(error),
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Replaces the position of an item of the select list by the item. The engine does so outside of sets only.
fn name_item(key: &mut Expr, items: &[SelectItem]) {
    let item = match key {
        Expr::Value(value) => match &value.value {
            Value::Number(position, _) => {
                position.parse::<usize>().ok().and_then(|position| items.get(position.checked_sub(1)?))
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item {
        *key = expr.clone();
    }
}

/// The sets that a group is short for; `None` if the engine takes it as it is.
fn sets_of(group: &Expr) -> Result<Option<Vec<Vec<Expr>>>> {
    let keys = match group {
        // `GROUP BY ()` makes one group of all rows.
        Expr::Tuple(keys) if keys.is_empty() => return Ok(Some(vec![vec![]])),
        Expr::Rollup(keys) | Expr::Cube(keys) => keys,
        _ => return Ok(None),
    };
    let all = set(keys.iter());
    if keys.iter().all(|key| key.len() == 1) && all.len() == keys.len() {
        return Ok(None);
    }
    let sets = match group {
        Expr::Rollup(_) => (0..=keys.len()).rev().map(|count| set(keys[..count].iter())).collect(),
        _ if keys.len() > CUBE_KEYS_MAX => {
            return Err(Error::invalid(format!(
                "CUBE has {} keys: at most {CUBE_KEYS_MAX} are possible",
                keys.len()
            )));
        }
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
            ("ROLLUP (a, a)", "GROUPING SETS ((a), (a), ())"),
            ("CUBE (a, b, a)", "GROUPING SETS ((a, b), (a, b), (a), (a), (b, a), (b), (a), ())"),
            ("ROLLUP (a, b)", "ROLLUP (a, b)"),
        ] {
            let mut statement = parse::plain_statement(&format!("SELECT 1 FROM t GROUP BY {sql}")).unwrap();
            rewrite(&mut statement).unwrap();
            assert_eq!(statement.to_string(), format!("SELECT 1 FROM t GROUP BY {expected}"));
        }
    }
}
