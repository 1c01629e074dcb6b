//! How many tables a statement reads when each common table is put in the place of its name. The planner does
//! that, and plans of tables that read each other twice double with each of them: thirty common tables make a
//! plan with a billion tables.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, ObjectName, Query, Select, SelectItem, Statement, Visitor};
use plexus_model::{Error, Result};

use crate::sql::common_tables::PendingTables;
use crate::sql::names::unqualified;
use plexus_query::{visit, visit_expressions};

/// Most tables of a plan.
const TABLES_MAX: u64 = 5_000;

/// Most common tables that read each other in a row. Each is a level of the plan.
const CHAIN_MAX: u64 = 500;

/// Most queries of common tables inside of each other. The engine looks for tables in each twice.
const NESTING_MAX: usize = 15;

/// Most maps inside of each other. The engine computes the type of each several times.
const MAPS_MAX: usize = 10;

/// Most common tables of a query. Planning knows all before, at each.
const COMMON_TABLES_MAX: usize = 1_000;

/// Most items of a select list. Planning compares each with all others.
const ITEMS_MAX: usize = 10_000;

/// Most window functions of a select list. Planning makes the columns of all of them for each.
const WINDOWS_MAX: usize = 500;

/// Fails for a statement with too large a plan.
///
/// # Errors
/// `InvalidArgument` says which limit is exceeded.
pub(crate) fn check(statement: &Statement) -> Result<()> {
    let mut size = PlanSize { queries: vec![Counted::default()], maps: 0 };
    if let ControlFlow::Break(error) = visit(statement, &mut size) {
        return Err(error);
    }
    let Some(Counted { tables, chain, .. }) = size.queries.pop() else {
        return Ok(());
    };
    if tables > TABLES_MAX {
        return Err(Error::invalid(format!(
            "the statement reads more than {TABLES_MAX} tables, with those of its common tables: store \
             rows in a table"
        )));
    }
    if chain > CHAIN_MAX {
        return Err(Error::invalid(format!(
            "more than {CHAIN_MAX} common tables read each other in a row: store rows in a table"
        )));
    }
    Ok(())
}

/// What a query reads.
#[derive(Default)]
struct Counted {
    tables: u64,
    chain: u64,
    /// How many queries of common tables it is inside of, with itself.
    nesting: usize,
    /// What the common tables of the query read, by name.
    common: HashMap<String, (u64, u64)>,
    pending: PendingTables,
}

/// The window functions of an item of a select list.
fn windows_of(item: &SelectItem) -> usize {
    let mut windows = 0;
    let _: ControlFlow<()> = visit_expressions(item, &mut |expr| {
        windows += usize::from(matches!(expr, Expr::Function(function) if function.over.is_some()));
        ControlFlow::Continue(())
    });
    windows
}

struct PlanSize {
    queries: Vec<Counted>,
    /// Maps around the present expression.
    maps: usize,
}

fn is_map(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => unqualified(&function.name).is_ok_and(|name| name == "map"),
        expr => matches!(expr, Expr::Map(_)),
    }
}

impl PlanSize {
    fn add(&mut self, tables: u64, chain: u64) {
        if let Some(around) = self.queries.last_mut() {
            around.tables = around.tables.saturating_add(tables);
            around.chain = around.chain.max(chain);
        }
    }
}

