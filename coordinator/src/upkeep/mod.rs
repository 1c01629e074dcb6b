//! Statements that tend tables: `OPTIMIZE`, `VACUUM`, `RESTORE` and `CHECK TABLE`. Each says what it did.

mod check;
mod optimize;
mod restore;
pub mod vacuum;
mod zorder;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::ObjectName;
use plexus_model::{Error, Result, Table, failpoint};

use crate::call::Procedure;
use crate::coordinator::{Coordinator, Executed, Scope, find};
use crate::ddl;
use crate::removal;
use crate::run::RowStream;

impl Coordinator {
    pub(crate) async fn call(&self, scope: &Scope<'_>, procedure: Procedure) -> Result<Executed> {
        match procedure {
            Procedure::RemoveNode(node) => {
                removal::remove_node(self.meta(), self.peers(), node).await.map(|()| Executed::Affected(0))
            }
            Procedure::Optimize { table, predicate, order } => {
                self.optimize(scope, &self.tended(scope, &table)?, predicate, order).await
            }
            Procedure::Vacuum { table, retain_us, dry_run } => {
                self.vacuum(scope, table.as_ref(), retain_us, dry_run).await
            }
            Procedure::Restore { table, to } => self.restore(scope, &self.tended(scope, &table)?, &to).await,
            Procedure::FailAt(place) => {
                if !self.allows_failpoints() {
                    return Err(Error::unsupported(
                        "plexus.fail_at is for tests: the node was not started for them",
                    ));
                }
                failpoint::arm(&place);
                Ok(Executed::Affected(0))
            }
            Procedure::CheckTable { table } => self.check(&self.tended(scope, &table)?).await,
        }
    }

    /// The table that a statement tends.
    fn tended(&self, scope: &Scope<'_>, name: &ObjectName) -> Result<Arc<Table>> {
        scope.session.check_writable()?;
        find(&scope.manifest, &ddl::object_name(name, &scope.session.schema())?)
    }
}

/// What a statement did, as rows.
fn report(columns: Vec<(&str, ArrayRef)>) -> Result<Executed> {
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::internal(format!("a report: {e}")).with_source(e))?;
    Ok(Executed::Returned(RowStream::from_batches(batch.schema(), vec![batch]), 0))
}
