//! Searches segments on this node: in parallel, with a score threshold that they share.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use plexus_index::graph::Strategy;
use plexus_index::text::{GlobalStatistics, TextIndex, TextQuery, TextSearch};
use plexus_index::{TopK, VectorQuery};
use plexus_model::{Result, RowSelection, RowSet};

use crate::search::exec::bound_retriever::BoundRetriever;
use crate::search::exec::nearest::{Nearest, VectorSource};
use crate::search::hit::{Hit, Ranking};
use crate::search::params::SearchParams;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::text_fields::TextFields;
use crate::search::snapshot::{SearchSnapshot, blocking};

/// Ranks the rows of some segments with segments read on this node. Returns one ranking for each query.
///
/// # Errors
/// When a segment or one of its indexes cannot be read.
pub(crate) async fn search_local(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    retriever: &BoundRetriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Vec<Ranking>> {
    let query_count = retriever.query_count();
    match retriever {
        BoundRetriever::FullText { fields, search, .. } => {
            let read = |view: u32| async move { snapshot.text(&snapshot.views[view as usize], fields).await };
            let text_search = search.clone();
            let search =
                move |index: TextIndex, selection: &RowSelection, tops: &mut [TopK<Hit>], view: u32| {
                    tops.iter_mut().try_for_each(|top| {
                        let threshold = top.threshold();
                        text_search.run(&index, selection, k, threshold, &mut |hit| {
                            top.push(hit.score, Hit { view, row: hit.row })
                        })
                    })
                };
            for_each_segment(views, selections, (k, query_count), params, read, search).await
        }
        BoundRetriever::Nearest { column, queries } => {
            let Some(metric) = queries.first().map(VectorQuery::metric) else {
                return Ok(vec![]);
            };
            let column = *column;
            let read = |view: u32| async move {
                let strategy = selections.strategy(snapshot, view as usize, k, params.beam.estimate());
                let exact = params.exact || strategy == Strategy::BruteForce;
                let view = &snapshot.views[view as usize];
                let graph = if exact { None } else { snapshot.graph(view, column, metric).await? };
                Ok((snapshot.vectors(view, column).await?, graph))
            };
            let (caches, queries) = (snapshot.context.caches.clone(), queries.clone());
            let search = move |(vectors, graph): VectorSource,
                               selection: &RowSelection,
                               tops: &mut [TopK<Hit>],
                               view: u32| {
                for (query, top) in queries.iter().zip(tops) {
                    let nearest = Nearest { vectors: &vectors, query, k, beam: params.beam };
                    let found = |distance: f32, row: u32| {
                        top.push(-distance, Hit { view, row });
                    };
                    match &graph {
                        Some(graph) => nearest.search_graph(graph, selection, &caches, found),
                        None => nearest.brute_force(selection, found),
                    }
                }
                Ok(())
            };
            for_each_segment(views, selections, (k, query_count), params, read, search).await
        }
    }
}

/// Reads what the search of each segment needs, searches it, and merges the hits: the best `k` of each query.
///
/// `read` runs on the async threads and `search` on a blocking thread.
async fn for_each_segment<T, R, F>(
    views: Vec<u32>,
    selections: &RowSelections,
    (k, query_count): (usize, usize),
    params: SearchParams,
    read: impl Fn(u32) -> R,
    search: F,
) -> Result<Vec<Ranking>>
where
    T: Send + 'static,
    R: Future<Output = Result<T>>,
    F: Fn(T, &RowSelection, &mut [TopK<Hit>], u32) -> Result<()> + Clone + Send + 'static,
{
    let tops = move || -> Vec<TopK<Hit>> { (0..query_count).map(|_| TopK::new(k)).collect() };
    // A row that is worse than the k-th best of one segment is not among the k best of all segments.
    let thresholds = Arc::new(Mutex::new(vec![f32::NEG_INFINITY; query_count]));
    let found = views.into_iter().map(|view| {
        let (read, search, selection) = (read(view), search.clone(), selections.get(view as usize).clone());
        let thresholds = thresholds.clone();
        async move {
            let read = read.await?;
            blocking(move || {
                let mut tops = tops();
                let lock = || thresholds.lock().expect("no code panics while it holds this lock");
                tops.iter_mut().zip(lock().iter()).for_each(|(top, least)| top.raise_threshold(*least));
                search(read, &selection, &mut tops, view)?;
                lock().iter_mut().zip(&tops).for_each(|(least, top)| *least = least.max(top.threshold()));
                Ok(tops.into_iter().map(TopK::into_sorted).collect::<Vec<_>>())
            })
            .await
        }
    });
    // One segment per thread, since what a search reads stays in memory until it ends.
    let mut found = stream::iter(found).buffer_unordered(params.threads.max(1));
    let mut best = tops();
    while let Some(hits) = found.try_next().await? {
        for (top, hits) in best.iter_mut().zip(hits) {
            for (score, hit) in hits {
                top.push(score, hit);
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_sorted).collect())
}

/// The rows of some segments that match a full-text query, read on this node. Invisible rows are included.
///
/// # Errors
/// When a segment or its text index cannot be read.
pub(crate) async fn matching(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<Vec<Arc<RowSet>>> {
    let search = TextSearch::new(query, fields.count(), &GlobalStatistics::default());
    let search = Arc::new(search);
    let mut rows = Vec::with_capacity(views.len());
    for view in views {
        let index = snapshot.text(&snapshot.views[view as usize], fields).await?;
        let search = search.clone();
        rows.push(Arc::new(blocking(move || search.matching_rows(&index)).await?));
    }
    Ok(rows)
}
