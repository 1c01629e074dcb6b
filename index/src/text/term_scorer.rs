//! Terms with their block-max bounds: what the evaluation of disjunctions and of conjunctions has in common.

use std::sync::Arc;

use super::block_max::BlockMaxIndex;
use super::cursor::{Cursor, END};
use super::search::TextHit;
use super::term_cursor::TermCursor;
use super::term_frequency_bitmap::Frequency;

/// Blocks of a term in one window whose bounds are computed one by one. With more, the bound of the term is
/// used.
const WINDOW_BLOCKS_MAX: usize = 16;

/// A query without deeper nesting than a conjunction or disjunction of terms, in one segment.
pub(crate) struct FlatQuery {
    /// The terms that the segment has.
    pub(crate) terms: Vec<TermScorer>,
    /// For each leaf of the query, also of terms that the segment does not have, the group whose scores are
    /// added first.
    pub(crate) groups: Vec<usize>,
}

/// A term of a query in one segment.
pub(crate) struct TermScorer {
    /// The index of the term among the leaves of the query.
    pub(super) leaf: usize,
    /// Boxed, since scorers are sorted often and a cursor is large.
    pub(super) cursor: Box<TermCursor>,
    pub(super) blocks: Arc<BlockMaxIndex>,
    /// Upper bound of all scores of the term.
    pub(super) bound: f32,
    /// The block at the start of the window.
    block: usize,
    /// Upper bound of the scores in the window.
    pub(super) window_bound: f32,
}

impl TermScorer {
    pub(crate) fn new(leaf: usize, cursor: TermCursor, blocks: Arc<BlockMaxIndex>) -> Self {
        let bound = cursor.term_bound(&blocks);
        Self { leaf, cursor: Box::new(cursor), blocks, bound, block: 0, window_bound: 0.0 }
    }

    /// The score of a row, if it has the term. Rows must be looked up in ascending order.
    pub(super) fn look_up(&mut self, row: u32) -> Option<f32> {
        match self.blocks.frequency(row) {
            Frequency::Known(0) => None,
            Frequency::Known(frequency) => Some(self.cursor.score_of(row, frequency)),
            Frequency::Unknown => (self.cursor.seek(row) == row).then(|| self.cursor.score()),
        }
    }

    /// Enters a window that starts at `row`. Returns the last row of the block there; [`END`] when there is
    /// none.
    pub(super) fn enter_window(&mut self, row: u32) -> u32 {
        self.block = self.blocks.seek(self.block, row);
        if self.block < self.blocks.len() { self.blocks.last_row(self.block) } else { END }
    }

    /// Computes the bound of the window that was entered and ends with the row `last`.
    pub(super) fn compute_window_bound(&mut self, last: u32) {
        let (mut block, count) = (self.block, self.blocks.len());
        self.window_bound = 0.0;
        while block < count {
            if block - self.block == WINDOW_BLOCKS_MAX {
                self.window_bound = self.bound;
                return;
            }
            self.window_bound = self.window_bound.max(self.cursor.block_bound(&self.blocks, block));
            if self.blocks.last_row(block) >= last {
                return;
            }
            block += 1;
        }
    }
}

/// Adds up the scores of a row and reports it if it reaches the threshold.
pub(super) struct Collector<'a> {
    groups: &'a [usize],
    /// The score of each leaf of the query in the current row; `None` if the row does not have the term.
    pub(super) scores: Vec<Option<f32>>,
    pub(super) threshold: f32,
    /// Receives hits, and returns the new threshold.
    found: &'a mut dyn FnMut(TextHit) -> f32,
}

impl<'a> Collector<'a> {
    pub(super) fn new(groups: &'a [usize], threshold: f32, found: &'a mut dyn FnMut(TextHit) -> f32) -> Self {
        Self { groups, scores: vec![None; groups.len()], threshold, found }
    }

    /// Reports a row whose scores are set.
    pub(super) fn offer(&mut self, row: u32) {
        let score = self.total();
        if score >= self.threshold {
            self.threshold = self.threshold.max((self.found)(TextHit { row, score }));
        }
    }

    /// The sum of the scores in the order of the query, group by group, as [`BoolCursor`] adds them. The
    /// order decides the last bits of the sum.
    ///
    /// [`BoolCursor`]: super::cursor::BoolCursor
    fn total(&self) -> f32 {
        let (mut total, mut group_sum, mut current) = (0.0, 0.0, None);
        for (score, group) in self.scores.iter().zip(self.groups) {
            let Some(score) = score else {
                continue;
            };
            if current != Some(*group) {
                total += group_sum;
                (group_sum, current) = (0.0, Some(*group));
            }
            group_sum += score;
        }
        total + group_sum
    }
}
