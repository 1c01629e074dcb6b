//! Common tables that would give each reader other rows.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, TableFactor, Visitor};
use plexus_model::{Error, Result};

use super::functions::is_volatile;
use crate::sql::names::{name_of, unqualified};
use plexus_query::visit;

/// Refuses common tables that call a function like `random` and are read more than once. The engine computes
/// a common table for each of its readers, and they would get different rows.
pub(super) fn check_volatile(query: &Query) -> Result<()> {
    let Some(with) = &query.with else {
        return Ok(());
    };
    let mut volatile = HashSet::new();
    for table in &with.cte_tables {
        let mut reads = Reads::default();
        let _: ControlFlow<()> = visit(&table.query, &mut reads);
        if reads.is_volatile || reads.tables.iter().any(|read| volatile.contains(read)) {
            volatile.insert(name_of(&table.alias.name));
        }
    }
    if volatile.is_empty() {
        return Ok(());
    }
    let mut reads = Reads::default();
    let _: ControlFlow<()> = visit(query, &mut reads);
    for name in volatile {
        let readers = reads.tables.iter().filter(|read| **read == name).count();
        if readers > 1 {
            return Err(Error::unsupported(format!(
                "WITH {name}: it is read {readers} times and calls a function like random(), so that each \
                 reader would get other rows; store its rows in a table"
            )));
        }
    }
    Ok(())
}

/// What a part of a statement reads.
#[derive(Default)]
struct Reads {
    /// Tables without a qualifier, as often as they are read.
    tables: Vec<String>,
    is_volatile: bool,
}

impl Visitor for Reads {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let Ok(name) = unqualified(name)
        {
            self.tables.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.is_volatile |= matches!(expr, Expr::Function(function) if is_volatile(function));
        ControlFlow::Continue(())
    }
}
