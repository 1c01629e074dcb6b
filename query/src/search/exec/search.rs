//! Runs search requests: filter, retrievers, fusion, grouping and paging.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::row::{Row, RowConverter, SortField};
use datafusion::catalog::Session;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::Expr;
use plexus_model::{Error, Metric, Result, RowSet};

use crate::context::external;
use crate::search::exec::cursor::SEEN_MAX;
use crate::search::exec::fetch::fetch;
use crate::search::exec::filter::Filter;
use crate::search::exec::fusion::{RetrieverRank, fuse};
use crate::search::exec::pages::continued;
use crate::search::exec::report::{note_retriever, note_rows};
use crate::search::exec::request::{GroupBy, Request};
use crate::search::exec::retriever::{Retriever, run, run_all};
use crate::search::exec::tie_break::TieBreaker;
use crate::search::hit::{Hit, Ranking};
use crate::search::params::SearchParams;
use crate::search::remote::protocol::{ShardRequest, ShardResponse};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;

/// A row of the result.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct ScoredRow {
    pub hit: Hit,
    /// The score of the whole search, where higher is better.
    pub score: f64,
    /// Its rank in each retriever that found it.
    pub ranks: Vec<Option<RetrieverRank>>,
}

/// Runs the requests of one call over the selected rows. They differ only in their queries. Returns the rows
/// of each, the best first.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn search_all(
    snapshot: &SearchSnapshot,
    state: &dyn Session,
    requests: &[Request],
    selections: &RowSelections,
) -> Result<Vec<Vec<ScoredRow>>, DataFusionError> {
    note_rows(state, snapshot, selections);
    let retrievers: Option<Vec<&Retriever>> = requests
        .iter()
        .map(|request| match request.retrievers.as_slice() {
            [(retriever, _)]
                if request.group_by.is_none() && request.offset == 0 && request.diversity.is_none() =>
            {
                Some(retriever)
            }
            _ => None,
        })
        .collect();
    let mut found = Vec::with_capacity(requests.len());
    match (retrievers, requests) {
        (Some(retrievers), [first, _, ..]) => {
            let (params, page) = (params(state, first), Page::new(first));
            note_retriever(state, snapshot, retrievers[0], selections, page.end, params);
            let rankings =
                run_all(snapshot, &retrievers, selections, page.end, params).await.map_err(external)?;
            found.extend(
                retrievers
                    .into_iter()
                    .zip(rankings)
                    .map(|(retriever, ranking)| page.cut(reaching(first, ranked(retriever, ranking)))),
            );
        }
        _ => {
            // One request after the other, since each of them uses all threads.
            for request in requests {
                found.push(search(snapshot, state, request, selections).await?);
            }
        }
    }
    Ok(found)
}

/// The parameters for the retrievers of a request.
fn params(state: &dyn Session, request: &Request) -> SearchParams {
    let mut params = SearchParams::of(state);
    // The result of a vector index depends on `k` and on when the index was built, so pages would overlap.
    params.exact |= request.paged;
    params
}

/// Runs one request over the selected rows.
async fn search(
    snapshot: &SearchSnapshot,
    state: &dyn Session,
    request: &Request,
    selections: &RowSelections,
) -> Result<Vec<ScoredRow>, DataFusionError> {
    let params = params(state, request);
    let page = Page::new(request);
    let reported = if request.retrievers.len() == 1 { page.end } else { request.fused() };
    request
        .retrievers
        .iter()
        .for_each(|(retriever, _)| note_retriever(state, snapshot, retriever, selections, reported, params));
    if let Some(diversity) = request.diversity {
        let candidates = rank(snapshot, request, selections, request.fused(), params).await;
        let candidates = reaching(request, candidates.map_err(external)?);
        let pool = &state.runtime_env().memory_pool;
        return diversity.select(snapshot, pool, candidates, request.k).await.map_err(external);
    }
    let mut depth = page.end;
    loop {
        let ranked = rank(snapshot, request, selections, depth, params).await.map_err(external)?;
        let ranked_rows = ranked.len();
        let reaching = reaching(request, ranked);
        let exhausted = reaching.len() < ranked_rows || ranked_rows < depth;
        let found = match request.group_by {
            Some(group) => best_of_groups(snapshot, state, reaching, group).await.map_err(external)?,
            None => reaching,
        };
        // There are too few groups so far, and rows further down may belong to other groups: rank more rows.
        if found.len() >= page.end || exhausted || request.retrievers.len() > 1 || depth >= SEEN_MAX {
            return Ok(page.cut(found));
        }
        depth = depth.saturating_mul(4);
    }
}

