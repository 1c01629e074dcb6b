//! Which manifest a statement has to see.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, TableFactor, TableVersion, Visitor};
use plexus_model::Version;
use plexus_query::visit;

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
        let Statement::Statement(statement) = statement else {
            return if matches!(statement, Statement::Reset(_)) { Self::Nothing } else { Self::Newest };
        };
        match statement.as_ref() {
            ast::Statement::Set(_) | ast::Statement::Reset(_) => Self::Nothing,
            // Of one setting, or `SHOW ALL`, which is a table of the information schema.
            ast::Statement::ShowVariable { .. } => Self::Nothing,
            ast::Statement::Query(query) => {
                let mut tables = Tables { newest: None };
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
struct Tables {
    newest: Option<Version>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, version, args: None, .. } => match version {
                // What runs is not part of any version.
                None if name.to_string() == "plexus.queries" => ControlFlow::Continue(()),
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
            ("SELECT * FROM t TIMESTAMP AS OF '2026-01-01'", Reads::Newest),
            ("SELECT * FROM t", Reads::Newest),
            ("SELECT * FROM generate_series(1, 3)", Reads::Newest),
            ("INSERT INTO t SELECT * FROM t VERSION AS OF 3", Reads::Newest),
        ] {
            assert_eq!(Reads::of(&parse::statement(sql).unwrap()), expected, "{sql}");
        }
    }
}
