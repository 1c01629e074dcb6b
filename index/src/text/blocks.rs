//! What the rows of a term can score at most, block by block, so that blocks that cannot count are skipped.
//!
//! A block keeps the largest frequency and the shortest length among its rows. Whatever the statistics of the table, none
//! of its rows scores more than a row with both. Bounds of the library's own hold for the statistics of its segment alone.

use tantivy::directory::OwnedBytes;
use tantivy::postings::{Postings, SegmentPostings};
use tantivy::{DocSet, TERMINATED};

use super::score::Norms;

/// Rows of a block.
const BLOCK_ROWS: usize = 128;

/// Blocks of the rows of a term.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The last row of each.
    ends: Vec<u32>,
    /// The largest frequency, [`u8::MAX`] for any that is not below it.
    frequencies: Vec<u8>,
    /// The code of the shortest length.
    lengths: Vec<u8>,
}

impl Blocks {
    /// Reads all postings once.
    pub fn new(mut postings: SegmentPostings, lengths: &OwnedBytes) -> Self {
        let mut blocks = Self::default();
        let (mut rows, mut frequency, mut length) = (0, 0, u8::MAX);
        let mut row = postings.doc();
        while row != TERMINATED {
            frequency = frequency.max(u8::try_from(postings.term_freq()).unwrap_or(u8::MAX));
            // Longer lengths have larger codes.
            length = length.min(lengths[row as usize]);
            rows += 1;
            let next = postings.advance();
            if rows == BLOCK_ROWS || next == TERMINATED {
                blocks.ends.push(row);
                blocks.frequencies.push(frequency);
                blocks.lengths.push(length);
                (rows, frequency, length) = (0, 0, u8::MAX);
            }
            row = next;
        }
        blocks
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The first block from `block` on that has rows from `row` on; [`Self::len`] when there is none.
    pub fn seek(&self, block: usize, row: u32) -> usize {
        // Mostly it is the same, or the next.
        let mut step = 1;
        let (mut low, mut high) = (block, block);
        while high < self.len() && self.ends[high] < row {
            low = high + 1;
            high += step;
            step *= 2;
        }
        let high = high.min(self.len());
        low + self.ends[low..high].partition_point(|end| *end < row)
    }

    /// The last row of a block.
    pub fn end(&self, block: usize) -> u32 {
        self.ends[block]
    }

    /// What no row of a block scores above, but for rounding.
    pub fn bound(&self, block: usize, weight: f32, norms: &Norms) -> f32 {
        let frequency = match self.frequencies[block] {
            u8::MAX => u32::MAX,
            frequency => u32::from(frequency),
        };
        norms.score(weight, frequency, self.lengths[block])
    }
}
