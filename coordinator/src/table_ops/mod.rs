//! Maintenance statements (`OPTIMIZE`, `VACUUM`, `RESTORE`, `CHECK TABLE`) and procedures. The statements
//! return a report of what they did.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::ObjectName;
use plexus_model::{Error, Result, Table, failpoint};

use crate::exec::context::{Executed, StatementContext, find};
use crate::exec::planner::Planner;
use crate::exec::row_stream::RowStream;
use crate::peers::Peers;
use crate::sql::call::Procedure;
use crate::sql::names::object_name;
use crate::write::writer::Writer;

mod check;
mod decommission;
mod optimize;
mod restore;
pub(crate) mod vacuum;
mod zorder;

/// Runs procedures and maintenance statements.
pub(crate) struct ProcedureExecutor {
    planner: Planner,
    writer: Writer,
    peers: Arc<dyn Peers>,
    /// Whether clients may arm failpoints on this node. Only for tests.
    failpoints: bool,
}

impl ProcedureExecutor {
    /// An executor that commits through `writer` and reaches other nodes through `peers`.
    pub(crate) fn new(planner: Planner, writer: Writer, peers: Arc<dyn Peers>, failpoints: bool) -> Self {
        Self { planner, writer, peers, failpoints }
    }

    /// Runs a procedure or statement.
    ///
    /// # Errors
    /// Those of the procedure. `Unsupported` for `plexus.fail_at` on a node without failpoints.
    pub(crate) async fn call(
        &self,
        context: &StatementContext<'_>,
        procedure: Procedure,
    ) -> Result<Executed> {
        match procedure {
            Procedure::RemoveNode(node) => decommission::remove_node(&self.planner.meta, &*self.peers, node)
                .await
                .map(|()| Executed::Affected(0)),
            Procedure::Optimize { table, predicate, order } => {
                self.optimize(context, &self.writable_table(context, &table)?, predicate, order).await
            }
            Procedure::Vacuum { table, retain_us, dry_run } => {
                self.vacuum(context, table.as_ref(), retain_us, dry_run).await
            }
            Procedure::Restore { table, to } => {
                self.restore(context, &self.writable_table(context, &table)?, &to).await
            }
            Procedure::FailAt(place) => {
                if !self.failpoints {
                    return Err(Error::unsupported(
                        "plexus.fail_at is for tests: the node was not started for them",
                    ));
                }
                failpoint::arm(&place);
                Ok(Executed::Affected(0))
            }
            Procedure::KillQuery(id) => match self.planner.queries.kill(&id).await? {
                true => Ok(Executed::Affected(0)),
                false => Err(Error::not_found(format!("query {id:?} does not run on any node"))),
            },
            Procedure::CheckTable { table } => self.check(&named_table(context, &table)?).await,
        }
    }

    /// The named table, for a statement that changes it or its files.
    ///
    /// # Errors
    /// Those of a read-only session. `NotFound` when there is no such table.
    fn writable_table(&self, context: &StatementContext<'_>, name: &ObjectName) -> Result<Arc<Table>> {
        context.session.check_writable()?;
        named_table(context, name)
    }
}

/// The named table at the version that the session reads.
///
/// # Errors
/// `NotFound` when there is no such table.
fn named_table(context: &StatementContext<'_>, name: &ObjectName) -> Result<Arc<Table>> {
    find(&context.manifest, &object_name(name, &context.session.schema())?)
}

/// Returns a report as rows.
fn report(columns: Vec<(&str, ArrayRef)>) -> Result<Executed> {
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::internal(format!("building the report of a statement: {e}")).with_source(e))?;
    Ok(Executed::Returned(RowStream::from_batches(batch.schema(), vec![batch]), 0))
}
