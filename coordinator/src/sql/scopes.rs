//! Names that belong to a query around the one in which they stand.
//!
//! `t.x` in a subquery whose tables are all called otherwise is a column of the `t` outside. The planner
//! looks for a column `t` of the subquery first, and takes `x` for a field of it. So such names get a
//! qualifier that nothing in the subquery has.
//!
//! `t.x.f` is a field of a column of `t`. Beside a table called `x`, the planner takes `t` for its schema. So
//! it does for a column in the place of `t`.
//!
//! A common table hides one of the same name outside. The planner refuses the second, so it gets another
//! name.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, FromTable, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement,
    Subscript, TableAlias, TableFactor, TableWithJoins, UpdateTableFromKind, Value, VisitorMut, With,
};
use plexus_query::{CATALOG, SYSTEM_SCHEMA, visit_mut};

use crate::sql::names::name_of;
use crate::sql::result_names::SUFFIX;

/// Qualifies the names of outer tables that have no schema.
const OUTER: &str = "$outer";

/// Rewrites such names in a statement.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_mut(statement, &mut Scopes::default());
}

/// Rewrites fields of columns that begin with the column, `x.t.f` beside a table called `t`: the planner
/// would take the column for a schema. Runs after [`rewrite`], when the `schema` of a session is known.
pub(crate) fn separate_fields(statement: &mut Statement, schema: &str) {
    let schemas = [schema, CATALOG, SYSTEM_SCHEMA, "information_schema", OUTER];
    let schemas = schemas.map(ToOwned::to_owned).to_vec();
    let _: ControlFlow<()> = visit_mut(statement, &mut Scopes { schemas, ..Scopes::default() });
}

#[derive(Default)]
struct Scopes {
    /// The tables of the queries around the present expression, from the outermost.
    tables: Vec<Scope>,
    /// The common tables of these queries, and what those are called that hide others.
    common: Vec<HashMap<String, Option<Ident>>>,
    /// The lists of common tables that were visited already, and whether the query has tables of its own.
    visited: Vec<(Option<With>, bool)>,
    renamed: usize,
    /// What qualifies tables without being written beside them. Empty in the first pass.
    schemas: Vec<String>,
    /// Whether the tables of the select that comes next are there already.
    is_next_known: bool,
    /// For each select around the present expression, whether it brought its tables.
    selects: Vec<bool>,
}

enum Scope {
    /// The names of the tables of a query, each with its schema if that is written.
    Tables(Vec<(String, Option<Ident>)>),
    /// A query in `FROM` begins, which does not see the tables beside it.
    Apart,
}

/// A name that begins with a table.
struct Resolved {
    /// What it needs before the table, which only a query around the present one has.
    qualifier: Option<Ident>,
    /// Whether the planner would take the table for the schema, or the catalog, of another one.
    is_ambiguous: bool,
}

impl Scope {
    fn of<'a>(tables: impl IntoIterator<Item = &'a TableWithJoins>) -> Self {
        let mut names = Vec::new();
        for TableWithJoins { relation, joins } in tables {
            add_names(relation, &mut names);
            joins.iter().for_each(|join| add_names(&join.relation, &mut names));
        }
        Self::Tables(names)
    }
}

/// The names by which a statement refers to the tables of a factor.
fn add_names(factor: &TableFactor, names: &mut Vec<(String, Option<Ident>)>) {
    match factor {
        TableFactor::NestedJoin { table_with_joins, alias: None } => {
            if let Scope::Tables(inner) = Scope::of([table_with_joins.as_ref()]) {
                names.extend(inner);
            }
        }
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. }
        | TableFactor::NestedJoin { alias: Some(alias), .. } => names.push((name_of(&alias.name), None)),
        TableFactor::Table { name, .. } => {
            let mut parts = name.0.iter().rev().map_while(ObjectNamePart::as_ident);
            if let Some(table) = parts.next() {
                names.push((name_of(table), parts.next().cloned()));
            }
        }
        _ => {}
    }
}

/// A field of a field, and so on, of a column.
fn fields_of(column: Expr, fields: &[Ident]) -> Expr {
    let access_chain = fields.iter().map(field_access).collect();
    Expr::CompoundFieldAccess { root: Box::new(column), access_chain }
}

