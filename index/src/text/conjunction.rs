//! Evaluation of a conjunction of terms.
//!
//! The least frequent term leads. Its rows are scored block by block, and those that can reach the threshold
//! with the bounds of the other terms are looked up in them.

use plexus_model::RowSelection;

use super::block_max::BLOCK_ROWS;
use super::bm25::{can_reach, score_needed};
use super::cursor::{Cursor, END};
use super::search::TextHit;
use super::term_scorer::{Collector, FlatQuery, TermScorer};

/// Finds rows that have all of the terms: those in `selection` that score at least `threshold`, in ascending
/// order.
///
/// `found` receives each hit and returns the new threshold. All terms of the query must be in the segment.
pub(crate) fn conjunction(
    query: FlatQuery,
    selection: &RowSelection,
    threshold: f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    let FlatQuery { mut terms, groups } = query;
    let mut collector = Collector::new(&groups, threshold, found);
    let mut scored = Vec::with_capacity(BLOCK_ROWS);
    // The sum of the bounds of the terms behind the lead from each on; 0 behind the last.
    let mut remaining_bounds = vec![0.0; terms.len()];
    terms.sort_by_key(|term| term.cursor.row_count());
    let Some((lead, others)) = terms.split_first_mut() else {
        return;
    };
    let mut start = 0;
    loop {
        // No row before the current row of any term can have all terms. A window is a block of the lead.
        let rows = others.iter().map(|term| term.cursor.row());
        start = rows.fold(start.max(lead.cursor.row()), u32::max);
        let last = lead.enter_window(start);
        if last == END {
            return;
        }
        lead.compute_window_bound(last);
        for (i, term) in others.iter_mut().enumerate().rev() {
            if term.enter_window(start) == END {
                return;
            }
            term.compute_window_bound(last);
            remaining_bounds[i] = remaining_bounds[i + 1] + term.window_bound;
        }
        if can_reach(lead.window_bound + remaining_bounds[0], collector.threshold) {
            lead.cursor.seek(start);
            let score_min = score_needed(collector.threshold, remaining_bounds[0]);
            lead.cursor.score_until(last, score_min, &mut scored);
        }
        for (row, score) in scored.drain(..).filter(|(row, _)| selection.contains(*row)) {
            collector.scores[lead.leaf] = Some(score);
            if add_others(others, &remaining_bounds, row, score, &mut collector) {
                collector.offer(row);
            }
        }
        start = last.saturating_add(1);
    }
}

/// Sets the scores of the other terms of a row that the lead scores `sum`. Returns `false` as soon as the
/// row lacks a term or cannot reach the threshold.
#[inline]
fn add_others(
    others: &mut [TermScorer],
    remaining_bounds: &[f32],
    row: u32,
    mut sum: f32,
    collector: &mut Collector<'_>,
) -> bool {
    for (term, remaining) in others.iter_mut().zip(remaining_bounds) {
        if !can_reach(sum + remaining, collector.threshold) {
            return false;
        }
        let Some(score) = term.look_up(row) else {
            return false;
        };
        collector.scores[term.leaf] = Some(score);
        sum += score;
    }
    true
}
