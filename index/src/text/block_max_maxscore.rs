//! Rows that have any of some terms, or all of them: the best without looking at all.
//!
//! Rows are looked at in windows that end with a block of one of the terms. In a window each term has a bound, that of its
//! blocks there. Terms whose bounds together do not reach the threshold are not worth looking for: rows are taken from
//! the others, and the terms with the least bounds are looked up only as long as a row can still count (Turtle and Flood:
//! "Query evaluation: strategies and optimizations", 1995; Ding and Suel: "Faster top-k document retrieval using
//! block-max indexes", 2011).
//!
//! The threshold begins with what the first rows of a term have by it alone: of that which counts most of those in enough
//! rows.
//!
//! Of rows that have all terms the least frequent term leads: its rows are scored block by block, and those that can count
//! with the bounds of the others are looked up in them.
//!
//! Bounds decide what is skipped, never how scores add up.

use std::sync::Arc;

use plexus_model::RowSelection;

use super::block_max::{BLOCK_ROWS, BlockMaxIndex};
use super::bm25::{least, reaches};
use super::cursor::{Cursor, END, TermCursor};
use super::search::TextHit;
use super::term_frequency_bitmap::Frequency;

/// Blocks of a term in one window whose bounds are looked at one by one; with more, that of the whole term is taken.
const BLOCKS_MAX: usize = 16;
/// Blocks of a term that a threshold begins with: reading them takes a few microseconds.
const FIRST_BLOCKS: usize = 16;
/// Rows of a filter are looked up one by one when the terms are in so many times as many.
const LOOKED_UP: u64 = 8;

/// Terms of a segment, and the group of each place in the query: those of one child of it are added up first.
pub struct Choice {
    pub terms: Vec<Term>,
    pub groups: Vec<usize>,
}

/// A term that may be there.
pub struct Term {
    /// In the query.
    place: usize,
    /// Not in place: terms change their order.
    cursor: Box<TermCursor>,
    blocks: Arc<BlockMaxIndex>,
    /// Of all blocks.
    bound: f32,
    /// The block at the beginning of the window.
    block: usize,
    /// Of the blocks in the window.
    here: f32,
}

impl Term {
    pub fn new(place: usize, cursor: TermCursor, blocks: Arc<BlockMaxIndex>) -> Self {
        let bound = cursor.bound_of_all(&blocks);
        Self { place, cursor: Box::new(cursor), blocks, bound, block: 0, here: 0.0 }
    }

    /// The score of a row that has the term. Rows are looked up in ascending order.
    fn look_up(&mut self, row: u32) -> Option<f32> {
        match self.blocks.frequency(row) {
            Frequency::Known(0) => None,
            Frequency::Known(frequency) => Some(self.cursor.score_of(row, frequency)),
            Frequency::Unknown => (self.cursor.seek(row) == row).then(|| self.cursor.score()),
        }
    }

    /// Goes to the block of the beginning of a window. Its last row; [`END`] when there is none.
    fn enter(&mut self, row: u32) -> u32 {
        self.block = self.blocks.seek(self.block, row);
        if self.block < self.blocks.len() { self.blocks.end(self.block) } else { END }
    }

    /// Bounds what is between the beginning of the window, where it is, and its last row.
    fn bound_until(&mut self, last: u32) {
        let (mut block, count) = (self.block, self.blocks.len());
        self.here = 0.0;
        while block < count {
            if block - self.block == BLOCKS_MAX {
                self.here = self.bound;
                return;
            }
            self.here = self.here.max(self.cursor.bound(&self.blocks, block));
            if self.blocks.end(block) >= last {
                return;
            }
            block += 1;
        }
    }
}

