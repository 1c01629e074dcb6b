//! What every executor shares: the context that a statement runs in, and its result.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use plexus_model::{Error, Manifest, Result, STAGING_SCHEMA, Table, TableName};

use crate::exec::row_stream::RowStream;
use crate::exec::session::Session;
use crate::sql::result_names::ResultNames;
use crate::suggestions::did_you_mean_table;

/// The result of a statement.
pub enum Executed {
    /// The rows of a query.
    Rows(RowStream),
    /// The number of rows that were written; zero for statements that write none.
    Affected(u64),
    /// The rows of `RETURNING`, or the report of a maintenance statement, and the number of rows that were
    /// written.
    Returned(RowStream, u64),
}

impl Executed {
    /// The same result with the names of its columns.
    pub(crate) fn named(self, names: &ResultNames) -> Self {
        match self {
            Self::Rows(RowStream { schema, stream }) => {
                Self::Rows(RowStream { schema: names.apply(&schema), stream })
            }
            other => other,
        }
    }

    /// The number of rows that the statement wrote.
    pub fn affected(&self) -> u64 {
        match self {
            Self::Rows(_) => 0,
            Self::Affected(rows) | Self::Returned(_, rows) => *rows,
        }
    }
}

/// The pinned state that one attempt to run a statement works on.
pub(crate) struct StatementContext<'a> {
    /// The session that sent the statement.
    pub(crate) session: &'a Session,
    /// The manifest that the statement reads, pinned before planning.
    pub(crate) manifest: Arc<Manifest>,
    /// Values of the parameters, in order from `$1`.
    pub(crate) values: &'a [ScalarValue],
    /// Identifies the statement in logs and in tasks on other nodes.
    pub(crate) query_id: &'a str,
}

/// The error for a table that there is not.
pub(crate) fn unknown_table(manifest: &Manifest, name: &TableName) -> Error {
    let known = || manifest.names.keys().filter(|name| name.schema != STAGING_SCHEMA);
    Error::not_found(format!("table {name} does not exist{}", did_you_mean_table(name, known)))
}

/// Looks up a table by name.
///
/// # Errors
/// `NotFound` when the manifest has no table of that name.
pub(crate) fn find(manifest: &Manifest, name: &TableName) -> Result<Arc<Table>> {
    manifest.table(name).cloned().ok_or_else(|| unknown_table(manifest, name))
}
