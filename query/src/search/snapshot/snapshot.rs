//! TODO module docs.

use std::fmt;
use std::sync::{Arc, OnceLock};

use plexus_model::{Error, NodeId, Result, RowSet, Segment, Table, Version};
use plexus_storage::SegmentReader;

use crate::search::snapshot::context::SearchContext;

/// A segment and what of it a version does not see.
#[derive(Clone, Debug)]
pub struct SegmentView {
    pub segment: Arc<Segment>,
    pub invisible: Arc<RowSet>,
}

impl SegmentView {
    /// How many rows the version sees.
    pub fn live(&self) -> u64 {
        self.segment.rows - self.invisible.len()
    }
}

/// A version of a table, as searches see it.
#[derive(Clone)]
pub struct SearchSnapshot {
    pub table: Arc<Table>,
    pub version: Version,
    pub context: SearchContext,
    pub views: Arc<Vec<SegmentView>>,
    /// Of the query that searches, for logs.
    pub query_id: String,
    /// Of each view the nodes that keep it, if this one does not; once that is known.
    pub remote_replicas: OnceLock<Vec<Option<Vec<NodeId>>>>,
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
    /// Some segments of a table.
    pub fn of(table: Arc<Table>, version: Version, context: SearchContext, views: Vec<SegmentView>) -> Self {
        Self {
            table,
            version,
            context,
            views: Arc::new(views),
            query_id: String::new(),
            remote_replicas: OnceLock::new(),
        }
    }

    pub async fn open(table: Arc<Table>, version: Version, context: SearchContext) -> Result<Self> {
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

    /// The same for a query.
    pub fn for_query(self, query_id: String) -> Self {
        Self { query_id, ..self }
    }

    pub fn reads(&self) -> &SegmentReader {
        &self.context.reader
    }

    pub fn column_place(&self, id: u32) -> Result<usize> {
        let place = self.table.schema.columns.iter().position(|c| c.id == id);
        place.ok_or_else(|| Error::internal(format!("table {} has no column {id}", self.table.name)))
    }
}

/// Work that takes a while, off the async threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("a search was interrupted: {e}")))?
}
