//! Top-k evaluation of a disjunction of terms: Block-Max MaxScore.
//!
//! Rows are evaluated in windows, each of which ends with a block of one of the terms. In a window each term
//! has an upper bound, from the block-max index (Ding and Suel: "Faster top-k document retrieval using
//! block-max indexes", SIGIR 2011). Terms whose bounds together do not reach the threshold are
//! non-essential: a row that has only them is no hit. Rows are taken from the postings of the essential
//! terms, and looked up in the non-essential ones only as long as they can still reach the threshold
//! (MaxScore; Turtle and Flood: "Query evaluation: strategies and optimizations", 1995).
//!
//! The bounds decide what is skipped, never how scores add up.

use plexus_model::{RowSelection, RowSet};

use super::block_max::BLOCK_ROWS;
use super::bm25::{can_reach, score_needed};
use super::cursor::{Cursor, END};
use super::search::TextHit;
use super::term_scorer::{Collector, FlatQuery, TermScorer};

/// Blocks of a term that the initial threshold is estimated from. Scoring them takes a few microseconds.
const SEED_BLOCKS: usize = 16;
/// Selected rows are looked up one by one if the terms have more than this many times as many postings.
const POSTINGS_PER_LOOKUP: u64 = 8;

/// Finds rows that have any of the terms: those in `selection` that score at least `threshold`, in ascending
/// order.
///
/// `found` receives each hit and returns the new threshold. Rows that at least `k` other rows score above
/// may be left out.
pub(crate) fn block_max_maxscore(
    query: FlatQuery,
    selection: &RowSelection,
    k: usize,
    threshold: f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    let FlatQuery { mut terms, groups } = query;
    let mut collector = Collector::new(&groups, threshold, found);
    if let RowSelection::Only(rows) = selection
        && rows.len() * POSTINGS_PER_LOOKUP < terms.iter().map(|t| u64::from(t.cursor.row_count())).sum()
    {
        return look_up_rows(&mut terms, rows, &mut collector);
    }
    collector.threshold = threshold.max(initial_threshold(&terms, selection, k, threshold));
    let mut scored = Vec::with_capacity(BLOCK_ROWS);
    let mut bound_sums = vec![0.0; terms.len() + 1];
    let mut start = 0;
    while start < END {
        let Some(last) = enter_window(&mut terms, start, collector.threshold) else {
            return;
        };
        terms.sort_unstable_by(|a, b| a.window_bound.total_cmp(&b.window_bound));
        for (i, term) in terms.iter().enumerate() {
            bound_sums[i + 1] = bound_sums[i] + term.window_bound;
        }
        evaluate_window(&mut terms, &bound_sums, (start, last), selection, &mut collector, &mut scored);
        start = last.saturating_add(1);
    }
}

/// Evaluates the window from the row `start` to the row `last`. The terms are sorted by their bounds in it,
/// least first; `bound_sums[i]` is the sum of the bounds of the first `i` terms.
#[inline]
fn evaluate_window(
    terms: &mut [TermScorer],
    bound_sums: &[f32],
    (start, last): (u32, u32),
    selection: &RowSelection,
    collector: &mut Collector<'_>,
    scored: &mut Vec<(u32, f32)>,
) {
    // Number of non-essential terms. It grows with the threshold.
    let mut non_essential_count = 0;
    let mut is_first = true;
    loop {
        while non_essential_count < terms.len()
            && !can_reach(bound_sums[non_essential_count + 1], collector.threshold)
        {
            non_essential_count += 1;
        }
        let (non_essential, essential) = terms.split_at_mut(non_essential_count);
        if is_first {
            for term in essential.iter_mut() {
                term.cursor.seek(start);
            }
            is_first = false;
        }
        if let [single] = essential {
            // Scoring the rows of one term block by block is faster than one by one.
            let score_min = score_needed(collector.threshold, bound_sums[non_essential_count]);
            single.cursor.score_until(last, score_min, scored);
            for (row, score) in scored.drain(..).filter(|(row, _)| selection.contains(*row)) {
                collector.scores.fill(None);
                collector.scores[single.leaf] = Some(score);
                if add_non_essential(non_essential, bound_sums, row, score, collector) {
                    collector.offer(row);
                }
            }
            return;
        }
        let row = essential.iter().map(|term| term.cursor.row()).min().unwrap_or(END);
        if row > last {
            return;
        }
        let is_selected = selection.contains(row);
        collector.scores.fill(None);
        let mut sum = 0.0;
        for term in essential.iter_mut().filter(|term| term.cursor.row() == row) {
            if is_selected {
                let score = term.cursor.score();
                collector.scores[term.leaf] = Some(score);
                sum += score;
            }
            term.cursor.advance();
        }
        if is_selected && add_non_essential(non_essential, bound_sums, row, sum, collector) {
            collector.offer(row);
        }
    }
}