/// Finds rows that have all of the terms, as [`any_of`] does.
pub fn all_of(
    choice: Choice,
    selection: &RowSelection,
    mut threshold: f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    let Choice { mut terms, groups } = choice;
    let mut parts: Vec<Option<f32>> = vec![None; groups.len()];
    let mut taken = Vec::with_capacity(BLOCK_ROWS);
    // What the others than the first reach together, from each on.
    let mut rest = vec![0.0; terms.len()];
    terms.sort_by_key(|term| term.cursor.rows());
    let Some((lead, others)) = terms.split_first_mut() else {
        return;
    };
    let mut start = 0;
    loop {
        // Before the row where each is nothing can be. A window is a block of the first.
        let rows = others.iter().map(|term| term.cursor.row());
        start = rows.fold(start.max(lead.cursor.row()), u32::max);
        let last = lead.enter(start);
        if last == END {
            return;
        }
        lead.bound_until(last);
        for (i, term) in others.iter_mut().enumerate().rev() {
            if term.enter(start) == END {
                return;
            }
            term.bound_until(last);
            rest[i] = rest[i + 1] + term.here;
        }
        if reaches(lead.here + rest[0], threshold) {
            lead.cursor.seek(start);
            lead.cursor.take_until(last, least(threshold, rest[0]), &mut taken);
        }
        'rows: for (row, score) in taken.drain(..) {
            if !selection.contains(row) {
                continue;
            }
            let mut sum = score;
            parts[lead.place] = Some(score);
            for (term, rest) in others.iter_mut().zip(&rest) {
                if !reaches(sum + rest, threshold) {
                    continue 'rows;
                }
                let Some(score) = term.look_up(row) else {
                    continue 'rows;
                };
                parts[term.place] = Some(score);
                sum += score;
            }
            offer(row, &parts, &groups, &mut threshold, found);
        }
        start = last.saturating_add(1);
    }
}

/// Finds rows: those that `selection` covers and that score at least `threshold`, which each call of `found` may raise. Rows
/// come in ascending order. Rows that `k` others score above may be left out.
pub fn any_of(
    choice: Choice,
    selection: &RowSelection,
    k: usize,
    mut threshold: f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    let Choice { mut terms, groups } = choice;
    let mut parts: Vec<Option<f32>> = vec![None; groups.len()];
    if let RowSelection::Only(rows) = selection
        && rows.len() * LOOKED_UP < terms.iter().map(|term| u64::from(term.cursor.rows())).sum()
    {
        return look_up(&mut terms, &groups, &mut parts, rows, threshold, found);
    }
    threshold = threshold.max(begin_with(&terms, selection, k, threshold));
    let mut taken = Vec::with_capacity(BLOCK_ROWS);
    // What terms reach together, the least first.
    let mut sums = vec![0.0; terms.len() + 1];
    let mut start = 0;
    while start < END {
        let last = begin_window(&mut terms, start, threshold);
        let Some(last) = last else {
            return;
        };
        terms.sort_unstable_by(|a, b| a.here.total_cmp(&b.here));
        for (i, term) in terms.iter().enumerate() {
            sums[i + 1] = sums[i] + term.here;
        }
        let mut optional = 0;
        let mut fresh = true;
        loop {
            while optional < terms.len() && !reaches(sums[optional + 1], threshold) {
                optional += 1;
            }
            let (few, needed) = terms.split_at_mut(optional);
            if fresh {
                for term in needed.iter_mut() {
                    term.cursor.seek(start);
                }
                fresh = false;
            }
            if let [one] = needed {
                // Its rows are scored together, and those that count looked up in the others.
                one.cursor.take_until(last, least(threshold, sums[optional]), &mut taken);
                for (row, score) in taken.drain(..).filter(|(row, _)| selection.contains(*row)) {
                    parts.fill(None);
                    parts[one.place] = Some(score);
                    if look_for_few(few, &sums, &mut parts, row, score, threshold) {
                        offer(row, &parts, &groups, &mut threshold, found);
                    }
                }
                break;
            }
            let row = needed.iter().map(|term| term.cursor.row()).min().unwrap_or(END);
            if row > last {
                break;
            }
            let selected = selection.contains(row);
            parts.fill(None);
            let mut sum = 0.0;
            for term in needed.iter_mut().filter(|term| term.cursor.row() == row) {
                if selected {
                    let score = term.cursor.score();
                    parts[term.place] = Some(score);
                    sum += score;
                }
                term.cursor.advance();
            }
            if !selected || !look_for_few(few, &sums, &mut parts, row, sum, threshold) {
                continue;
            }
            offer(row, &parts, &groups, &mut threshold, found);
        }
        start = last.saturating_add(1);
    }
}

