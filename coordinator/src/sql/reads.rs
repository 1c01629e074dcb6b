//! Which manifest a statement has to see.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectName, Query, TableFactor, TableVersion, Visitor};
use plexus_model::Version;
use plexus_query::visit;

use crate::sql::common_tables::PendingTables;
use crate::sql::names::unqualified;
use crate::sql::time_travel::version_number;

/// The oldest manifest with what a statement reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    /// It reads no table: any manifest has it.
    Nothing,
    /// Every table is named with a version, which is this one or older.
    Until(Version),
    /// The newest: a quorum has to confirm that there is no newer one.
    Newest,
}

impl Reads {
    /// What a statement reads.
    pub(crate) fn of(statement: &Statement) -> Self {
        let statement = match statement {
            Statement::Statement(statement) => statement,
            Statement::Explain(explain) => return Self::of(&explain.statement),
            Statement::Reset(_) => return Self::Nothing,
            _ => return Self::Newest,
        };
        match statement.as_ref() {
            ast::Statement::Set(_) | ast::Statement::Reset(_) => Self::Nothing,
            // Of one setting, or `SHOW ALL`, which is a table of the information schema.
            ast::Statement::ShowVariable { .. } => Self::Nothing,
            ast::Statement::Query(query) => {
                let mut tables = Tables::default();
                match (visit(query.as_ref(), &mut tables), tables.newest) {
                    (ControlFlow::Break(()), _) => Self::Newest,
                    (ControlFlow::Continue(()), None) => Self::Nothing,
                    (ControlFlow::Continue(()), Some(version)) => Self::Until(version),
                }
            }
            _ => Self::Newest,
        }
    }
}

/// Looks for the newest version of a table, and stops at one without a version.
#[derive(Default)]
struct Tables {
    newest: Option<Version>,
    /// The queries around the present one.
    queries: Vec<Common>,
}

/// The common tables of a query.
#[derive(Default)]
struct Common {
    /// The names of those that can be read.
    visible: Vec<String>,
    pending: PendingTables,
}

impl Tables {
    fn is_common(&self, table: &ObjectName) -> bool {
        let mut visible = self.queries.iter().flat_map(|query| &query.visible);
        unqualified(table).is_ok_and(|name| visible.any(|common| *common == name))
    }
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        // What a name means in it depends on where it stands.
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return ControlFlow::Break(());
        }
        self.queries.push(Common { visible: vec![], pending: PendingTables::of(query) });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.queries.pop();
        if let Some(around) = self.queries.last_mut()
            && let Some(name) = around.pending.take(query)
        {
            around.visible.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, version, args: None, .. } => match version {
                // What runs is not part of any version.
                None if name.to_string() == "plexus.queries" => ControlFlow::Continue(()),
                // Its own tables are looked at where it is defined.
                None if self.is_common(name) => ControlFlow::Continue(()),
                Some(TableVersion::VersionAsOf(version)) => match version_number(version) {
                    Some(version) => {
                        self.newest = self.newest.max(Some(version));
                        ControlFlow::Continue(())
                    }
                    None => ControlFlow::Break(()),
                },
                _ => ControlFlow::Break(()),
            },
            // Their tables are visited next.
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn only_versions_that_are_named_need_no_newest_manifest() {
        for (sql, expected) in [
            ("SELECT 1", Reads::Nothing),
            ("SELECT * FROM plexus.queries", Reads::Nothing),
            ("SELECT * FROM (SELECT 1) AS q", Reads::Nothing),
            ("SELECT * FROM t VERSION AS OF 3", Reads::Until(Version(3))),
            (
                "SELECT * FROM t VERSION AS OF 3 JOIN (SELECT * FROM u VERSION AS OF 5) AS u USING (id)",
                Reads::Until(Version(5)),
            ),
            ("SELECT * FROM t VERSION AS OF 3 WHERE id IN (SELECT id FROM u)", Reads::Newest),
            ("EXPLAIN SELECT * FROM t VERSION AS OF 3", Reads::Until(Version(3))),
            ("WITH a AS (SELECT * FROM t VERSION AS OF 3) SELECT * FROM a", Reads::Until(Version(3))),
            ("WITH a AS (SELECT * FROM t) SELECT * FROM a", Reads::Newest),
            // A common table does not see itself: this is another table of its name.
            ("WITH t AS (SELECT * FROM t) SELECT * FROM t", Reads::Newest),
            ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", Reads::Newest),
            (
                "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
                Reads::Newest,
            ),
            (
                "WITH a AS (SELECT 1), b AS (SELECT * FROM (WITH c AS (SELECT 1) SELECT * FROM c) q) \
              SELECT * FROM c",
                Reads::Newest,
            ),
            ("SELECT * FROM t TIMESTAMP AS OF '2026-01-01'", Reads::Newest),
            ("SELECT * FROM t", Reads::Newest),
            ("SELECT * FROM generate_series(1, 3)", Reads::Newest),
            ("INSERT INTO t SELECT * FROM t VERSION AS OF 3", Reads::Newest),
        ] {
            assert_eq!(Reads::of(&parse::statement(sql).unwrap()), expected, "{sql}");
        }
    }
}
