//! `ORDER BY` of a query that is grouped or distinct: a position, or an expression that the select list has,
//! as the name of the item. The engine computes such keys again, from columns that groups no longer have.

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, Value,
    ValueWithSpan,
};

use crate::sql::clauses::{has_aggregates, has_groups};
use crate::sql::syntax;

/// What the names of items begin with that had none.
const ITEM: &str = "$item_";

/// Rewrites them in a query. Within other statements, items keep the names that others may know them by.
pub(crate) fn rewrite(statement: &mut Statement) {
    if let Statement::Query(query) = statement {
        let Query { body, order_by, .. } = query.as_mut();
        if let (SetExpr::Select(select), Some(OrderBy { kind: OrderByKind::Expressions(keys), .. })) =
            (body.as_mut(), order_by)
            && is_grouped(select)
        {
            keys.iter_mut().for_each(|key| name_key(&mut key.expr, &mut select.projection));
        }
    }
}

/// Whether a select has fewer rows than its tables. The keys of `DISTINCT ON` have to be what they are.
fn is_grouped(select: &Select) -> bool {
    match select.distinct {
        Some(Distinct::On(_)) => false,
        Some(Distinct::Distinct | Distinct::All) => true,
        None => has_groups(select) || has_aggregates(&select.projection),
    }
}

/// Replaces a key by the name of the item that it stands for, which gets one if it has none.
fn name_key(key: &mut Expr, items: &mut [SelectItem]) {
    // Positions behind a wildcard are not those of the list.
    if items.iter().any(|item| !matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }))
    {
        return;
    }
    let index = match &*key {
        Expr::Value(ValueWithSpan { value: Value::Number(position, _), .. }) => {
            position.parse::<usize>().ok().and_then(|position| position.checked_sub(1))
        }
        key => items.iter().position(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr == key,
            _ => false,
        }),
    };
    let Some((index, item)) = index.and_then(|index| Some((index, items.get_mut(index)?))) else {
        return;
    };
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => {}
        SelectItem::UnnamedExpr(expr) => {
            let alias: Ident = syntax::ident(format!("{ITEM}{}", index + 1));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: alias.clone() };
            *key = Expr::Identifier(alias);
        }
        SelectItem::ExprWithAlias { alias, .. } => *key = Expr::Identifier(alias.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn keys_are_names_of_items() {
        for (sql, expected) in [
            (
                "SELECT g, sum(k) * 2 FROM t GROUP BY g ORDER BY 2 DESC, 1",
                "SELECT g, sum(k) * 2 AS \"$item_2\" FROM t GROUP BY g ORDER BY \"$item_2\" DESC, 1",
            ),
            (
                "SELECT DISTINCT k + 1 FROM t ORDER BY k + 1",
                "SELECT DISTINCT k + 1 AS \"$item_1\" FROM t ORDER BY \"$item_1\"",
            ),
            (
                "SELECT DISTINCT count(*) AS n FROM t ORDER BY count(*)",
                "SELECT DISTINCT count(*) AS n FROM t ORDER BY n",
            ),
            (
                "SELECT count(*) + 1 FROM t ORDER BY 1",
                "SELECT count(*) + 1 AS \"$item_1\" FROM t ORDER BY \"$item_1\"",
            ),
            ("SELECT k + 1 FROM t ORDER BY 1", "SELECT k + 1 FROM t ORDER BY 1"),
            (
                "SELECT DISTINCT ON (k + 1) k + 1 FROM t ORDER BY k + 1",
                "SELECT DISTINCT ON (k + 1) k + 1 FROM t ORDER BY k + 1",
            ),
            (
                "SELECT *, count(*) FROM t GROUP BY k ORDER BY 2",
                "SELECT *, count(*) FROM t GROUP BY k ORDER BY 2",
            ),
        ] {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }
}
