//! `plexus.queries`: the statements that run on all nodes, as they are when the table is read.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use plexus_model::NodeId;
use rkyv::{Archive, Deserialize, Serialize};

use crate::time_zones::DEFAULT_ZONE;

/// The name of the table.
pub(crate) const QUERIES: &str = "queries";

/// A statement that runs. Nodes send it to each other as it is.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RunningQuery {
    /// Its id.
    pub query_id: String,
    /// The node that runs it for its client.
    pub node: NodeId,
    /// What it does: queued, running, committing, or ending.
    pub state: String,
    /// When it began, in microseconds since the Unix epoch, by the clock of its node.
    pub started_us: u64,
    /// For how long it has been running, in microseconds.
    pub elapsed_us: u64,
    /// What it holds of the memory of that node, in bytes, as far as is known.
    pub memory_bytes: u64,
    /// The start of its text.
    pub statement: String,
}

/// Knows what all nodes run.
#[async_trait]
pub trait RunningQueries: Send + Sync + Debug {
    /// The statements that run now.
    async fn all(&self) -> Vec<RunningQuery>;
}

/// The table.
#[derive(Debug)]
pub(crate) struct QueriesTable {
    schema: SchemaRef,
    /// `None` where only the schema matters.
    queries: Option<Arc<dyn RunningQueries>>,
}

impl QueriesTable {
    pub(crate) fn new(queries: Option<Arc<dyn RunningQueries>>) -> Self {
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        let schema = Schema::new(vec![
            field("query_id", DataType::Utf8),
            field("node_id", DataType::UInt64),
            field("state", DataType::Utf8),
            field("started", DataType::Timestamp(TimeUnit::Microsecond, Some(DEFAULT_ZONE.into()))),
            field("elapsed_ms", DataType::Float64),
            field("memory_bytes", DataType::UInt64),
            field("statement", DataType::Utf8),
        ]);
        Self { schema: Arc::new(schema), queries }
    }

    fn batch(&self, rows: &[RunningQuery]) -> Result<RecordBatch> {
        let text = |of: fn(&RunningQuery) -> &String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
        };
        let started = rows.iter().map(|query| Some(query.started_us as i64));
        let started = started.collect::<TimestampMicrosecondArray>().with_timezone(DEFAULT_ZONE);
        let elapsed = rows.iter().map(|query| Some(query.elapsed_us as f64 / 1_000.0));
        let columns: Vec<ArrayRef> = vec![
            text(|query| &query.query_id),
            Arc::new(rows.iter().map(|query| Some(query.node.0)).collect::<UInt64Array>()),
            text(|query| &query.state),
            Arc::new(started),
            Arc::new(elapsed.collect::<Float64Array>()),
            Arc::new(rows.iter().map(|query| Some(query.memory_bytes)).collect::<UInt64Array>()),
            text(|query| &query.statement),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

#[async_trait]
impl TableProvider for QueriesTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = match &self.queries {
            Some(queries) => queries.all().await,
            None => vec![],
        };
        let table = MemTable::try_new(self.schema.clone(), vec![vec![self.batch(&rows)?]])?;
        table.scan(state, projection, filters, limit).await
    }
}
