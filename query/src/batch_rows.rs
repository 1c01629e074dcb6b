//! How many rows the batches of a query have. Operators count rows, so with wide rows fewer go into a batch:
//! thousands of texts of 100 KB would take most of a gigabyte in each step of each operator.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::DistributedExt;
use plexus_storage::rows_bytes;

use crate::scan::leaf::{memory_source, segment_scan};

/// Bytes of a batch of rows that have a column of each table of the query, about.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Rows of a batch at least. With less, the time goes into the batches and not into the rows.
const BATCH_ROWS_MIN: usize = 32;

/// The context in which to run a plan, with batches that fit the rows that it reads.
///
/// # Errors
/// Never in practice: the plan can be visited.
pub fn task_context(state: &SessionState, plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<TaskContext>> {
    let rows = (BATCH_BYTES / row_bytes(plan)?.max(1)).max(BATCH_ROWS_MIN);
    let context = TaskContext::from(state);
    if rows >= state.config().batch_size() {
        return Ok(Arc::new(context));
    }
    let mut config = state.config().clone().with_batch_size(rows);
    // For the tasks on other nodes.
    config.set_distributed_shuffle_batch_size(rows)?;
    Ok(Arc::new(context.with_session_config(config)))
}

/// Bytes of a row that has the columns of all tables that a plan reads: of each the widest rows, as far as
/// its statistics tell.
fn row_bytes(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut sum = 0usize;
    plan.apply(|node| {
        if let Some((config, _)) = segment_scan(node) {
            sum = sum.saturating_add(stored_row_bytes(node, config));
        } else if let Some(source) = memory_source(node) {
            let batches = source.partitions().iter().flatten();
            let widest = batches.map(|batch| rows_bytes(batch) / batch.num_rows().max(1)).max();
            sum = sum.saturating_add(widest.unwrap_or(0));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(sum)
}

/// Bytes of a row in the file whose rows are widest, of the columns that a scan returns.
fn stored_row_bytes(scan: &Arc<dyn ExecutionPlan>, config: &FileScanConfig) -> usize {
    let (stored, returned) = (config.file_schema(), scan.schema());
    let columns: Vec<_> = returned.fields().iter().map(|field| stored.index_of(field.name())).collect();
    let of_file = |statistics: &Statistics| {
        let rows = statistics.num_rows.get_value().copied().unwrap_or(0).max(1);
        let bytes = columns.iter().map(|column| match column {
            Ok(column) => statistics.column_statistics.get(*column)?.byte_size.get_value().copied(),
            // The scan computes it, of any of the columns.
            Err(_) => None,
        });
        let all = || statistics.total_byte_size.get_value().copied().unwrap_or(0);
        bytes.sum::<Option<usize>>().unwrap_or_else(all) / rows
    };
    let files = config.file_groups.iter().flat_map(|group| group.files());
    files.filter_map(|file| file.statistics.as_deref()).map(of_file).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::union::UnionExec;
    use datafusion_distributed::SessionStateBuilderExt;

    use super::*;

    /// Rows of a batch of a query that reads tables with a column of so many bytes each.
    fn batch_rows(row_bytes: &[usize]) -> usize {
        let table = |bytes: &usize| -> Arc<dyn ExecutionPlan> {
            // The widest batch counts, not the average of all.
            let of_rows = |rows: usize, bytes: usize| {
                let texts = StringArray::from(vec!["x".repeat(bytes); rows]);
                RecordBatch::try_from_iter([("s", Arc::new(texts) as ArrayRef)]).unwrap()
            };
            let batches = vec![of_rows(1_000, 1), of_rows(4, *bytes)];
            let schema = batches[0].schema();
            MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap()
        };
        let plan = UnionExec::try_new(row_bytes.iter().map(table).collect()).unwrap();
        let state = SessionStateBuilder::new().with_default_features().with_distributed_planner().build();
        task_context(&state, &plan).unwrap().session_config().batch_size()
    }

    #[test]
    fn batches_of_wide_rows_have_few() {
        assert_eq!(batch_rows(&[1, 1]), 8_192);
        assert_eq!(batch_rows(&[1_000, 10]), 8_192);
        assert!((150..170).contains(&batch_rows(&[100_000, 1])));
        assert!((75..85).contains(&batch_rows(&[100_000, 100_000])));
        assert_eq!(batch_rows(&[10_000_000, 1]), BATCH_ROWS_MIN);
    }
}
