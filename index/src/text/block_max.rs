//! A block-max index: upper bounds of the scores in each block of postings (Ding and Suel: "Faster top-k
//! document retrieval using block-max indexes", SIGIR 2011).
//!
//! A block keeps the largest term frequency and the shortest length among its rows. No row of the block
//! scores more than a row with both, whatever the statistics of the table are. The bounds that tantivy
//! stores are only valid for the statistics of one segment.

use std::cmp::Reverse;

use tantivy::directory::OwnedBytes;
use tantivy::postings::BlockSegmentPostings;

use super::bm25::Norms;
use super::term_frequency_bitmap::{Frequency, TermFrequencyBitmap};

/// Rows of a block, as tantivy compresses them; the last block has fewer.
pub(crate) const BLOCK_ROWS: usize = 128;

/// A term in at least one of this many rows has a bitmap of its frequencies. At two bits for each row of the
/// segment, the bitmap is then at most about twice as large as the compressed postings.
const BITMAP_ROWS_PER_POSTING_MAX: usize = 8;

/// The block-max index of one term.
#[derive(Debug, Default)]
pub(crate) struct BlockMaxIndex {
    /// The last row of each block.
    last_rows: Vec<u32>,
    /// The largest frequency of each block. [`u8::MAX`] stands for that and all larger frequencies.
    frequencies: Vec<u8>,
    /// The code of the shortest length of each block.
    lengths: Vec<u8>,
    /// The (frequency, length) pairs of blocks that no other block dominates with a higher frequency and a
    /// shorter length. One of them gives the bound of the whole term.
    pareto_front: Vec<(u8, u8)>,
    /// The frequencies of a frequent term.
    bitmap: Option<TermFrequencyBitmap>,
}

impl BlockMaxIndex {
    /// Reads all postings from their current block on. `lengths` holds the length code of each row.
    pub(crate) fn new(mut postings: BlockSegmentPostings, lengths: &OwnedBytes) -> Self {
        let mut index = Self::default();
        if postings.doc_freq() as usize * BITMAP_ROWS_PER_POSTING_MAX >= lengths.len() {
            index.bitmap = Some(TermFrequencyBitmap::new(lengths.len()));
        }
        while let Some(last_row) = postings.docs().last() {
            index.last_rows.push(*last_row);
            let frequency = postings.freqs().iter().max().copied().unwrap_or_default();
            index.frequencies.push(u8::try_from(frequency).unwrap_or(u8::MAX));
            // Codes are ordered like the lengths they stand for.
            let shortest = postings.docs().iter().map(|row| lengths[*row as usize]).min();
            index.lengths.push(shortest.unwrap_or_default());
            if let Some(bitmap) = &mut index.bitmap {
                postings.docs().iter().zip(postings.freqs()).for_each(|(row, n)| bitmap.set(*row, *n));
            }
            postings.advance();
        }
        let mut all: Vec<(u8, u8)> =
            index.frequencies.iter().copied().zip(index.lengths.iter().copied()).collect();
        all.sort_unstable_by_key(|(frequency, length)| (Reverse(*frequency), *length));
        for (frequency, length) in all {
            if index.pareto_front.last().is_none_or(|(_, shorter)| length < *shorter) {
                index.pareto_front.push((frequency, length));
            }
        }
        index
    }

    /// Number of blocks.
    pub(crate) fn len(&self) -> usize {
        self.last_rows.len()
    }

    /// The first block at or after `block` that ends at or after `row`; [`Self::len`] when there is none.
    pub(crate) fn seek(&self, block: usize, row: u32) -> usize {
        // Galloping search: the target is mostly the same block or the next.
        let mut step = 1;
        let (mut low, mut high) = (block, block);
        while high < self.len() && self.last_rows[high] < row {
            low = high + 1;
            high += step;
            step *= 2;
        }
        let high = high.min(self.len());
        low + self.last_rows[low..high].partition_point(|last| *last < row)
    }

    /// Size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * 6 + self.bitmap.as_ref().map_or(0, TermFrequencyBitmap::bytes)
    }

    /// The frequency of the term in a row.
    pub(crate) fn frequency(&self, row: u32) -> Frequency {
        self.bitmap.as_ref().map_or(Frequency::Unknown, |bitmap| bitmap.get(row))
    }

    /// The last row of a block.
    pub(crate) fn last_row(&self, block: usize) -> u32 {
        self.last_rows[block]
    }

    /// An upper bound of the scores in a block, up to rounding.
    pub(crate) fn block_bound(&self, block: usize, weight: f32, norms: &Norms) -> f32 {
        bound(self.frequencies[block], self.lengths[block], weight, norms)
    }

    /// An upper bound of all scores of the term, up to rounding.
    pub(crate) fn term_bound(&self, weight: f32, norms: &Norms) -> f32 {
        let bounds =
            self.pareto_front.iter().map(|(frequency, length)| bound(*frequency, *length, weight, norms));
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