/// The rows that satisfy all filters, or all visible rows if there are no filters.
///
/// # Errors
/// When a filter cannot be compiled or evaluated, or a segment cannot be read.
pub(crate) async fn select_rows(
    snapshot: &SearchSnapshot,
    state: &dyn Session,
    filters: &[Expr],
) -> Result<RowSelections, DataFusionError> {
    let Some(filter) = Filter::new(snapshot, state, filters)? else {
        return Ok(RowSelections::all(snapshot));
    };
    let mut rows: Vec<Option<Arc<RowSet>>> =
        snapshot.views.iter().map(|view| filter.known(snapshot, view)).collect();
    let unknown: Vec<u32> = (0..).zip(&rows).filter(|(_, rows)| rows.is_none()).map(|(at, _)| at).collect();
    let local = |views: Vec<u32>| {
        let filter = &filter;
        async move {
            let mut found = Vec::with_capacity(views.len());
            for view in views {
                // The inner result keeps an error of DataFusion as it is.
                let rows = filter.rows(snapshot, &snapshot.views[view as usize]).await;
                found.push((view, rows));
            }
            Ok(found)
        }
    };
    let decode = |response: ShardResponse, views: &[u32]| {
        let sets = response.into_sets(snapshot, views)?;
        Ok(sets.into_iter().map(|(view, rows)| (view, Ok(rows))).collect())
    };
    let row_sets = scatter_gather(snapshot, unknown, |_| ShardRequest::filter(filters), local, decode).await;
    for (view, found) in row_sets.map_err(external)?.into_iter().flatten() {
        let found = found?;
        filter.remember(snapshot, &snapshot.views[view as usize], &found);
        rows[view as usize] = Some(found);
    }
    let rows = rows.into_iter().map(Option::unwrap_or_default).collect();
    Ok(RowSelections::only(rows))
}

/// The rows of a ranking that reach the threshold of their request. The others are behind them.
fn reaching(request: &Request, mut ranked: Vec<ScoredRow>) -> Vec<ScoredRow> {
    if let Some(threshold) = request.threshold {
        ranked.retain(|row| threshold.is_reached(row));
    }
    ranked
}

/// The range of the ranking that is returned.
struct Page {
    start: usize,
    end: usize,
}

impl Page {
    fn new(request: &Request) -> Self {
        let start = request.offset + request.search_after.map_or(0, |cursor| cursor.seen);
        Self { start, end: start + request.k }
    }

    /// The rows of the page.
    fn cut(&self, found: Vec<ScoredRow>) -> Vec<ScoredRow> {
        found.into_iter().skip(self.start).take(self.end - self.start).collect()
    }
}

/// Ranks the rows by all retrievers, with at least the best `depth` rows if there are that many.
async fn rank(
    snapshot: &SearchSnapshot,
    request: &Request,
    selections: &RowSelections,
    depth: usize,
    params: SearchParams,
) -> Result<Vec<ScoredRow>> {
    if let [(retriever, _)] = request.retrievers.as_slice() {
        let ranking = match request.offset {
            0 => run(snapshot, retriever, selections, depth, params).await?,
            _ => continued(snapshot, retriever, selections, (request.k, depth), params).await?,
        };
        return Ok(ranked(retriever, ranking));
    }
    let mut ranking = rank_fused(snapshot, request, selections, request.fused(), params).await?;
    // A page past the candidates extends their ranking: ranking anew would repeat rows of earlier pages and
    // miss others.
    for candidates in DEEP_CANDIDATES {
        if ranking.len() >= depth || candidates <= request.fused() {
            break;
        }
        let exact = SearchParams { exact: true, ..params };
        let seen: HashSet<Hit> = ranking.iter().map(|row| row.hit).collect();
        let deeper = rank_fused(snapshot, request, selections, candidates, exact).await?;
        ranking.extend(deeper.into_iter().filter(|row| !seen.contains(&row.hit)));
    }
    Ok(ranking)
}

