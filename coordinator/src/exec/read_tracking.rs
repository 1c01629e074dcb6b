//! Which tables a plan reads: what a serializable transaction depends on.

use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use plexus_model::{Result, TableName};
use plexus_query::search::searched_table;

use crate::errors::from_datafusion;
use crate::exec::context::StatementContext;
use crate::exec::transactions::TransactionGuard;

/// Records the tables that a plan reads, for serializable transactions.
pub(crate) fn note_reads(
    guard: &mut TransactionGuard,
    context: &StatementContext<'_>,
    plan: &LogicalPlan,
) -> Result<()> {
    let mut names: Vec<TableReference> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.push(scan.table_name.clone());
        }
        if let Some(table) = searched_table(node) {
            guard.note_read(table);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    let schema = context.session.schema();
    for name in names {
        let name = TableName::new(name.schema().unwrap_or(&schema), name.table());
        if let Some(id) = context.manifest.names.get(&name) {
            guard.note_read(*id);
        }
    }
    Ok(())
}