fn field_access(field: &Ident) -> AccessExpr {
    let index = Expr::value(Value::SingleQuotedString(name_of(field)));
    AccessExpr::Subscript(Subscript::Index { index })
}

impl Scopes {
    /// What a qualified name stands for, if it begins with a table or the schema of one.
    fn resolve(&self, parts: &[Ident]) -> Option<Resolved> {
        let [first, second, ..] = parts else {
            return None;
        };
        let (first, second) = (name_of(first), name_of(second));
        let mut is_outer = false;
        let mut scopes = self.tables.iter().rev();
        while let Some(scope) = scopes.next() {
            match scope {
                Scope::Tables(tables) => {
                    let is_schema_of_second = |(name, schema): &(String, Option<Ident>)| {
                        *name == second && schema.as_ref().is_some_and(|schema| name_of(schema) == first)
                    };
                    if tables.iter().any(is_schema_of_second) {
                        return None;
                    }
                    if let Some((_, schema)) = tables.iter().find(|(name, _)| *name == first) {
                        let schema = || schema.clone().unwrap_or_else(|| Ident::with_quote('"', OUTER));
                        return Some(Resolved {
                            qualifier: is_outer.then(schema),
                            is_ambiguous: self.has_fields_called_as_tables(parts),
                        });
                    }
                }
                // The tables beside it are those of the next scope.
                Scope::Apart => drop(scopes.next()),
            }
            is_outer = true;
        }
        None
    }

    /// Whether what stands before the last part of a name, but for its first part, may be a table around.
    fn has_fields_called_as_tables(&self, parts: &[Ident]) -> bool {
        let is_table = |part: &Ident| {
            let part = name_of(part);
            self.tables.iter().any(|scope| match scope {
                Scope::Tables(tables) => tables.iter().any(|(name, _)| *name == part),
                Scope::Apart => false,
            })
        };
        // A schema and a catalog may stand before a table.
        parts.len() > 2 && parts[1..parts.len() - 1].iter().take(2).any(is_table)
    }

    /// Whether a name begins with a column: with neither a table around, nor a schema.
    fn begins_with_column(&self, parts: &[Ident]) -> bool {
        let [first, second, ..] = parts else {
            return false;
        };
        let (first, second) = (name_of(first), name_of(second));
        let names_table = |(name, schema): &(String, Option<Ident>)| {
            *name == first
                || (*name == second && schema.as_ref().is_some_and(|schema| name_of(schema) == first))
        };
        let is_named = self.tables.iter().any(|scope| match scope {
            Scope::Tables(tables) => tables.iter().any(names_table),
            Scope::Apart => false,
        });
        !is_named && !self.schemas.contains(&first)
    }

    fn common_tables(&mut self, with: &mut With) {
        for table in &mut with.cte_tables {
            let name = name_of(&table.alias.name);
            let hides = self.common.iter().rev().skip(1).any(|tables| tables.contains_key(&name));
            let renamed = (hides && self.schemas.is_empty()).then(|| {
                self.renamed += 1;
                Ident::with_quote('"', format!("{name}{SUFFIX}{}", self.renamed))
            });
            if let Some(renamed) = &renamed {
                table.alias.name = renamed.clone();
            }
            // Without `RECURSIVE`, its own query sees the one that it hides.
            if with.recursive {
                self.declare(name.clone(), renamed.clone());
            }
            let _: ControlFlow<()> = visit_mut(table.query.as_mut(), self);
            self.declare(name, renamed);
        }
    }

    fn declare(&mut self, name: String, renamed: Option<Ident>) {
        if let Some(tables) = self.common.last_mut() {
            tables.insert(name, renamed);
        }
    }
}

