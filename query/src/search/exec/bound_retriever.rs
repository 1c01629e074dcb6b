//! Retrievers that are ready to search segments, here or on another node.

use std::sync::Arc;

use plexus_index::VectorQuery;
use plexus_index::text::{GlobalStatistics, TextQuery, TextSearch};

use crate::search::remote::protocol::{RetrievalParams, ShardRequest};
use crate::search::snapshot::text_fields::TextFields;

/// A retriever with all that the search of a single segment needs, such as the statistics of the whole table.
pub(crate) enum BoundRetriever {
    /// Ranks rows by BM25.
    FullText { fields: TextFields, query: TextQuery, statistics: GlobalStatistics, search: Arc<TextSearch> },
    /// Ranks rows by their distance from each of several vectors, all with the same metric.
    Nearest { column: u32, queries: Arc<Vec<VectorQuery>> },
}

impl BoundRetriever {
    /// A full-text retriever that scores with the statistics of the whole table.
    pub(crate) fn full_text(fields: TextFields, query: TextQuery, statistics: GlobalStatistics) -> Self {
        let search = Arc::new(TextSearch::new(&query, fields.count(), &statistics));
        Self::FullText { fields, query, statistics, search }
    }

    /// A retriever of the nearest vectors in the column with this id.
    pub(crate) fn nearest(column: u32, queries: Vec<VectorQuery>) -> Self {
        Self::Nearest { column, queries: Arc::new(queries) }
    }

    /// How many rankings it produces.
    pub(crate) fn query_count(&self) -> usize {
        match self {
            Self::FullText { .. } => 1,
            Self::Nearest { queries, .. } => queries.len(),
        }
    }

    /// The request for another node; `None` when there is no query.
    pub(crate) fn to_request(&self, params: RetrievalParams) -> Option<ShardRequest> {
        match self {
            Self::FullText { fields, query, statistics, .. } => Some(ShardRequest::FullText {
                fields: fields.into(),
                query: query.clone(),
                statistics: statistics.into(),
                params,
            }),
            Self::Nearest { column, queries } => Some(ShardRequest::Nearest {
                column: *column,
                metric: queries.first()?.metric(),
                vectors: queries.iter().map(|query| query.vector().to_vec()).collect(),
                params,
            }),
        }
    }
}
