//! Pages of a ranking by one retriever.
//!
//! An index finds more of the nearest vectors when more are wanted, so that rankings of different depths are
//! no prefixes of each other. Pages of `k` rows are cut from one ranking instead: what the index finds for
//! the first of them, and exact results after that.

use std::collections::HashSet;

use plexus_model::Result;

use crate::search::exec::retriever::{Retriever, best, run};
use crate::search::hit::{Hit, Ranking};
use crate::search::params::SearchParams;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;

/// The first `depth` rows for pages of `k` rows: what the index finds, and after that the other rows by their
/// exact scores.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn continued(
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    (k, depth): (usize, usize),
    params: SearchParams,
) -> Result<Ranking> {
    let first = indexed_depth(retriever, k, params).unwrap_or(depth);
    let mut ranking = run(snapshot, retriever, selections, first, params).await?;
    if ranking.len() < depth && first < depth {
        let exact = SearchParams { exact: true, ..params };
        let seen = hits_of(&ranking);
        let all = run(snapshot, retriever, selections, depth, exact).await?;
        ranking.extend(all.into_iter().filter(|(_, hit)| !seen.contains(hit)));
    }
    ranking.truncate(depth);
    Ok(ranking)
}

/// At least `depth` rows for pages of `k` rows that are sorted by their exact scores afterwards, with all
/// that tie with the last of them. A near row that the index missed is on no page: it would move the others.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn sorted_pages(
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    (k, depth): (usize, usize),
    params: SearchParams,
) -> Result<Ranking> {
    let Some(first) = indexed_depth(retriever, k, params) else {
        return best(snapshot, retriever, selections, depth, params).await;
    };
    let mut ranking = best(snapshot, retriever, selections, first, params).await?;
    let last = ranking.last().map(|(score, _)| *score);
    if ranking.len() < depth && first < depth {
        let exact = SearchParams { exact: true, ..params };
        let seen = hits_of(&ranking);
        let all = best(snapshot, retriever, selections, depth + first, exact).await?;
        let is_after = |score: f32| last.is_none_or(|last| score < last);
        ranking.extend(all.into_iter().filter(|(score, hit)| is_after(*score) && !seen.contains(hit)));
    }
    Ok(ranking)
}

/// How many rows an index is asked for, for pages of `k` rows. `None` if the results are exact.
fn indexed_depth(retriever: &Retriever, k: usize, params: SearchParams) -> Option<usize> {
    match retriever {
        Retriever::Vector { ef, .. } if !params.exact => Some(params.with(*ef).beam.estimate().max(k)),
        _ => None,
    }
}

fn hits_of(ranking: &Ranking) -> HashSet<Hit> {
    ranking.iter().map(|(_, hit)| *hit).collect()
}