impl Visitor for PlanSize {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        self.maps += usize::from(is_map(expr));
        match self.maps > MAPS_MAX {
            true => ControlFlow::Break(Error::invalid(format!(
                "maps are nested more than {MAPS_MAX} deep: use structs or lists"
            ))),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        self.maps -= usize::from(is_map(expr));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        let items = select.projection.len();
        let windows = select.projection.iter().map(windows_of).sum::<usize>();
        let (what, count, most) = match windows > WINDOWS_MAX {
            true => ("window functions", windows, WINDOWS_MAX),
            false => ("items", items, ITEMS_MAX),
        };
        if count > most {
            return ControlFlow::Break(Error::invalid(format!(
                "a select list has {count} {what}, the most is {most}: use several statements"
            )));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        if query.with.as_ref().is_some_and(|with| with.cte_tables.len() > COMMON_TABLES_MAX) {
            return ControlFlow::Break(Error::invalid(format!(
                "WITH: a query has at most {COMMON_TABLES_MAX} common tables: store rows in a table"
            )));
        }
        let nesting = self
            .queries
            .last()
            .map_or(0, |around| around.nesting + usize::from(around.pending.contains(query)));
        if nesting > NESTING_MAX {
            return ControlFlow::Break(Error::invalid(format!(
                "WITH: common tables are nested more than {NESTING_MAX} deep: define them beside each other"
            )));
        }
        self.queries.push(Counted { nesting, pending: PendingTables::of(query), ..Counted::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let Some(Counted { tables, chain, .. }) = self.queries.pop() else {
            return ControlFlow::Continue(());
        };
        let around = self.queries.last_mut();
        match around.and_then(|around| around.pending.take(query).map(|name| (around, name))) {
            Some((around, name)) => {
                // One that reads no table has rows as well, which those that read it may multiply.
                around.common.insert(name, (tables.max(1), chain + 1));
            }
            None => self.add(tables, chain),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Error> {
        let name = unqualified(relation).ok();
        let common =
            name.and_then(|name| self.queries.iter().rev().find_map(|query| query.common.get(&name)));
        let (tables, chain) = common.copied().unwrap_or((1, 0));
        self.add(tables, chain);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn doubling(tables: usize) -> String {
        let table = |i: usize| match i {
            0 => "c0 AS (SELECT 1 AS a FROM t)".to_owned(),
            i => format!("c{i} AS (SELECT x.a FROM c{} x CROSS JOIN c{} y)", i - 1, i - 1),
        };
        let all: Vec<String> = (0..tables).map(table).collect();
        format!("WITH {} SELECT count(*) FROM c{}", all.join(", "), tables - 1)
    }

    #[test]
    fn wide_select_lists_are_refused() {
        let check = |item: &str, count: usize| {
            let items = vec![item; count].join(", ");
            check(&parse::plain_statement(&format!("SELECT a FROM (SELECT {items} FROM t) s")).unwrap())
        };
        check("1 + i", ITEMS_MAX).unwrap();
        check("sum(v) OVER (ORDER BY v)", WINDOWS_MAX).unwrap();
        let error = check("1 + i", ITEMS_MAX + 1).unwrap_err();
        assert!(error.message().contains("10001 items"), "{error}");
        let error = check("1 + sum(v) OVER (ORDER BY v)", WINDOWS_MAX + 1).unwrap_err();
        assert!(error.message().contains("501 window functions"), "{error}");
    }

    #[test]
    fn common_tables_count_as_often_as_they_are_read() {
        let check = |sql: &str| check(&parse::plain_statement(sql).unwrap());
        assert!(check(&doubling(12)).is_ok());
        assert!(check(&doubling(14)).is_err());
        assert!(check(&doubling(100)).is_err());
        assert!(check(&doubling(100).replace("FROM t", "")).is_err());
        // A name inside is another table than one outside.
        assert!(
            check("WITH a AS (SELECT 1), b AS (WITH a AS (SELECT 2) SELECT * FROM a) SELECT * FROM a, b")
                .is_ok()
        );
        let nested = |depth| {
            let (opened, closed) = ("WITH a AS (".repeat(depth), ") SELECT * FROM a".repeat(depth));
            check(&format!("{opened}SELECT 1{closed}"))
        };
        assert!(nested(NESTING_MAX).is_ok());
        assert!(nested(NESTING_MAX + 1).is_err());
        let maps = |depth| check(&format!("SELECT {}1{}", "map(['a'], [".repeat(depth), "])".repeat(depth)));
        assert!(maps(MAPS_MAX).is_ok());
        assert!(maps(MAPS_MAX + 1).is_err());
        let chain: Vec<String> = (1..1_000).map(|i| format!("c{i} AS (SELECT a FROM c{})", i - 1)).collect();
        let sql = format!("WITH c0 AS (SELECT 1 AS a), {} SELECT * FROM c999", chain.join(", "));
        assert!(check(&sql).is_err());
    }
}
