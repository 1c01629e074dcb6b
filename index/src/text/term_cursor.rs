//! A cursor over the postings of one term.

use std::sync::Arc;

use tantivy::directory::OwnedBytes;
use tantivy::postings::BlockSegmentPostings;

use super::block_max::BlockMaxIndex;
use super::bm25::Norms;
use super::cursor::{Cursor, END};

/// Rows that have a term.
#[derive(Clone)]
pub(crate) struct TermCursor {
    postings: BlockSegmentPostings,
    /// Position in the current block of the postings.
    at: usize,
    /// The length code of each row.
    lengths: OwnedBytes,
    weight: f32,
    norms: Arc<Norms>,
}

impl TermCursor {
    pub(crate) fn new(
        postings: BlockSegmentPostings,
        lengths: OwnedBytes,
        weight: f32,
        norms: Arc<Norms>,
    ) -> Self {
        Self { postings, at: 0, lengths, weight, norms }
    }

    /// An upper bound of the scores in a block, up to rounding.
    pub(crate) fn block_bound(&self, blocks: &BlockMaxIndex, block: usize) -> f32 {
        blocks.block_bound(block, self.weight, &self.norms)
    }

    /// An upper bound of all scores, up to rounding.
    pub(crate) fn term_bound(&self, blocks: &BlockMaxIndex) -> f32 {
        blocks.term_bound(self.weight, &self.norms)
    }

    /// Number of rows that have the term, including deleted ones.
    pub(crate) fn row_count(&self) -> u32 {
        self.postings.doc_freq()
    }

    /// Moves to the next row, and returns it.
    pub(crate) fn advance(&mut self) -> u32 {
        self.skip(1);
        self.row()
    }

    /// The score of any row that has the term with the given frequency.
    pub(crate) fn score_of(&self, row: u32, frequency: u32) -> f32 {
        self.norms.score(self.weight, frequency, self.lengths[row as usize])
    }

    /// Skips rows of the current block. Behind the last block is an empty one, where every row is [`END`].
    fn skip(&mut self, rows: usize) {
        let block_rows = self.postings.docs().len();
        self.at += rows;
        if self.at >= block_rows {
            self.at = 0;
            if block_rows > 0 {
                self.postings.advance();
            }
        }
    }

    /// Moves behind the row `last`. Appends the rows on the way that score at least `score_min`, with their
    /// scores.
    pub(crate) fn score_until(&mut self, last: u32, score_min: f32, scored: &mut Vec<(u32, f32)>) {
        while self.row() <= last {
            let rows = &self.postings.docs()[self.at..];
            let count = match rows.last() {
                Some(end) if *end > last => rows.partition_point(|row| *row <= last),
                _ => rows.len(),
            };
            // The comparison is hard to predict. Without a branch all rows are written, and those below the
            // minimum are overwritten.
            let mut end = scored.len();
            scored.resize(end + count, (END, 0.0));
            for (row, frequency) in rows[..count].iter().zip(&self.postings.freqs()[self.at..]) {
                let score = self.score_of(*row, *frequency);
                scored[end] = (*row, score);
                end += usize::from(score >= score_min);
            }
            scored.truncate(end);
            self.skip(count);
        }
    }
}

impl Cursor for TermCursor {
    fn row(&self) -> u32 {
        self.postings.doc(self.at)
    }

    fn seek(&mut self, target: u32) -> u32 {
        if self.row() < target && self.advance() < target {
            self.at = self.postings.seek(target);
        }
        self.row()
    }

    fn score(&mut self) -> f32 {
        self.score_of(self.row(), self.postings.freq(self.at))
    }
}