/// A score that at least `k` rows have: by the term that counts most of those in so many, and by its first rows alone.
fn begin_with(terms: &[Term], selection: &RowSelection, k: usize, threshold: f32) -> f32 {
    let enough = terms.iter().filter(|term| k > 0 && term.cursor.rows() as usize >= k);
    match enough.max_by(|a, b| a.bound.total_cmp(&b.bound)) {
        Some(term) if reaches(term.bound, threshold) => {
            let mut taken = Vec::new();
            let last = term.blocks.end(term.blocks.len().min(FIRST_BLOCKS) - 1);
            term.cursor.clone().take_until(last, f32::NEG_INFINITY, &mut taken);
            taken.retain(|(row, _)| selection.contains(*row));
            if taken.len() < k {
                return f32::NEG_INFINITY;
            }
            let (_, kth, _) = taken.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
            kth.1
        }
        _ => f32::NEG_INFINITY,
    }
}

/// Enters the window that begins at `start`, with its bounds. Its last row; `None` when no row from there on can count.
fn begin_window(terms: &mut [Term], start: u32, threshold: f32) -> Option<u32> {
    let mut last = END;
    // The terms that do not count by themselves do not end windows: theirs may be many.
    terms.sort_unstable_by(|a, b| a.bound.total_cmp(&b.bound));
    let mut sum = 0.0;
    for term in terms.iter_mut() {
        let end = term.enter(start);
        sum += term.bound;
        if reaches(sum, threshold) {
            last = last.min(end);
        }
    }
    if last == END {
        return None;
    }
    terms.iter_mut().for_each(|term| term.bound_until(last));
    Some(last)
}

/// Adds the terms that no row was taken from, as long as the row can count. Whether it still can.
fn look_for_few(
    few: &mut [Term],
    sums: &[f32],
    parts: &mut [Option<f32>],
    row: u32,
    mut sum: f32,
    threshold: f32,
) -> bool {
    for (i, term) in few.iter_mut().enumerate().rev() {
        if !reaches(sum + sums[i + 1], threshold) {
            return false;
        }
        if let Some(score) = term.look_up(row) {
            parts[term.place] = Some(score);
            sum += score;
        }
    }
    true
}

/// Looks at some rows one by one.
fn look_up(
    terms: &mut [Term],
    groups: &[usize],
    parts: &mut [Option<f32>],
    rows: &plexus_model::RowSet,
    mut threshold: f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    for row in rows {
        parts.fill(None);
        let mut any = false;
        for term in terms.iter_mut() {
            parts[term.place] = term.look_up(row);
            any |= parts[term.place].is_some();
        }
        if any {
            offer(row, parts, groups, &mut threshold, found);
        }
    }
}

/// Tells of a row whose parts are known, if it reaches the threshold.
fn offer(
    row: u32,
    parts: &[Option<f32>],
    groups: &[usize],
    threshold: &mut f32,
    found: &mut dyn FnMut(TextHit) -> f32,
) {
    let score = total(parts, groups);
    if score >= *threshold {
        *threshold = threshold.max(found(TextHit { row, score }));
    }
}

/// Adds up in the order of the query, group by group, as [`super::cursor::BoolCursor`] does.
fn total(parts: &[Option<f32>], groups: &[usize]) -> f32 {
    let (mut total, mut sum, mut open) = (0.0, 0.0, None);
    for (part, group) in parts.iter().zip(groups) {
        let Some(part) = part else {
            continue;
        };
        if open != Some(*group) {
            total += sum;
            (sum, open) = (0.0, Some(*group));
        }
        sum += part;
    }
    total + sum
}
