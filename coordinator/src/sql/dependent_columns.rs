//! `GROUP BY` a primary key: the other columns of the table may be selected, since the key determines them.
//!
//! The engine knows this too, but goes on to believe that a key is unique behind joins and `UNNEST`, and then
//! drops columns from `GROUP BY`, `DISTINCT` and `ORDER BY` (apache/datafusion#21362, #21507, #23626). So
//! keys are not told to it; the columns that a statement uses are added to its `GROUP BY` here.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, TableAlias, TableFactor, Value,
    VisitMut, Visitor, VisitorMut,
};
use plexus_model::{Manifest, Table, TableName};

use crate::sql::names::{name_of, table_reference};
use crate::sql::syntax;
use plexus_query::{visit, visit_expressions_mut, visit_mut};

/// Adds the columns that keys in `GROUP BY` determine. `schema` qualifies names of tables without one.
pub(crate) fn rewrite(statement: &mut ast::Statement, manifest: &Manifest, schema: &str) {
    let mut common = CommonTables::default();
    let _: ControlFlow<()> = visit(statement, &mut common);
    let mut groups = Groups { manifest, schema, common: common.0 };
    let _: ControlFlow<()> = visit_mut(statement, &mut groups);
}

/// The names that `WITH` defines anywhere in a statement.
#[derive(Default)]
struct CommonTables(HashSet<String>);

impl Visitor for CommonTables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(tables.map(|table| name_of(&table.alias.name)));
        ControlFlow::Continue(())
    }
}

struct Groups<'a> {
    manifest: &'a Manifest,
    schema: &'a str,
    common: HashSet<String>,
}

impl VisitorMut for Groups<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_mut()
            && let Some(ast::OrderBy { kind: OrderByKind::Expressions(exprs), .. }) = &query.order_by
        {
            let mut used = UsedColumns::default();
            let _: ControlFlow<()> = visit(&without_groups(exprs.clone(), select), &mut used);
            self.extend(select, &used);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let mut used = UsedColumns { columns: vec![], all: select.projection.iter().any(is_wildcard) };
        let parts = (select.projection.clone(), select.having.clone(), select.qualify.clone());
        let _: ControlFlow<()> = visit(&without_groups(parts.0, select), &mut used);
        let _: ControlFlow<()> = visit(&without_groups(parts.1, select), &mut used);
        let _: ControlFlow<()> = visit(&without_groups(parts.2, select), &mut used);
        self.extend(select, &used);
        ControlFlow::Continue(())
    }
}

/// A column of a table in a `FROM`.
struct GroupColumn<'a> {
    /// The name by which the statement refers to the table.
    table: &'a str,
    column: &'a str,
}

impl GroupColumn<'_> {
    fn is(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => name_of(name) == self.column,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., table, column] => name_of(table) == self.table && name_of(column) == self.column,
                _ => false,
            },
            _ => false,
        }
    }
}

impl Groups<'_> {
    /// Extends the `GROUP BY` of a query by the columns among `used` that it determines.
    fn extend(&self, select: &mut Select, used: &UsedColumns) {
        let Select { group_by: GroupByExpr::Expressions(groups, modifiers), projection, from, .. } = select
        else {
            return;
        };
        if groups.is_empty() || !modifiers.is_empty() {
            return;
        }
        let factors = from.iter().flat_map(|from| {
            std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
        });
        let tables: Vec<(String, &Table)> = factors.filter_map(|factor| self.keyed_table(factor)).collect();
        for (alias, table) in tables {
            let named: Vec<Expr> = groups.iter().map(|group| resolve_position(group, projection)).collect();
            let column =
                |index: usize| GroupColumn { table: &alias, column: &table.schema.columns[index].name };
            let is_grouped = |index: usize| named.iter().any(|group| column(index).is(group));
            if !table.schema.primary_key.iter().all(|&index| is_grouped(index as usize)) {
                continue;
            }
            for index in 0..table.schema.columns.len() {
                let is_used = used.all || used.columns.iter().any(|expr| column(index).is(expr));
                if is_used && !is_grouped(index) {
                    let alias = syntax::ident(&alias);
                    groups.push(syntax::column(&alias, &table.schema.columns[index].name));
                }
            }
        }
    }

    /// A table with a primary key, and the name by which the statement refers to it.
    fn keyed_table(&self, factor: &TableFactor) -> Option<(String, &Table)> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else {
            return None;
        };
        let reference = table_reference(name).ok()?;
        if reference.schema().is_none() && self.common.contains(reference.table()) {
            return None;
        }
        let table = TableName::new(reference.schema().unwrap_or(self.schema), reference.table());
        let table = self.manifest.table(&table).filter(|table| !table.schema.primary_key.is_empty())?;
        match alias {
            // Its columns have other names.
            Some(TableAlias { columns, .. }) if !columns.is_empty() => None,
            Some(alias) => Some((name_of(&alias.name), table)),
            None => Some((reference.table().to_owned(), table)),
        }
    }
}

/// A part of a query without the expressions by which it is grouped: `CAST(ts AS DATE)` uses the group, and
/// not the column `ts`.
fn without_groups<T: VisitMut>(mut part: T, select: &Select) -> T {
    let GroupByExpr::Expressions(groups, _) = &select.group_by else {
        return part;
    };
    let groups: Vec<Expr> = groups.iter().map(|group| resolve_position(group, &select.projection)).collect();
    let _: ControlFlow<()> = visit_expressions_mut(&mut part, &mut |expr| {
        let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        if !is_column && groups.contains(expr) {
            *expr = syntax::null();
        }
        ControlFlow::Continue(())
    });
    part
}

/// What `GROUP BY 1` stands for.
fn resolve_position(group: &Expr, projection: &[SelectItem]) -> Expr {
    let position = match group {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse::<usize>().ok(),
            _ => None,
        },
        _ => None,
    };
    match position.and_then(|position| projection.get(position.checked_sub(1)?)) {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => expr.clone(),
        _ => group.clone(),
    }
}

/// The columns that a part of a query uses, also inside of its subqueries.
#[derive(Default)]
struct UsedColumns {
    columns: Vec<Expr>,
    /// Whether there is a `*`.
    all: bool,
}

impl Visitor for UsedColumns {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
            self.columns.push(expr.clone());
        }
        ControlFlow::Continue(())
    }
}
