//! The common tables of a query in a walk over a statement. A name in `WITH` stands for its query only after
//! that has been visited: within it, it is the name of another table.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{Cte, Query, TableFactor, Visitor, With};
use plexus_query::visit;

use crate::sql::names::{name_of, unqualified};

/// The common tables of a query that are not visited yet.
#[derive(Default)]
pub(super) struct PendingTables {
    /// Their names, by the addresses of their queries, which stay where they are during a walk.
    names: HashMap<usize, String>,
}

impl PendingTables {
    /// All common tables of a query.
    pub(super) fn of(query: &Query) -> Self {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        Self { names: tables.map(|table| (address(&table.query), name_of(&table.alias.name))).collect() }
    }

    /// Whether a query is that of one of them.
    pub(super) fn contains(&self, query: &Query) -> bool {
        self.names.contains_key(&address(query))
    }

    /// The name of the one whose query has been visited.
    pub(super) fn take(&mut self, query: &Query) -> Option<String> {
        self.names.remove(&address(query))
    }
}

fn address(query: &Query) -> usize {
    std::ptr::from_ref(query) as usize
}

/// The common tables that can be read at a place of a statement, in a walk over it that rewrites what it
/// visits.
#[derive(Default)]
pub(super) struct CommonTables {
    /// Those of the queries around the place, from the outermost.
    queries: Vec<Scope>,
}

struct Scope {
    pending: PendingTables,
    /// All of the query as they were before the walk came to them.
    tables: Vec<Cte>,
    /// The names of those that can be read.
    visible: Vec<String>,
    is_recursive: bool,
}

impl CommonTables {
    /// The walk comes to a query.
    pub(super) fn enter(&mut self, query: &Query) {
        self.queries.push(Scope {
            pending: PendingTables::of(query),
            tables: query.with.as_ref().map(|with| with.cte_tables.clone()).unwrap_or_default(),
            visible: vec![],
            is_recursive: query.with.as_ref().is_some_and(|with| with.recursive),
        });
    }

    /// The walk has seen a query.
    pub(super) fn leave(&mut self, query: &Query) {
        self.queries.pop();
        if let Some(around) = self.queries.last_mut()
            && let Some(name) = around.pending.take(query)
        {
            around.visible.push(name);
        }
    }

    /// Whether a name is that of a common table here.
    pub(super) fn is_visible(&self, name: &str) -> bool {
        self.queries.iter().flat_map(|scope| &scope.visible).any(|visible| visible == name)
    }

    /// A query at this place with the common tables that it reads, so that it means the same alone. `None`
    /// if two of them have the same name, which one list of them cannot say.
    pub(super) fn with_common_tables(&self, query: &Query) -> Option<Query> {
        let mut wanted = Names::of(query);
        let mut read: Vec<Cte> = vec![];
        // What is defined later may read what is defined before.
        for scope in self.queries.iter().rev() {
            for table in scope.tables.iter().rev() {
                let name = name_of(&table.alias.name);
                if !scope.visible.contains(&name) || !wanted.0.contains(&name) {
                    continue;
                }
                if read.iter().any(|other| name_of(&other.alias.name) == name) {
                    return None;
                }
                wanted.0.extend(Names::of(&table.query).0);
                read.insert(0, table.clone());
            }
        }
        let mut alone = query.clone();
        if read.is_empty() {
            return Some(alone);
        }
        let is_recursive = self.queries.iter().any(|scope| scope.is_recursive);
        let with = alone.with.get_or_insert_with(|| With {
            with_token: AttachedToken::empty(),
            recursive: false,
            cte_tables: vec![],
        });
        let own = with.cte_tables.iter().map(|table| name_of(&table.alias.name));
        let is_hidden = |own: String| read.iter().any(|table| name_of(&table.alias.name) == own);
        if own.into_iter().any(is_hidden) {
            return None;
        }
        with.recursive |= is_recursive;
        with.cte_tables.splice(0..0, read);
        Some(alone)
    }
}

/// The names without a qualifier that a query reads tables by.
struct Names(HashSet<String>);

impl Names {
    fn of(query: &Query) -> Self {
        let mut names = Self(HashSet::new());
        let _: ControlFlow<()> = visit(query, &mut names);
        names
    }
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.0.extend(unqualified(name).ok());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{Expr, Statement, VisitorMut};
    use plexus_query::visit_mut;

    use super::*;
    use crate::sql::parse;

    /// What the subqueries in the select lists of a statement are alone.
    fn alone(sql: &str) -> Vec<Option<String>> {
        #[derive(Default)]
        struct Subqueries(CommonTables, Vec<Option<String>>);

        impl VisitorMut for Subqueries {
            type Break = ();

            fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
                self.0.enter(query);
                ControlFlow::Continue(())
            }

            fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
                self.0.leave(query);
                ControlFlow::Continue(())
            }

            fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                if let Expr::Subquery(query) = expr {
                    self.1.push(self.0.with_common_tables(query).map(|query| query.to_string()));
                }
                ControlFlow::Continue(())
            }
        }

        let mut statement: Statement = parse::plain_statement(sql).unwrap();
        let mut found = Subqueries::default();
        let _ = visit_mut(&mut statement, &mut found);
        found.1
    }

    #[test]
    fn queries_take_the_common_tables_along_that_they_read() {
        for (sql, expected) in [
            ("SELECT (SELECT v FROM t)", Some("SELECT v FROM t")),
            (
                "WITH t AS (SELECT 1 AS v), u AS (SELECT 2) SELECT (SELECT v FROM t)",
                Some("WITH t AS (SELECT 1 AS v) SELECT v FROM t"),
            ),
            (
                "WITH t AS (SELECT 1 AS v), u AS (SELECT * FROM t) SELECT (SELECT v FROM u)",
                Some("WITH t AS (SELECT 1 AS v), u AS (SELECT * FROM t) SELECT v FROM u"),
            ),
            // It does not see the common table that it is in, nor those behind.
            ("WITH t AS (SELECT (SELECT v FROM t)) SELECT 1", Some("SELECT v FROM t")),
            ("WITH t AS (SELECT (SELECT v FROM u)), u AS (SELECT 1) SELECT 1", Some("SELECT v FROM u")),
            (
                "WITH t AS (SELECT 1 AS v) \
                 SELECT * FROM (WITH t AS (SELECT * FROM t) SELECT (SELECT v FROM t))",
                None,
            ),
            ("WITH t AS (SELECT 1) SELECT (SELECT v FROM s.t)", Some("SELECT v FROM s.t")),
        ] {
            assert_eq!(alone(sql), [expected.map(str::to_owned)], "{sql}");
        }
    }
}