impl VisitorMut for Scopes {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<()> {
        let scope = match statement {
            Statement::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                Scope::of(from.iter().chain(delete.using.iter().flatten()))
            }
            Statement::Update(update) => {
                let from = match &update.from {
                    Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => {
                        from.as_slice()
                    }
                    None => &[],
                };
                Scope::of([&update.table].into_iter().chain(from))
            }
            Statement::Merge(merge) => {
                let mut names = Vec::new();
                add_names(&merge.table, &mut names);
                add_names(&merge.source, &mut names);
                Scope::Tables(names)
            }
            _ => Scope::Apart,
        };
        self.tables.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_statement(&mut self, _: &mut Statement) -> ControlFlow<()> {
        self.tables.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.common.push(HashMap::new());
        let mut with = query.with.take();
        if let Some(with) = &mut with {
            self.common_tables(with);
        }
        // Its `ORDER BY` sees the tables as well.
        let select = match query.body.as_ref() {
            SetExpr::Select(select) => Some(Scope::of(&select.from)),
            _ => None,
        };
        self.is_next_known = select.is_some();
        self.visited.push((with, select.is_some()));
        self.tables.extend(select);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.common.pop();
        if let Some((with, has_tables)) = self.visited.pop() {
            query.with = with;
            if has_tables {
                self.tables.pop();
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let brings_tables = !std::mem::take(&mut self.is_next_known);
        if brings_tables {
            self.tables.push(Scope::of(&select.from));
        }
        self.selects.push(brings_tables);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<()> {
        if self.selects.pop() == Some(true) {
            self.tables.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, args: None, .. } = factor
            && let [ObjectNamePart::Identifier(table)] = name.0.as_slice()
        {
            let key = name_of(table);
            let hiding = self.common.iter().rev().find_map(|tables| tables.get(&key)).cloned().flatten();
            if let Some(renamed) = hiding {
                let table = table.clone();
                alias.get_or_insert_with(|| TableAlias {
                    explicit: true,
                    name: table,
                    columns: vec![],
                    at: None,
                });
                *name = ObjectName::from(vec![renamed]);
            }
        }
        if matches!(factor, TableFactor::Derived { lateral: false, .. }) {
            self.tables.push(Scope::Apart);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if matches!(factor, TableFactor::Derived { lateral: false, .. }) {
            self.tables.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::CompoundIdentifier(parts) if self.schemas.is_empty() => {
                if let Some(Resolved { qualifier, is_ambiguous }) = self.resolve(parts) {
                    let fields = if is_ambiguous { parts.split_off(2) } else { vec![] };
                    if let Some(qualifier) = qualifier {
                        parts.insert(0, qualifier);
                    }
                    if !fields.is_empty() {
                        let column = Expr::CompoundIdentifier(std::mem::take(parts));
                        *expr = fields_of(column, &fields);
                    }
                }
            }
            Expr::CompoundIdentifier(parts)
                if self.begins_with_column(parts) && self.has_fields_called_as_tables(parts) =>
            {
                let column = parts.remove(0);
                *expr = fields_of(Expr::Identifier(column), parts);
            }
            // `table.column['field']`, whose qualified column is visited next, and `(column).field`.
            Expr::CompoundFieldAccess { root, access_chain } => {
                let is_dot = |access: &AccessExpr| matches!(access, AccessExpr::Dot(Expr::Identifier(_)));
                if let Expr::Identifier(first) = root.as_ref() {
                    let dots = access_chain.iter().take_while(|access| is_dot(access)).count();
                    let dots = access_chain.drain(..dots).filter_map(|access| match access {
                        AccessExpr::Dot(Expr::Identifier(part)) => Some(part),
                        _ => None,
                    });
                    let parts: Vec<Ident> = std::iter::once(first.clone()).chain(dots).collect();
                    if parts.len() > 1 {
                        **root = Expr::CompoundIdentifier(parts);
                    }
                }
                for access in access_chain {
                    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                        *access = field_access(field);
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn rewritten(sql: &str) -> String {
        let mut statement = parse::plain_statement(sql).unwrap();
        rewrite(&mut statement);
        statement.to_string()
    }

    #[test]
    fn columns_of_outer_tables_are_qualified() {
        for (sql, expected) in [
            (
                "SELECT a.x FROM t AS a WHERE EXISTS (SELECT 1 FROM u WHERE u.a = a.x)",
                "SELECT a.x FROM t AS a WHERE EXISTS (SELECT 1 FROM u WHERE u.a = \"$outer\".a.x)",
            ),
            (
                "DELETE FROM s.t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.id = t.id)",
                "DELETE FROM s.t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.id = s.t.id)",
            ),
            (
                "SELECT (SELECT v FROM (SELECT t.x AS v FROM u) AS q) FROM t",
                "SELECT (SELECT v FROM (SELECT \"$outer\".t.x AS v FROM u) AS q) FROM t",
            ),
            (
                "SELECT 1 FROM t ORDER BY (SELECT t.x FROM u), t.y",
                "SELECT 1 FROM t ORDER BY (SELECT \"$outer\".t.x FROM u), t.y",
            ),
            ("SELECT (SELECT s.t.x FROM s.t) FROM s", "SELECT (SELECT s.t.x FROM s.t) FROM s"),
            // Fields of columns that are called as a table is.
            ("SELECT t.x.f, s.x.f FROM t, x", "SELECT t.x['f'], s.x.f FROM t, x"),
            ("SELECT t.c.x.g, t.c.d.x FROM t, x", "SELECT t.c['x']['g'], t.c.d.x FROM t, x"),
            ("SELECT (c).f, (t.c).f.g FROM t", "SELECT (c)['f'], (t.c)['f']['g'] FROM t"),
            ("SELECT t.x['f'], x['f'].g FROM t", "SELECT t.x['f'], x['f']['g'] FROM t"),
            ("SELECT (SELECT t.x['f'] FROM u) FROM t", "SELECT (SELECT \"$outer\".t.x['f'] FROM u) FROM t"),
            ("SELECT t.x.f.g, y.x.f FROM t, s.x AS y", "SELECT t.x.f.g, y.x.f FROM t, s.x AS y"),
            ("SELECT s.t.x, t.x.f FROM s.t, s.x, s", "SELECT s.t.x, t.x['f'] FROM s.t, s.x, s"),
            (
                "SELECT (SELECT t.x.f.g FROM x) FROM t",
                "SELECT (SELECT \"$outer\".t.x['f']['g'] FROM x) FROM t",
            ),
            // Fields of columns inside, tables that are hidden, and tables beside a query in `FROM`.
            ("SELECT (SELECT c.f FROM u) FROM t", "SELECT (SELECT c.f FROM u) FROM t"),
            ("SELECT (SELECT t.x FROM u AS t) FROM t", "SELECT (SELECT t.x FROM u AS t) FROM t"),
            ("SELECT 1 FROM t, (SELECT t.f FROM u) AS v", "SELECT 1 FROM t, (SELECT t.f FROM u) AS v"),
            (
                "SELECT 1 FROM t, LATERAL (SELECT t.f FROM u) AS v",
                "SELECT 1 FROM t, LATERAL (SELECT \"$outer\".t.f FROM u) AS v",
            ),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    #[test]
    fn fields_of_columns_are_none_of_tables() {
        for (sql, expected) in [
            ("SELECT c.t.x, c.d.t.x, c.d.x FROM t", "SELECT c['t']['x'], c['d']['t']['x'], c.d.x FROM t"),
            ("SELECT own.t.x, plexus.own.t.x FROM t", "SELECT own.t.x, plexus.own.t.x FROM t"),
            ("SELECT s.t.x, t.t.x FROM s.t, u", "SELECT s.t.x, t.t['x'] FROM s.t, u"),
            ("SELECT (SELECT t.x FROM u) FROM t", "SELECT (SELECT \"$outer\".t.x FROM u) FROM t"),
        ] {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            separate_fields(&mut statement, "own");
            assert_eq!(statement.to_string(), expected);
        }
    }

    #[test]
    fn common_tables_that_hide_others_are_renamed() {
        let text = rewritten(
            "WITH x AS (SELECT 1 AS a), y AS (WITH x AS (SELECT a + 1 AS a FROM x) SELECT x.a FROM x) \
             SELECT * FROM x, y, (WITH z AS (SELECT 1) SELECT * FROM z) AS v",
        );
        let expected = "WITH x AS (SELECT 1 AS a), y AS (WITH \"x!1\" AS (SELECT a + 1 AS a FROM x) \
                        SELECT x.a FROM \"x!1\" AS x) \
                        SELECT * FROM x, y, (WITH z AS (SELECT 1) SELECT * FROM z) AS v";
        assert_eq!(text.replace(SUFFIX, "!"), expected);
    }
}
