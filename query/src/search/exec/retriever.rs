//! TODO module docs.

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
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::snapshot::SearchSnapshot;
use crate::search::snapshot::text_fields::TextFields;

/// One question.
#[derive(Clone, Debug)]
pub enum Retriever {
    Text {
        fields: TextFields,
        query: TextQuery,
    },
    /// `column` by its id.
    Vector {
        column: u32,
        query: VectorQuery,
        /// Candidates of a walk, unless it is as the session has it.
        ef: Option<usize>,
    },
}

/// The best `k` rows, in an order that depends on the rows alone: equals by their primary keys where the table has
/// one, and otherwise by where they are.
pub async fn run(
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Ranking> {
    break_ties(snapshot, best(snapshot, retriever, selections, k, params).await?, k).await
}

/// The best `k` rows and those that are equal to the last of them, of vectors as far as a graph leads to them.
pub async fn best(
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
            let asked = BoundRetriever::full_text(fields.clone(), query.clone(), statistics);
            search_segments(snapshot, &asked, selections, k, params).await?
        }
        Retriever::Vector { column, query, ef } => {
            let asked = BoundRetriever::nearest(*column, vec![query.clone()]);
            search_segments(snapshot, &asked, selections, k, params.with(*ef)).await?
        }
    };
    Ok(found.into_iter().next().unwrap_or_default())
}

/// The best `k` rows by each of several retrievers, as [`run`] gives them for one. What is asked of vectors alone is looked for
/// together, so that it costs little more than the params.
pub async fn run_all(
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
            // A share of them for each thread.
            let shares = vectors.chunks(vectors.len().div_ceil(params.threads.max(1)).max(1)).map(|share| {
                let queries = share.iter().map(|(.., query)| query.clone()).collect();
                let asked = BoundRetriever::nearest(share[0].0, queries);
                async move { search_segments(snapshot, &asked, selections, k, params.with(share[0].1)).await }
            });
            for found in futures::future::try_join_all(shares).await?.into_iter().flatten() {
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

/// The best `k` rows by each question and those that are equal to the last of them.
pub async fn search_segments(
    snapshot: &SearchSnapshot,
    asked: &BoundRetriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Vec<Ranking>> {
    let views = (0..snapshot.views.len() as u32).filter(|view| !selections.is_empty(*view as usize));
    let question = |views: &[u32]| asked.question(RetrievalParams::new(k, params, selections, views));
    let here = |views| search_local(snapshot, views, asked, selections, k, params);
    let read = |answer: ShardResponse, views: &[u32]| answer.into_hits(snapshot, views, asked.questions());
    let mut shares = scatter_gather(snapshot, views, question, here, read).await?;
    if shares.len() == 1 {
        return Ok(shares.swap_remove(0));
    }
    let mut best: Vec<TopK<Hit>> = (0..asked.questions()).map(|_| TopK::new(k)).collect();
    for share in shares {
        for (top, hits) in best.iter_mut().zip(share) {
            for (score, hit) in hits {
                top.push(score, hit);
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_sorted).collect())
}
