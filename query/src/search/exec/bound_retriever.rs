//! TODO module docs.

use std::sync::Arc;

use plexus_index::VectorQuery;
use plexus_index::text::{GlobalStatistics, TextQuery, TextSearch};

use crate::search::remote::protocol::{RetrievalParams, ShardRequest};
use crate::search::snapshot::text_fields::TextFields;

/// What is asked of every view.
pub enum BoundRetriever {
    FullText {
        fields: TextFields,
        query: TextQuery,
        statistics: GlobalStatistics,
        search: Arc<TextSearch>,
    },
    /// Each query is a question of its own; they are of the same metric.
    Nearest {
        column: u32,
        queries: Arc<Vec<VectorQuery>>,
    },
}

impl BoundRetriever {
    pub fn full_text(fields: TextFields, query: TextQuery, statistics: GlobalStatistics) -> Self {
        let search = Arc::new(TextSearch::new(&query, fields.columns.len(), &statistics));
        Self::FullText { fields, query, statistics, search }
    }

    pub fn nearest(column: u32, queries: Vec<VectorQuery>) -> Self {
        Self::Nearest { column, queries: Arc::new(queries) }
    }

    pub fn questions(&self) -> usize {
        match self {
            Self::FullText { .. } => 1,
            Self::Nearest { queries, .. } => queries.len(),
        }
    }

    /// As others are asked.
    pub fn question(&self, look: RetrievalParams) -> Option<ShardRequest> {
        match self {
            Self::FullText { fields, query, statistics, .. } => Some(ShardRequest::FullText {
                fields: fields.into(),
                query: query.clone(),
                statistics: statistics.into(),
                look,
            }),
            Self::Nearest { column, queries } => Some(ShardRequest::Nearest {
                column: *column,
                metric: queries.first()?.metric(),
                vectors: queries.iter().map(|query| query.vector().to_vec()).collect(),
                look,
            }),
        }
    }
}
