//! The common tables of a query in a walk over a statement. A name in `WITH` stands for its query only after
//! that has been visited: within it, it is the name of another table.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::Query;

use crate::sql::names::name_of;

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
