//! TODO module docs.

use std::cell::RefCell;
use std::sync::Arc;

use plexus_index::VectorQuery;
use plexus_index::graph::{GraphSearchOptions, GraphSearcher};
use plexus_model::{Metric, Result, RowSelection};

use crate::search::snapshot::caches::SearchCaches;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::snapshot::{SearchSnapshot, blocking};
use crate::search::snapshot::vectors::{OpenGraph, Vectors};

/// Whether any of some rows may have no distance from a vector.
pub async fn any_without_distance(
    snapshot: &SearchSnapshot,
    column: u32,
    query: &VectorQuery,
    selections: &RowSelections,
) -> Result<bool> {
    for (at, view) in snapshot.views.iter().enumerate().filter(|(at, _)| !selections.is_empty(*at)) {
        let graph = snapshot.graph(view, column, query.metric()).await?;
        let vectors = snapshot.vectors(view, column).await?;
        let extent = blocking(move || Ok(vectors.extent(graph.as_ref().map(|graph| &*graph.graph)))).await?;
        let without_distance = match selections.get(at) {
            RowSelection::AllExcept(invisible) => &extent.without_distance - &**invisible,
            RowSelection::Only(rows) => &extent.without_distance & &**rows,
        };
        if !without_distance.is_empty() || !extent.is_near(query.norm_squared()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The vectors of a segment, and their graph if they have one.
pub type VectorsOf = (Arc<Vectors>, Option<OpenGraph>);

/// A look for the nearest vectors of a segment.
pub struct Nearest<'a> {
    pub vectors: &'a Vectors,
    pub query: &'a VectorQuery,
    pub k: usize,
    pub beam: usize,
}

impl Nearest<'_> {
    /// The distance of a row, if it is somewhere: what has no finite one is without_distance.
    pub fn distance(&self, row: u32) -> Option<f32> {
        self.vectors.get(row).map(|vector| self.query.distance(vector)).filter(|d| d.is_finite())
    }

    /// SearchParams at every row that is accepted.
    pub fn all(&self, accepted: &RowSelection, mut found: impl FnMut(f32, u32)) {
        let mut look = |row: u32| {
            if let Some(distance) = self.distance(row) {
                found(distance, row);
            }
        };
        match accepted {
            RowSelection::Only(rows) => rows.iter().for_each(look),
            RowSelection::AllExcept(rows) if rows.is_empty() => (0..self.vectors.rows()).for_each(&mut look),
            RowSelection::AllExcept(rows) => {
                (0..self.vectors.rows()).filter(|row| !rows.contains(*row)).for_each(&mut look);
            }
        }
    }

    /// SearchParams where a graph leads to. As many are found as there are, up to `k`: when it leads to fewer, all are looked at.
    pub fn walk(
        &self,
        graph: &OpenGraph,
        accepted: &RowSelection,
        caches: &SearchCaches,
        mut found: impl FnMut(f32, u32),
    ) {
        let chosen = match accepted {
            RowSelection::Only(rows) => Some(caches.node_filter(graph.file, &graph.graph, rows)),
            RowSelection::AllExcept(_) => None,
        };
        let distance = |row: u32| self.distance(row).unwrap_or(f32::INFINITY);
        let options = GraphSearchOptions { k: self.k, beam_width: self.beam };
        let vector = self.query.vector();
        let mut nearest = SEARCHER.with_borrow_mut(|searcher| {
            searcher.search(&graph.graph, vector, options, accepted, chosen.as_deref(), distance)
        });
        nearest.retain(|(distance, _)| distance.is_finite());
        // Vectors of zeros are in no graph by the cosine, and at a distance of one.
        let zeros = self.query.metric() == Metric::Cosine && graph.graph.len() < graph.graph.rows() as usize;
        let far = nearest.get(self.k - 1).is_none_or(|(distance, _)| *distance >= 1.0);
        let fewer = nearest.len() < self.k && chosen.is_none_or(|chosen| nearest.len() < chosen.len());
        if fewer || (zeros && far) {
            return self.all(accepted, found);
        }
        nearest.into_iter().for_each(|(distance, row)| found(distance, row));
    }
}

thread_local! {
    /// What walks of a thread use again.
    static SEARCHER: RefCell<GraphSearcher> = RefCell::default();
}
