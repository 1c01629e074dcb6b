//! Two lanes of execution. Short queries run beside the servers, on threads that nothing holds for long. Long
//! ones run on threads of their own that the system serves last, so that they cannot delay anything else,
//! however they compute.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use tokio::runtime::Handle;

use crate::scan::leaf::{memory_source, segment_scan};
use crate::tables::dml_target::target_bytes;

/// Bytes of segments that a short query reads at most. They take some tens of milliseconds on one core.
const SHORT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Rows in memory that a short query reads at most.
const SHORT_ROWS_MAX: usize = 100_000;

/// Pairs of rows that the joins and windows of a short query compare at most, as far as the rows that they
/// read tell: with one key for all rows, each row meets each. They take some tens of milliseconds.
const SHORT_PAIRS_MAX: usize = 10_000_000;

/// The threads of long queries.
#[derive(Clone, Debug)]
pub struct LongLane(Handle);

impl LongLane {
    /// Runs long queries on `runtime`.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self(runtime)
    }

    /// The long lane of a session.
    pub fn of(state: &SessionState) -> Option<Arc<Self>> {
        state.config().get_extension()
    }

    /// The runtime of the lane.
    pub fn runtime(&self) -> &Handle {
        &self.0
    }
}

/// Functions that may take long for a single row.
const LONG_FUNCTIONS: [&str; 14] = [
    "array_repeat",
    "array_resize",
    "generate_series",
    "levenshtein",
    "lpad",
    "range",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
];

/// Whether a function may take long for a single row.
pub(crate) fn is_long_function(name: &str) -> bool {
    LONG_FUNCTIONS.contains(&name)
}

/// Whether an operator may take long for a single row.
pub(crate) fn is_long_operator(operator: Operator) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(operator, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// Whether a plan may take long: it reads many rows, may multiply them, calls functions that may take long,
/// or it is not known how many rows it makes.
///
/// # Errors
/// Never in practice: the visitor does not fail.
pub fn is_long(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let (mut bytes, mut rows, mut is_long) = (0u64, 0usize, false);
    plan.apply(|node| {
        node.apply_expressions(&mut |expr| {
            is_long |= expr.exists(|expr| {
                let function = expr.downcast_ref::<ScalarFunctionExpr>();
                let binary = expr.downcast_ref::<BinaryExpr>();
                Ok(function.is_some_and(|f| is_long_function(f.fun().name()))
                    || binary.is_some_and(|b| is_long_operator(*b.op())))
            })?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let multiplies = node.is::<NestedLoopJoinExec>()
            || node.is::<CrossJoinExec>()
            || node.is::<RecursiveQueryExec>()
            || node.is::<UnnestExec>();
        if let Some((config, _)) = segment_scan(node) {
            let files = config.file_groups.iter().flat_map(|group| group.files());
            bytes += files.map(PartitionedFile::effective_size).sum::<u64>();
        } else if let Some(source) = memory_source(node) {
            let read: usize = source.partitions().iter().flatten().map(|batch| batch.num_rows()).sum();
            rows = rows.saturating_add(read);
        } else if let Some(read) = target_bytes(node) {
            bytes += read;
        } else if node.children().is_empty() {
            let is_small =
                node.is::<EmptyExec>() || node.is::<PlaceholderRowExec>() || node.is::<DataSourceExec>();
            is_long |= !is_small;
        }
        is_long |=
            multiplies || pairs(node)? > SHORT_PAIRS_MAX || bytes > SHORT_BYTES_MAX || rows > SHORT_ROWS_MAX;
        Ok(if is_long { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(is_long)
}

/// The pairs of rows that a join or a window may have to compare; zero for other operators.
fn pairs(node: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let is_window = node.is::<WindowAggExec>() || node.is::<BoundedWindowAggExec>();
    let is_join = node.children().len() > 1 && !node.is::<UnionExec>() && !node.is::<InterleaveExec>();
    if !is_window && !is_join {
        return Ok(0);
    }
    let rows = node.children().into_iter().map(rows_read).collect::<Result<Vec<_>>>()?;
    Ok(match rows.as_slice() {
        [rows] => rows.saturating_mul(*rows),
        rows => rows.iter().fold(1, |product: usize, rows| product.saturating_mul(*rows)),
    })
}

/// The rows that a plan reads.
fn rows_read(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut rows = 0usize;
    plan.apply(|node| {
        if node.children().is_empty() {
            let known = StatisticsContext::new().compute(node.as_ref(), &StatisticsArgs::new())?;
            let known = known.num_rows.get_value().copied();
            rows = rows.saturating_add(known.unwrap_or(SHORT_ROWS_MAX));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(rows)
}
