//! A pinned version of a table with its segments, as a search reads them.

use std::fmt;
use std::sync::{Arc, OnceLock};

use plexus_memory::inherit_in;
use plexus_model::{Error, NodeId, Result, RowSet, Segment, Table, Version};
use plexus_storage::{SegmentReader, on_mapped};

use crate::search::snapshot::context::SearchContext;

/// A segment and its rows that the version does not see.
#[derive(Clone, Debug)]
pub struct SegmentView {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Rows that are deleted or newer than the version.
    pub invisible: Arc<RowSet>,
}

impl SegmentView {
    /// How many rows the version sees.
    pub(crate) fn live(&self) -> u64 {
        self.segment.rows - self.invisible.len()
    }
}

/// A version of a table as a search reads it.
#[derive(Clone)]
pub struct SearchSnapshot {
    pub(crate) table: Arc<Table>,
    pub(crate) version: Version,
    pub(crate) context: SearchContext,
    /// The segments, with what the version does not see of each.
    pub views: Arc<Vec<SegmentView>>,
    /// Id of the query that searches, for logs.
    pub(crate) query_id: String,
    /// For each view the nodes that hold its segment, if this node does not. Set on first use.
    pub(crate) remote_replicas: OnceLock<Vec<Option<Vec<NodeId>>>>,
}

impl fmt::Debug for SearchSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchSnapshot")
            .field("table", &self.table.name)
            .field("version", &self.version)
            .finish()
    }
}

impl SearchSnapshot {
    /// A snapshot of some segments of a table.
    pub(crate) fn of(
        table: Arc<Table>,
        version: Version,
        context: SearchContext,
        views: Vec<SegmentView>,
    ) -> Self {
        Self {
            table,
            version,
            context,
            views: Arc::new(views),
            query_id: String::new(),
            remote_replicas: OnceLock::new(),
        }
    }

    /// A snapshot of all segments that have visible rows.
    ///
    /// # Errors
    /// When a deletion vector cannot be read.
    pub(crate) async fn open(table: Arc<Table>, version: Version, context: SearchContext) -> Result<Self> {
        let mut views = Vec::new();
        for segment in table.visible(version) {
            let invisible = context.reader.invisible_rows(&table, segment, version).await;
            let invisible = invisible.map_err(|e| e.context(format!("segment {}", segment.id)))?;
            if invisible.len() < segment.rows {
                views.push(SegmentView { segment: segment.clone(), invisible });
            }
        }
        Ok(Self::of(table, version, context, views))
    }

    /// The same snapshot, with the id of the query that searches it.
    pub(crate) fn for_query(self, query_id: String) -> Self {
        Self { query_id, ..self }
    }

    /// Reads segments of the snapshot.
    pub(crate) fn reads(&self) -> &SegmentReader {
        &self.context.reader
    }

    /// The position of a column, given by its id.
    ///
    /// # Errors
    /// `Internal` when the table has no such column.
    pub(crate) fn column_position(&self, id: u32) -> Result<usize> {
        let position = self.table.schema.columns.iter().position(|c| c.id == id);
        position.ok_or_else(|| Error::internal(format!("table {} has no column {id}", self.table.name)))
    }
}

/// Runs long computations on a blocking thread, off the async threads.
///
/// # Errors
/// What `work` fails with. `Internal` when it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(inherit_in(|| on_mapped(work)))
        .await
        .map_err(|e| Error::internal(format!("a search was interrupted: {e}")))?
}
