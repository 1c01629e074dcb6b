//! TODO module docs.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use plexus_index::graph::Strategy;
use plexus_index::text::{GlobalStatistics, TextIndex, TextQuery, TextSearch};
use plexus_index::{TopK, VectorQuery};
use plexus_model::{Result, RowSelection, RowSet};

use crate::search::exec::bound_retriever::BoundRetriever;
use crate::search::exec::nearest::{Nearest, VectorsOf};
use crate::search::hit::{Hit, Ranking};
use crate::search::params::SearchParams;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::snapshot::{SearchSnapshot, blocking};
use crate::search::snapshot::text_fields::TextFields;

/// The same of some views, by this node.
pub async fn search_local(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    asked: &BoundRetriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) -> Result<Vec<Ranking>> {
    let questions = asked.questions();
    match asked {
        BoundRetriever::FullText { fields, search, .. } => {
            let read = |view: u32| async move { snapshot.text(&snapshot.views[view as usize], fields).await };
            let search = search.clone();
            let look = move |index: TextIndex, accepted: &RowSelection, tops: &mut [TopK<Hit>], view: u32| {
                tops.iter_mut().try_for_each(|top| {
                    let threshold = top.threshold();
                    search.run(&index, accepted, k, threshold, &mut |hit| {
                        top.push(hit.score, Hit { view, row: hit.row })
                    })
                })
            };
            for_each_segment(views, selections, (k, questions), params, read, look).await
        }
        BoundRetriever::Nearest { column, queries } => {
            let Some(metric) = queries.first().map(VectorQuery::metric) else {
                return Ok(vec![]);
            };
            let column = *column;
            let read = |view: u32| async move {
                let strategy = selections.strategy(snapshot, view as usize, k, params.ef);
                let exact = params.exact || strategy == Strategy::BruteForce;
                let view = &snapshot.views[view as usize];
                let graph = if exact { None } else { snapshot.graph(view, column, metric).await? };
                Ok((snapshot.vectors(view, column).await?, graph))
            };
            let (caches, queries) = (snapshot.context.caches.clone(), queries.clone());
            let look = move |(vectors, graph): VectorsOf,
                             accepted: &RowSelection,
                             tops: &mut [TopK<Hit>],
                             view: u32| {
                for (query, top) in queries.iter().zip(tops) {
                    let nearest = Nearest { vectors: &vectors, query, k, beam: params.ef };
                    let found = |distance: f32, row: u32| {
                        top.push(-distance, Hit { view, row });
                    };
                    match &graph {
                        Some(graph) => nearest.walk(graph, accepted, &caches, found),
                        None => nearest.all(accepted, found),
                    }
                }
                Ok(())
            };
            for_each_segment(views, selections, (k, questions), params, read, look).await
        }
    }
}

/// Reads what is needed of each view, params for hits, and puts them together: the best `k` of each of some questions.
pub async fn for_each_segment<T, R, F>(
    views: Vec<u32>,
    selections: &RowSelections,
    (k, questions): (usize, usize),
    params: SearchParams,
    read: impl Fn(u32) -> R,
    look: F,
) -> Result<Vec<Ranking>>
where
    T: Send + 'static,
    R: Future<Output = Result<T>>,
    F: Fn(T, &RowSelection, &mut [TopK<Hit>], u32) -> Result<()> + Clone + Send + 'static,
{
    let tops = move || -> Vec<TopK<Hit>> { (0..questions).map(|_| TopK::new(k)).collect() };
    // What is worse than the last that counts in one view counts in none.
    let thresholds = Arc::new(Mutex::new(vec![f32::NEG_INFINITY; questions]));
    let found = views.into_iter().map(|view| {
        let (read, look, accepted) = (read(view), look.clone(), selections.get(view as usize).clone());
        let thresholds = thresholds.clone();
        async move {
            let read = read.await?;
            blocking(move || {
                let mut tops = tops();
                let lock = || thresholds.lock().expect("no code panics while it holds this lock");
                tops.iter_mut().zip(lock().iter()).for_each(|(top, least)| top.raise_threshold(*least));
                look(read, &accepted, &mut tops, view)?;
                lock().iter_mut().zip(&tops).for_each(|(least, top)| *least = least.max(top.threshold()));
                Ok(tops.into_iter().map(TopK::into_sorted).collect::<Vec<_>>())
            })
            .await
        }
    });
    // As many at once as there are threads: what they read is in memory as long as they look.
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

/// The rows of some views that match a query, whether the version sees them or not, by this node.
pub async fn matching(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<Vec<Arc<RowSet>>> {
    let search = TextSearch::new(query, fields.columns.len(), &GlobalStatistics::default());
    let search = Arc::new(search);
    let mut rows = Vec::with_capacity(views.len());
    for view in views {
        let index = snapshot.text(&snapshot.views[view as usize], fields).await?;
        let search = search.clone();
        rows.push(Arc::new(blocking(move || search.matching_rows(&index)).await?));
    }
    Ok(rows)
}
