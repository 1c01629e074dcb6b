//! Retrievers: each ranks the rows of all segments by one query.

use plexus_index::text::TextQuery;
use plexus_index::{TopK, VectorQuery};
use plexus_model::{Metric, Result};

use crate::search::exec::bound_retriever::BoundRetriever;
use crate::search::exec::local::search_local;
use crate::search::exec::statistics::statistics;
use crate::search::exec::tie_break::break_ties;
use crate::search::hit::{Hit, Ranking};
use crate::search::params::SearchParams;
use crate::search::remote::protocol::{RetrievalParams, ShardResponse};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::text_fields::TextFields;

/// One query of a search.
#[derive(Clone, Debug)]
pub(crate) enum Retriever {
    /// Ranks rows by BM25.
    Text { fields: TextFields, query: TextQuery },
    /// Ranks rows by the distance from a vector.
    Vector {
        /// Id of the column.
        column: u32,
        query: VectorQuery,
        /// Beam width of a graph search, if it overrides the setting of the session.
        ef: Option<usize>,
    },
}

/// The best `k` rows in the order of [`TieBreaker`](super::tie_break::TieBreaker), which depends on the rows
/// alone.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn run(
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Ranking> {
    break_ties(snapshot, best(snapshot, retriever, selections, k, params).await?, k).await
}

/// The best `k` rows and all that tie with the last of them. With a vector index, the result is approximate.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn best(
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Ranking> {
    if k == 0 {
        return Ok(vec![]);
    }
    let found = match retriever {
        Retriever::Text { fields, query } => {
            let statistics = statistics(snapshot, fields, query).await?;
            let bound = BoundRetriever::full_text(fields.clone(), query.clone(), statistics);
            search_segments(snapshot, &bound, selections, k, params).await?
        }
        Retriever::Vector { column, query, ef } => {
            let bound = BoundRetriever::nearest(*column, vec![query.clone()]);
            search_segments(snapshot, &bound, selections, k, params.with(*ef)).await?
        }
    };
    Ok(found.into_iter().next().unwrap_or_default())
}

/// The best `k` rows by each of several retrievers, as [`run`] returns them for one. Vector queries that
/// differ only in their vector are searched together, so that each segment is read once.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn run_all(
    snapshot: &SearchSnapshot,
    retrievers: &[&Retriever],
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Vec<Ranking>> {
    let vector = |retriever: &&Retriever| match retriever {
        Retriever::Vector { column, query, ef } => Some((*column, *ef, query.metric(), query.clone())),
        Retriever::Text { .. } => None,
    };
    let vectors: Option<Vec<_>> = retrievers.iter().map(vector).collect();
    let same = |all: &&Vec<(u32, Option<usize>, Metric, VectorQuery)>| {
        k > 0
            && all
                .windows(2)
                .all(|pair| (pair[0].0, pair[0].1, pair[0].2) == (pair[1].0, pair[1].1, pair[1].2))
    };
    let mut rankings = Vec::with_capacity(retrievers.len());
    match vectors.as_ref().filter(same) {
        Some(vectors) => {
            // The queries are split evenly over the threads.
            let batches = vectors.chunks(vectors.len().div_ceil(params.threads.max(1)).max(1)).map(|batch| {
                let queries = batch.iter().map(|(.., query)| query.clone()).collect();
                let bound = BoundRetriever::nearest(batch[0].0, queries);
                async move { search_segments(snapshot, &bound, selections, k, params.with(batch[0].1)).await }
            });
            for found in futures::future::try_join_all(batches).await?.into_iter().flatten() {
                rankings.push(break_ties(snapshot, found, k).await?);
            }
        }
        None => {
            for retriever in retrievers {
                rankings.push(run(snapshot, retriever, selections, k, params).await?);
            }
        }
    }
    Ok(rankings)
}

/// The best `k` rows by each query of a retriever and all that tie with the last of them, from all segments.
async fn search_segments(
    snapshot: &SearchSnapshot,
    bound: &BoundRetriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Vec<Ranking>> {
    let views = (0..snapshot.views.len() as u32).filter(|view| !selections.is_empty(*view as usize));
    let request = |views: &[u32]| bound.to_request(RetrievalParams::new(k, params, selections, views));
    let local = |views| search_local(snapshot, views, bound, selections, k, params);
    let decode =
        |response: ShardResponse, views: &[u32]| response.into_hits(snapshot, views, bound.query_count());
    let mut rankings = scatter_gather(snapshot, views, request, local, decode).await?;
    if rankings.len() == 1 {
        return Ok(rankings.swap_remove(0));
    }
    let mut best: Vec<TopK<Hit>> = (0..bound.query_count()).map(|_| TopK::new(k)).collect();
    for ranking in rankings {
        for (top, hits) in best.iter_mut().zip(ranking) {
            for (score, hit) in hits {
                top.push(score, hit);
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_sorted).collect())
}
