//! The rows of a snapshot that a search may return, one selection per segment.

use std::sync::Arc;

use plexus_index::graph::Strategy;
use plexus_model::{RowSelection, RowSet};

use crate::search::snapshot::{SearchSnapshot, SegmentView};

/// One [`RowSelection`] for each segment of a snapshot, in the order of its views.
#[derive(Clone, Debug)]
pub(crate) struct RowSelections {
    selections: Vec<RowSelection>,
    /// Whether a predicate selected the rows. Otherwise they are all visible rows.
    filtered: bool,
}

impl RowSelections {
    /// All visible rows.
    pub(crate) fn all(snapshot: &SearchSnapshot) -> Self {
        let visible = |view: &SegmentView| RowSelection::AllExcept(view.invisible.clone());
        Self { selections: snapshot.views.iter().map(visible).collect(), filtered: false }
    }

    /// The rows that a predicate left, one set per segment.
    pub(crate) fn only(rows: Vec<Arc<RowSet>>) -> Self {
        Self { selections: rows.into_iter().map(RowSelection::Only).collect(), filtered: true }
    }

    /// Those of the rows that are in a set, of which there is one for each segment.
    pub(crate) fn within(&self, sets: Vec<RowSet>) -> Self {
        let both = |(selection, rows): (&RowSelection, RowSet)| {
            Arc::new(match selection {
                RowSelection::AllExcept(invisible) => rows - &**invisible,
                RowSelection::Only(others) => rows & &**others,
            })
        };
        Self::only(self.selections.iter().zip(sets).map(both).collect())
    }

    /// The selection of one segment.
    pub(crate) fn get(&self, view: usize) -> &RowSelection {
        &self.selections[view]
    }

    /// The sets that a predicate left, if one selected the rows.
    pub(crate) fn filter(&self) -> Option<impl Iterator<Item = &Arc<RowSet>>> {
        fn set(selection: &RowSelection) -> Option<&Arc<RowSet>> {
            match selection {
                RowSelection::Only(rows) => Some(rows),
                RowSelection::AllExcept(_) => None,
            }
        }
        self.filtered.then(|| self.selections.iter().filter_map(set))
    }

    /// Whether a predicate left no row of the segment. Such a segment is not read.
    pub(crate) fn is_empty(&self, view: usize) -> bool {
        matches!(self.get(view), RowSelection::Only(rows) if rows.is_empty())
    }

    /// How the `k` nearest vectors of a segment with a graph are found.
    pub(crate) fn strategy(&self, snapshot: &SearchSnapshot, view: usize, k: usize, beam: usize) -> Strategy {
        let rows = snapshot.views[view].segment.rows;
        Strategy::for_nearest(k, beam, self.get(view).len(rows), rows)
    }
}
