//! TODO module docs.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use plexus_model::{Error, Manifest, Result, Table, TableName};

use crate::exec::retry::RowStream;
use crate::exec::session::Session;

/// What a statement did.
pub enum Executed {
    Rows(RowStream),
    /// Rows that were written; zero for statements that write none.
    Affected(u64),
    /// What `RETURNING` gives back of the rows that were written.
    Returned(RowStream, u64),
}

impl Executed {
    /// Rows that the statement wrote.
    pub fn affected(&self) -> u64 {
        match self {
            Self::Rows(_) => 0,
            Self::Affected(rows) | Self::Returned(_, rows) => *rows,
        }
    }
}

/// What one statement runs with.
pub(crate) struct StatementContext<'a> {
    pub session: &'a Session,
    /// What it sees.
    pub manifest: Arc<Manifest>,
    pub values: &'a [ScalarValue],
    pub query_id: &'a str,
}

pub(crate) fn new_query_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

pub(crate) fn find(manifest: &Manifest, name: &TableName) -> Result<Arc<Table>> {
    manifest.table(name).cloned().ok_or_else(|| Error::not_found(format!("table {name} does not exist")))
}