/// A score that at least `k` selected rows reach, or negative infinity when none is known.
///
/// It is the `k`-th best score by a single term in its first blocks, for the term with the highest bound of
/// those in at least `k` rows. Other terms only add to the scores.
fn initial_threshold(terms: &[TermScorer], selection: &RowSelection, k: usize, threshold: f32) -> f32 {
    let frequent = terms.iter().filter(|term| k > 0 && term.cursor.row_count() as usize >= k);
    match frequent.max_by(|a, b| a.bound.total_cmp(&b.bound)) {
        Some(term) if can_reach(term.bound, threshold) => {
            let mut scored = Vec::new();
            let last = term.blocks.last_row(term.blocks.len().min(SEED_BLOCKS) - 1);
            term.cursor.clone().score_until(last, f32::NEG_INFINITY, &mut scored);
            scored.retain(|(row, _)| selection.contains(*row));
            if scored.len() < k {
                return f32::NEG_INFINITY;
            }
            let (_, kth, _) = scored.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
            kth.1
        }
        _ => f32::NEG_INFINITY,
    }
}

/// Enters the window that starts at `start` and computes its bounds. Returns its last row; `None` when no
/// row from there on can reach the threshold.
fn enter_window(terms: &mut [TermScorer], start: u32, threshold: f32) -> Option<u32> {
    let mut last = END;
    // Only blocks of essential terms end a window. Non-essential terms are often frequent, and windows that
    // end with their blocks would be too short.
    terms.sort_unstable_by(|a, b| a.bound.total_cmp(&b.bound));
    let mut sum = 0.0;
    for term in terms.iter_mut() {
        let block_end = term.enter_window(start);
        sum += term.bound;
        if can_reach(sum, threshold) {
            last = last.min(block_end);
        }
    }
    if last == END {
        return None;
    }
    terms.iter_mut().for_each(|term| term.compute_window_bound(last));
    Some(last)
}

/// Sets the scores of the non-essential terms of a row whose essential terms score `sum`. Returns `false` as
/// soon as the row cannot reach the threshold.
#[inline]
fn add_non_essential(
    non_essential: &mut [TermScorer],
    bound_sums: &[f32],
    row: u32,
    mut sum: f32,
    collector: &mut Collector<'_>,
) -> bool {
    for (i, term) in non_essential.iter_mut().enumerate().rev() {
        if !can_reach(sum + bound_sums[i + 1], collector.threshold) {
            return false;
        }
        if let Some(score) = term.look_up(row) {
            collector.scores[term.leaf] = Some(score);
            sum += score;
        }
    }
    true
}

/// Looks up the selected rows one by one in all terms.
fn look_up_rows(terms: &mut [TermScorer], rows: &RowSet, collector: &mut Collector<'_>) {
    for row in rows {
        collector.scores.fill(None);
        let mut has_any = false;
        for term in terms.iter_mut() {
            let score = term.look_up(row);
            collector.scores[term.leaf] = score;
            has_any |= score.is_some();
        }
        if has_any {
            collector.offer(row);
        }
    }
}
