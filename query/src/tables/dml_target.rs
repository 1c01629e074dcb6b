//! DML targets: a table whose rows come with their positions.
//!
//! The schema name of [`dml_target_schema`] refers to the targets of a schema. The coordinator plans DML as a
//! query over a target. The positions in the result identify the rows to delete.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};
use plexus_model::{Error, RowSelection, RowSet, Segment, SegmentData, Table, TableSchema, Version};
use plexus_storage::{PositionedRows, project};

use crate::scan::key_lookup::KeyLookup;
use crate::tables::context::TableContext;
use crate::tables::pinned::PinnedTable;

/// Column with the index of a row's segment among the visible segments, in the order of their ids.
pub const SEGMENT_COLUMN: &str = "\u{1}segment";
/// Column with the position of a row in its segment.
pub const ROW_COLUMN: &str = "\u{1}row";

/// Prefix of the schema names that [`dml_target_schema`] makes.
const PREFIX: &str = "$target:";

/// The name under which a session sees the tables of `schema` as DML targets.
pub fn dml_target_schema(schema: &str) -> String {
    format!("{PREFIX}{schema}")
}

/// The schema of a name that [`dml_target_schema`] made.
pub(crate) fn schema_of_target(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// A table with the columns [`SEGMENT_COLUMN`] and [`ROW_COLUMN`] after its own.
#[derive(Debug)]
pub(crate) struct TargetTable {
    inner: PinnedTable,
    schema: SchemaRef,
}

impl TargetTable {
    /// The target of a table.
    pub(crate) fn new(inner: PinnedTable) -> Self {
        let mut fields: Vec<_> = inner.arrow_schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(SEGMENT_COLUMN, DataType::UInt32, false)));
        fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)));
        Self { inner, schema: Arc::new(Schema::new(fields)) }
    }

    /// The table itself.
    pub(crate) fn pinned(&self) -> &PinnedTable {
        &self.inner
    }
}

#[async_trait]
impl TableProvider for TargetTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.collect_statistics().await?;
        let own = self.inner.arrow_schema().fields().len();
        // Filters over the position columns prune nothing, since segments have no statistics for them.
        let filters: Vec<Expr> = filters
            .iter()
            .filter(|f| f.column_refs().iter().all(|c| self.inner.arrow_schema().index_of(&c.name).is_ok()))
            .cloned()
            .collect();
        let wanted = self.inner.segments(state, &filters)?;
        let (table, version, reader) =
            (self.inner.table(), self.inner.version(), &self.inner.context().scans.reader);
        let candidates = wanted.iter().map(|(segment, _)| &**segment);
        let key = KeyLookup::of(table, self.inner.arrow_schema(), &filters, candidates);
        let (mut segments, mut bytes) = (Vec::new(), 0);
        for (index, segment) in (0..).zip(table.visible(version)) {
            if !wanted.iter().any(|(wanted, _)| wanted.id == segment.id) {
                continue;
            }
            let found = match &key {
                Some(key) => {
                    let failed = |e: Error| DataFusionError::External(Box::new(e));
                    let invisible = reader.invisible_rows(table, segment, version).await.map_err(failed)?;
                    key.rows(reader, table, segment, &invisible).await.map_err(failed)?
                }
                None => None,
            };
            match &found {
                Some(rows) if rows.is_empty() => continue,
                Some(_) => {}
                None => {
                    bytes += match &segment.data {
                        SegmentData::File(file) => file.column_bytes,
                        SegmentData::Inline(rows) => rows.len() as u64,
                    };
                }
            }
            segments.push(TargetSegment { index, segment: segment.clone(), found: found.map(Arc::new) });
        }
        let all: Vec<usize> = (0..own + 2).collect();
        let columns = projection.unwrap_or(&all).clone();
        let schema = Arc::new(self.schema.project(&columns)?);
        let mut partitions: Vec<Vec<TargetSegment>> =
            vec![vec![]; state.config().target_partitions().clamp(1, segments.len().max(1))];
        let count = partitions.len();
        segments.into_iter().enumerate().for_each(|(i, segment)| partitions[i % count].push(segment));
        Ok(Arc::new(TargetScan {
            table: table.clone(),
            version,
            bytes,
            context: self.inner.context().clone(),
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(schema.clone()),
                Partitioning::UnknownPartitioning(count),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
            columns,
            schema,
            partitions,
        }))
    }

    fn statistics(&self) -> Option<Statistics> {
        None
    }
}

/// The rows to read of a segment, which has this index among the visible ones.
#[derive(Clone, Debug)]
struct TargetSegment {
    index: u32,
    segment: Arc<Segment>,
    /// The rows with the wanted key; `None` for all that are visible.
    found: Option<Arc<RowSet>>,
}

/// Bytes of the segments that a scan of a DML target reads from end to end, if the plan is one.
pub(crate) fn target_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    plan.downcast_ref::<TargetScan>().map(|scan| scan.bytes)
}

/// Reads the rows of segments with their positions.
#[derive(Debug)]
struct TargetScan {
    table: Arc<Table>,
    version: Version,
    /// Bytes of the segments that it reads from end to end.
    bytes: u64,
    context: TableContext,
    /// Positions of the columns in the target: those of the table, and after them the two position columns.
    columns: Vec<usize>,
    schema: SchemaRef,
    partitions: Vec<Vec<TargetSegment>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for TargetScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments: usize = self.partitions.iter().map(Vec::len).sum();
        write!(f, "TargetScan: table={}, segments={segments}", self.table.name)
    }
}

impl ExecutionPlan for TargetScan {
    fn name(&self) -> &str {
        "TargetScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(segments) = self.partitions.get(partition).cloned() else {
            return internal_err!("partition {partition} of {}", self.partitions.len());
        };
        let (table, version, context) = (self.table.clone(), self.version, self.context.clone());
        let (columns, schema) = (self.columns.clone(), self.schema.clone());
        let own = table.schema.columns.len();
        let read: Vec<usize> = columns.iter().copied().filter(|c| *c < own).collect();
        let wanted: TableSchema = project(&table.schema, &read);
        let rows = stream::iter(segments).then(move |TargetSegment { index, segment, found }| {
            let (table, context, wanted) = (table.clone(), context.clone(), wanted.clone());
            async move {
                let reader = &context.scans.reader;
                let selection = match found {
                    Some(rows) => RowSelection::Only(rows),
                    None => RowSelection::AllExcept(reader.invisible_rows(&table, &segment, version).await?),
                };
                let rows = reader.scan(&table, &segment, &wanted, selection).await?;
                plexus_model::Result::Ok(rows.map_ok(move |rows| (index, rows)))
            }
        });
        let batches = rows.try_flatten().map(move |rows| {
            let (index, rows) = rows.map_err(|e| DataFusionError::External(Box::new(e)))?;
            assemble(index, rows, &columns, own, &schema)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches.boxed())))
    }
}

/// The columns of a batch: those of the table were read, the positions are filled in.
fn assemble(
    segment: u32,
    found: PositionedRows,
    columns: &[usize],
    own: usize,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let count = found.positions.len();
    let mut read = found.rows.columns().iter();
    let arrays = columns
        .iter()
        .map(|&column| -> Result<ArrayRef> {
            match column.checked_sub(own) {
                None => read.next().cloned().ok_or_else(|| {
                    DataFusionError::Internal(format!("column {column} of a target was not read"))
                }),
                Some(0) => Ok(Arc::new(UInt32Array::from(vec![segment; count]))),
                Some(_) => Ok(Arc::new(UInt64Array::from(found.positions.clone()))),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}
