//! Scans have two partitions or more in plans that may run on several nodes.
//!
//! An operator above a single partition may count on seeing all rows: an aggregate without groups gives one
//! row for them. When a stage runs on several nodes, each of them runs that operator, over a part of the rows
//! or over none. Above two partitions, DataFusion puts an exchange below such operators, at which stages end.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::datasource::source::DataSource;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::context::QueryContext;
use crate::scan::leaf::{memory_source, segment_scan};

/// The rule; runs before DataFusion plans exchanges.
#[derive(Debug)]
pub(super) struct TwoPartitions;

impl PhysicalOptimizerRule for TwoPartitions {
    fn name(&self) -> &str {
        "two_partitions"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !config.extensions.get::<QueryContext>().is_some_and(|context| context.distributed) {
            return Ok(plan);
        }
        let add = |leaf| match with_empty_partition(&leaf)? {
            Some(leaf) => Ok(Transformed::yes(leaf)),
            None => Ok(Transformed::no(leaf)),
        };
        plan.transform_up(add).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A scan of one partition with an empty one beside it.
fn with_empty_partition(leaf: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if !leaf.children().is_empty() || leaf.output_partitioning().partition_count() != 1 {
        return Ok(None);
    }
    if let Some((config, _)) = segment_scan(leaf) {
        let mut config = config.clone();
        config.file_groups.push(FileGroup::new(vec![]));
        return Ok(Some(DataSourceExec::from_data_source(config)));
    }
    let Some(source) = memory_source(leaf).filter(|source| source.fetch().is_none()) else {
        return Ok(None);
    };
    let mut partitions: Vec<Vec<RecordBatch>> = source.partitions().to_vec();
    partitions.push(vec![]);
    let schema = source.original_schema();
    let source = MemorySourceConfig::try_new(&partitions, schema, source.projection().clone())?;
    Ok(Some(DataSourceExec::from_data_source(source)))
}
