//! The nearest vectors of one segment, by brute force or through its graph.

use std::cell::RefCell;
use std::sync::Arc;

use plexus_index::VectorQuery;
use plexus_index::graph::{Beam, GraphSearchOptions, GraphSearcher};
use plexus_model::{Metric, Result, RowSelection};

use crate::search::snapshot::caches::SearchCaches;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::vectors::{OpenGraph, Vectors};
use crate::search::snapshot::{SearchSnapshot, blocking};

/// Whether any of the selected rows may have no finite distance from a vector. Such rows sort as null.
///
/// # Errors
/// When the vectors of a segment cannot be read.
pub(crate) async fn any_without_distance(
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
        if !without_distance.is_empty() || !extent.has_finite_distances(query.norm_squared()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The vectors of a segment, and their graph if the search uses one.
pub(crate) type VectorSource = (Arc<Vectors>, Option<OpenGraph>);

/// A search for the `k` nearest vectors of a segment.
pub(crate) struct Nearest<'a> {
    pub vectors: &'a Vectors,
    pub query: &'a VectorQuery,
    pub k: usize,
    /// How wide the beam of a graph search is.
    pub beam: Beam,
}

impl Nearest<'_> {
    /// The distance of a row; `None` if it has no vector or the distance is not finite.
    fn distance(&self, row: u32) -> Option<f32> {
        self.vectors.get(row).map(|vector| self.query.distance(vector)).filter(|d| d.is_finite())
    }

    /// Compares every selected row.
    pub(crate) fn brute_force(&self, selection: &RowSelection, mut found: impl FnMut(f32, u32)) {
        let mut visit = |row: u32| {
            if let Some(distance) = self.distance(row) {
                found(distance, row);
            }
        };
        match selection {
            RowSelection::Only(rows) => rows.iter().for_each(visit),
            RowSelection::AllExcept(rows) if rows.is_empty() => (0..self.vectors.rows()).for_each(&mut visit),
            RowSelection::AllExcept(rows) => {
                (0..self.vectors.rows()).filter(|row| !rows.contains(*row)).for_each(&mut visit);
            }
        }
    }

    /// Searches the graph. If it finds fewer rows than there are, up to `k`, all selected rows are compared
    /// instead.
    pub(crate) fn search_graph(
        &self,
        graph: &OpenGraph,
        selection: &RowSelection,
        caches: &SearchCaches,
        mut found: impl FnMut(f32, u32),
    ) {
        let nodes = match selection {
            RowSelection::Only(rows) => Some(caches.node_filter(graph.file, &graph.graph, rows)),
            RowSelection::AllExcept(_) => None,
        };
        let distance = |row: u32| self.distance(row).unwrap_or(f32::INFINITY);
        let options = GraphSearchOptions { k: self.k, beam: self.beam };
        let vector = self.query.vector();
        let mut nearest = SEARCHER.with_borrow_mut(|searcher| {
            searcher.search(&graph.graph, vector, options, selection, nodes.as_deref(), distance)
        });
        nearest.retain(|(distance, _)| distance.is_finite());
        // With the cosine metric, zero vectors are not in the graph; their distance is one.
        let zeros = self.query.metric() == Metric::Cosine && graph.graph.len() < graph.graph.rows() as usize;
        let far = nearest.get(self.k - 1).is_none_or(|(distance, _)| *distance >= 1.0);
        let fewer = nearest.len() < self.k && nodes.is_none_or(|nodes| nearest.len() < nodes.len());
        if fewer || (zeros && far) {
            return self.brute_force(selection, found);
        }
        nearest.into_iter().for_each(|(distance, row)| found(distance, row));
    }
}

thread_local! {
    /// The buffers of a graph search, which each thread reuses.
    static SEARCHER: RefCell<GraphSearcher> = RefCell::default();
}
