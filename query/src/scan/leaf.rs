//! The leaves of a table scan: segments in files, and inline segments in memory.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use plexus_model::Table;
use plexus_storage::{SegmentReader, types};
use vortex::session::VortexSession;
use vortex_datafusion::VortexSource;

use crate::scan::files::{STORE_URL, SegmentReaderFactory};
use crate::scan::push_down::SafeConverter;
use crate::scan::schema_adapter::{Initials, StoredAdapterFactory};

/// What a scan needs of the node that runs it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScanContext {
    /// Decodes Vortex files.
    pub vortex: VortexSession,
    /// Reads segments, from the local disk or from a replica.
    pub reader: SegmentReader,
    /// Caches the footers of files.
    pub footers: Arc<FileMetadataCache>,
}

impl std::fmt::Debug for ScanContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanContext").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl ScanContext {
    /// A source that reads segments with this schema through this node.
    pub(crate) fn source(&self, schema: TableSchema) -> VortexSource {
        VortexSource::new(schema, self.vortex.clone())
            .with_expression_converter(Arc::new(SafeConverter::new(self.vortex.clone())))
            .with_vortex_reader_factory(Arc::new(SegmentReaderFactory { reader: self.reader.clone() }))
            .with_file_metadata_cache(self.footers.clone())
    }
}

/// One scan of a table.
pub(crate) struct Scan<'a> {
    /// The table at the pinned version.
    pub table: &'a Table,
    /// The columns of the table.
    pub schema: SchemaRef,
    /// The file segments.
    pub files: Vec<PartitionedFile>,
    /// The statistics of all files together.
    pub statistics: Statistics,
    /// The rows of inline segments.
    pub inline: Vec<RecordBatch>,
    /// Rows that were looked up in files, with the columns of `projection`.
    pub looked_up: Vec<RecordBatch>,
    /// Positions of the columns to read; all if `None`.
    pub projection: Option<&'a Vec<usize>>,
    /// Rows that suffice.
    pub limit: Option<usize>,
    /// Number of partitions of the file scan, at most.
    pub partitions: usize,
}

impl Scan<'_> {
    /// The plan of the scan.
    ///
    /// # Errors
    /// When the projection does not fit the columns.
    pub(crate) fn plan(self, context: &ScanContext) -> Result<Arc<dyn ExecutionPlan>> {
        let mut leaves = Vec::new();
        if !self.files.is_empty() {
            leaves.push(self.file_leaf(context)?);
        }
        if !self.inline.is_empty() {
            leaves.push(memory_leaf(&self.inline, self.schema.clone(), self.projection.cloned())?);
        }
        if !self.looked_up.is_empty() {
            leaves.push(memory_leaf(&self.looked_up, self.projected()?, None)?);
        }
        match leaves.pop() {
            Some(leaf) if leaves.is_empty() => Ok(leaf),
            Some(last) => UnionExec::try_new(leaves.into_iter().chain([last]).collect()),
            None => Ok(Arc::new(EmptyExec::new(self.projected()?))),
        }
    }

    /// The columns that are read.
    fn projected(&self) -> Result<SchemaRef> {
        match self.projection {
            Some(projection) => Ok(Arc::new(self.schema.project(projection)?)),
            None => Ok(self.schema.clone()),
        }
    }

    fn file_leaf(&self, context: &ScanContext) -> Result<Arc<dyn ExecutionPlan>> {
        let source = context.source(types::to_stored(&self.table.schema).into());
        let initials = Initials::of(&self.table.schema);
        // Attached to the files, because the codec that encodes a scan for other nodes sees only them.
        let files = self.files.iter().map(|file| file.clone().with_extension(initials.clone())).collect();
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
            .with_file_groups(spread(files, self.partitions))
            .with_statistics(self.statistics.clone())
            .with_projection_indices(self.projection.cloned())?
            .with_limit(self.limit)
            .with_expr_adapter(Some(Arc::new(StoredAdapterFactory { initials })))
            .build();
        self.name_columns(DataSourceExec::from_data_source(config))
    }

    /// Renames the columns of a scan from the names in files, which are column ids, to those of the table.
    fn name_columns(&self, leaf: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = self.projection.unwrap_or(&all);
        let stored = leaf.schema();
        let named = columns.iter().zip(stored.fields()).enumerate().map(|(i, (&column, field))| {
            let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
            (expr, self.schema.field(column).name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(named.collect::<Vec<_>>(), leaf.clone())?))
    }
}

fn memory_leaf(
    rows: &Vec<RecordBatch>,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(MemorySourceConfig::try_new_exec(std::slice::from_ref(rows), schema, projection)?)
}

/// The configuration and source of a segment scan, if the plan is one.
pub(crate) fn segment_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<(&FileScanConfig, &VortexSource)> {
    let config = plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
    let source = config.file_source().downcast_ref::<VortexSource>()?;
    Some((config, source))
}

/// The rows of a leaf that reads memory: inline segments, literal values and system tables.
pub(crate) fn memory_source(plan: &Arc<dyn ExecutionPlan>) -> Option<&MemorySourceConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<MemorySourceConfig>()
}

/// Distributes files over at most `partitions` groups of similar size. The largest files are placed first.
pub(crate) fn spread(mut files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    files.sort_by_key(|f| std::cmp::Reverse(f.effective_size()));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> =
        vec![Default::default(); partitions.clamp(1, files.len().max(1))];
    for file in files {
        let smallest = (0..groups.len()).min_by_key(|&g| groups[g].0).unwrap_or_default();
        groups[smallest].0 += file.effective_size();
        groups[smallest].1.push(file);
    }
    groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn files_are_spread_once_each_and_evenly(
            sizes in proptest::collection::vec(1u64..1_000, 0..60),
            partitions in 1usize..9,
        ) {
            let named = sizes.iter().enumerate();
            let files: Vec<PartitionedFile> =
                named.map(|(i, size)| PartitionedFile::new(format!("{i}"), *size)).collect();
            let groups = spread(files, partitions);
            prop_assert!(groups.len() <= partitions);
            let mut names: Vec<String> =
                groups.iter().flat_map(|g| g.files()).map(|f| f.path().to_string()).collect();
            names.sort();
            let mut expected: Vec<String> = (0..sizes.len()).map(|i| i.to_string()).collect();
            expected.sort();
            prop_assert_eq!(names, expected);
            // With the largest first, two groups differ by at most one file.
            let loads: Vec<u64> =
                groups.iter().map(|g| g.files().iter().map(PartitionedFile::effective_size).sum()).collect();
            let (least, most) = (loads.iter().min().unwrap_or(&0), loads.iter().max().unwrap_or(&0));
            prop_assert!(most - least <= sizes.iter().copied().max().unwrap_or(0), "{loads:?}");
        }
    }
}