/// Rows of each retriever that are fused for what follows the top of a ranking: enough for the largest offset
/// and page, then for the last page that a cursor reaches.
const DEEP_CANDIDATES: [usize; 2] = [20_000, SEEN_MAX];

/// Fuses the best rows of all retrievers.
async fn rank_fused(
    snapshot: &SearchSnapshot,
    request: &Request,
    selections: &RowSelections,
    candidates: usize,
    params: SearchParams,
) -> Result<Vec<ScoredRow>> {
    let runs = request
        .retrievers
        .iter()
        .map(|(retriever, _)| run(snapshot, retriever, selections, candidates, params));
    let rankings: Vec<Ranking> = futures::future::try_join_all(runs).await?;
    let weights: Vec<f64> = request.retrievers.iter().map(|(_, weight)| *weight).collect();
    let comparable = |retriever: usize, score| retriever_score(&request.retrievers[retriever].0, score);
    let mut fused: Vec<ScoredRow> = fuse(&rankings, &weights, request.fusion, comparable)
        .into_iter()
        .map(|fused| ScoredRow { hit: fused.item, score: fused.score, ranks: fused.ranks })
        .collect();
    let mut tied: BTreeMap<u32, RowSet> = BTreeMap::new();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score));
    // Ties matter up to the last row of the page. With groups, or after other rows, any row may be on it.
    let is_top = request.group_by.is_none() && candidates == request.fused();
    let end = if is_top { Page::new(request).end } else { usize::MAX };
    let last = end.checked_sub(1).and_then(|last| fused.get(last)).map(|last| last.score);
    let counts = |found: &ScoredRow| last.is_none_or(|last| found.score >= last);
    for pair in
        fused.windows(2).take_while(|pair| counts(&pair[0])).filter(|pair| pair[0].score == pair[1].score)
    {
        for found in pair {
            tied.entry(found.hit.view).or_default().insert(found.hit.row);
        }
    }
    let ties = TieBreaker::new(snapshot, tied).await?;
    fused.sort_by(|a, b| ties.compare((a.score, a.hit), (b.score, b.hit)));
    Ok(fused)
}

/// The ranking of a search with a single retriever.
fn ranked(retriever: &Retriever, ranking: Ranking) -> Vec<ScoredRow> {
    let row = |(rank, (score, hit)): (u32, (f32, Hit))| ScoredRow {
        hit,
        score: retriever_score(retriever, score),
        ranks: vec![Some(RetrieverRank { rank, score })],
    };
    (1..).zip(ranking).map(row).collect()
}

/// The score of a row in one retriever, where higher is better: BM25 for text; the cosine similarity, the
/// inner product, or `1 / (1 + distance)` for vectors. `score` is BM25 or the negated distance.
fn retriever_score(retriever: &Retriever, score: f32) -> f64 {
    match retriever {
        Retriever::Text { .. } => f64::from(score),
        Retriever::Vector { query, .. } => similarity(query.metric(), score),
    }
}

/// How alike two vectors are with a negated distance: their cosine, inner product, or `1 / (1 + distance)`.
pub(crate) fn similarity(metric: Metric, score: f32) -> f64 {
    let score = f64::from(score);
    match metric {
        Metric::Cosine => 1.0 + score,
        Metric::Dot => score,
        Metric::L2 => 1.0 / (1.0 - score),
    }
}

/// The first rows of each value of a column. The ranking order stays.
async fn best_of_groups(
    snapshot: &SearchSnapshot,
    state: &dyn Session,
    found: Vec<ScoredRow>,
    group: GroupBy,
) -> Result<Vec<ScoredRow>> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("grouping: {e}")).with_source(e);
    let hits: Vec<Hit> = found.iter().map(|f| f.hit).collect();
    let values = fetch(snapshot, &state.runtime_env().memory_pool, &hits, &[group.column]).await?;
    let sort = SortField::new(values.column(0).data_type().clone());
    let converter = RowConverter::new(vec![sort]).map_err(failed)?;
    let rows = converter.convert_columns(values.columns()).map_err(failed)?;
    let mut sizes: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut counts = |row: Row<'_>| {
        let size = sizes.entry(row.as_ref().to_vec()).or_default();
        *size += 1;
        *size <= group.size
    };
    let first: Vec<bool> = rows.iter().map(&mut counts).collect();
    Ok(found.into_iter().zip(first).filter_map(|(found, first)| first.then_some(found)).collect())
}
