//! What the rows of a term can score at most, block by block, so that blocks that cannot count are skipped.
//!
//! A block keeps the largest frequency and the shortest length among its rows. Whatever the statistics of the table, none
//! of its rows scores more than a row with both. Bounds of the library's own hold for the statistics of its segment alone.

use std::cmp::Reverse;

use tantivy::directory::OwnedBytes;
use tantivy::postings::BlockSegmentPostings;

use super::bm25::Norms;
use super::term_frequency_bitmap::{Frequency, TermFrequencyBitmap};

/// Rows of a block, as the library packs them together: the last has fewer.
pub const BLOCK_ROWS: usize = 128;

/// A term that is in one of so many rows has the frequencies of all: two bits a row are then at most about twice its
/// packed postings.
const DENSE: usize = 8;

/// BlockMaxIndex of the rows of a term.
#[derive(Debug, Default)]
pub struct BlockMaxIndex {
    /// The last row of each.
    ends: Vec<u32>,
    /// The largest frequency, [`u8::MAX`] for any that is not below it.
    frequencies: Vec<u8>,
    /// The code of the shortest length.
    lengths: Vec<u8>,
    /// Frequencies and lengths of blocks of which no other has both a higher frequency and a shorter length.
    best: Vec<(u8, u8)>,
    /// Of a term that is in many rows.
    dense: Option<TermFrequencyBitmap>,
}

impl BlockMaxIndex {
    /// Reads all postings, from where they are.
    pub fn new(mut postings: BlockSegmentPostings, lengths: &OwnedBytes) -> Self {
        let mut blocks = Self::default();
        if postings.doc_freq() as usize * DENSE >= lengths.len() {
            blocks.dense = Some(TermFrequencyBitmap::new(lengths.len()));
        }
        while let Some(end) = postings.docs().last() {
            blocks.ends.push(*end);
            let frequency = postings.freqs().iter().max().copied().unwrap_or_default();
            blocks.frequencies.push(u8::try_from(frequency).unwrap_or(u8::MAX));
            // Longer lengths have larger codes.
            let shortest = postings.docs().iter().map(|row| lengths[*row as usize]).min();
            blocks.lengths.push(shortest.unwrap_or_default());
            if let Some(dense) = &mut blocks.dense {
                postings.docs().iter().zip(postings.freqs()).for_each(|(row, n)| dense.set(*row, *n));
            }
            postings.advance();
        }
        let mut all: Vec<(u8, u8)> =
            blocks.frequencies.iter().copied().zip(blocks.lengths.iter().copied()).collect();
        all.sort_unstable_by_key(|(frequency, length)| (Reverse(*frequency), *length));
        for (frequency, length) in all {
            if blocks.best.last().is_none_or(|(_, shorter)| length < *shorter) {
                blocks.best.push((frequency, length));
            }
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

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.len() * 6 + self.dense.as_ref().map_or(0, TermFrequencyBitmap::bytes)
    }

    /// How often the term is in a row.
    pub fn frequency(&self, row: u32) -> Frequency {
        self.dense.as_ref().map_or(Frequency::Unknown, |dense| dense.get(row))
    }

    /// The last row of a block.
    pub fn end(&self, block: usize) -> u32 {
        self.ends[block]
    }

    /// What no row of a block scores above, but for rounding.
    pub fn bound(&self, block: usize, weight: f32, norms: &Norms) -> f32 {
        bound(self.frequencies[block], self.lengths[block], weight, norms)
    }

    /// What no row scores above, but for rounding.
    pub fn bound_of_all(&self, weight: f32, norms: &Norms) -> f32 {
        let bounds = self.best.iter().map(|(frequency, length)| bound(*frequency, *length, weight, norms));
        bounds.fold(0.0, f32::max)
    }
}

fn bound(frequency: u8, length: u8, weight: f32, norms: &Norms) -> f32 {
    let frequency = match frequency {
        u8::MAX => u32::MAX,
        frequency => u32::from(frequency),
    };
    norms.score(weight, frequency, length)
}
