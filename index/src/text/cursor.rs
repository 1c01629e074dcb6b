//! Rows of a segment that match a query, in ascending order, with their scores.

use std::sync::Arc;

use plexus_model::RowSet;
use tantivy::directory::OwnedBytes;
use tantivy::postings::{BlockSegmentPostings, Postings, SegmentPostings};
use tantivy::{DocSet, TERMINATED};

use super::block_max::BlockMaxIndex;
use super::bm25::{Norms, reaches};

/// After the last row.
pub const END: u32 = TERMINATED;

/// A place in the rows that match.
pub trait Cursor: Send {
    /// The row here; [`END`] after the last.
    fn row(&self) -> u32;

    /// Goes to the first row at or after `target`, and says which it is.
    fn seek(&mut self, target: u32) -> u32;

    /// Of the row here.
    fn score(&mut self) -> f32;

    /// From now on rows that score less may be left out.
    fn raise(&mut self, _threshold: f32) {}
}

/// Rows that have a term.
#[derive(Clone)]
pub struct TermCursor {
    postings: BlockSegmentPostings,
    /// In the block of the postings.
    at: usize,
    lengths: OwnedBytes,
    weight: f32,
    norms: Arc<Norms>,
}

impl TermCursor {
    pub fn new(postings: BlockSegmentPostings, lengths: OwnedBytes, weight: f32, norms: Arc<Norms>) -> Self {
        Self { postings, at: 0, lengths, weight, norms }
    }

    /// What no row of a block scores above, but for rounding.
    pub fn bound(&self, blocks: &BlockMaxIndex, block: usize) -> f32 {
        blocks.bound(block, self.weight, &self.norms)
    }

    /// What no row scores above, but for rounding.
    pub fn bound_of_all(&self, blocks: &BlockMaxIndex) -> f32 {
        blocks.bound_of_all(self.weight, &self.norms)
    }

    /// In how many rows the term is.
    pub fn rows(&self) -> u32 {
        self.postings.doc_freq()
    }

    pub fn advance(&mut self) -> u32 {
        self.skip(1);
        self.row()
    }

    /// Of a row, wherever the cursor is, that has the term so often.
    pub fn score_of(&self, row: u32, frequency: u32) -> f32 {
        self.norms.score(self.weight, frequency, self.lengths[row as usize])
    }

    /// Goes on by some rows of the block. Behind the last block is one without rows, of which each is [`END`].
    fn skip(&mut self, rows: usize) {
        let block = self.postings.docs().len();
        self.at += rows;
        if self.at >= block {
            self.at = 0;
            if block > 0 {
                self.postings.advance();
            }
        }
    }

    /// Takes the rows from here to `last` that score at least `least`, with their scores, and goes behind `last`.
    pub fn take_until(&mut self, last: u32, least: f32, taken: &mut Vec<(u32, f32)>) {
        while self.row() <= last {
            let rows = &self.postings.docs()[self.at..];
            let count = match rows.last() {
                Some(end) if *end > last => rows.partition_point(|row| *row <= last),
                _ => rows.len(),
            };
            // Which rows count is hard to foresee: without a branch all are written, and overwritten when they do not.
            let mut end = taken.len();
            taken.resize(end + count, (END, 0.0));
            for (row, frequency) in rows[..count].iter().zip(&self.postings.freqs()[self.at..]) {
                let score = self.score_of(*row, *frequency);
                taken[end] = (*row, score);
                end += usize::from(score >= least);
            }
            taken.truncate(end);
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

/// Rows that have terms beside each other.
pub struct PhraseCursor {
    /// Each with its place in the phrase.
    terms: Vec<(u32, SegmentPostings)>,
    slop: u32,
    lengths: OwnedBytes,
    weight: f32,
    norms: Arc<Norms>,
    /// Rows that score less are not looked for.
    threshold: f32,
    row: u32,
    /// How often the row here has the phrase.
    count: u32,
    /// Where the phrase would begin, by each of the terms.
    starts: Vec<Vec<i64>>,
    positions: Vec<u32>,
}

impl PhraseCursor {
    pub fn new(
        terms: Vec<(u32, SegmentPostings)>,
        slop: u32,
        lengths: OwnedBytes,
        weight: f32,
        norms: Arc<Norms>,
    ) -> Self {
        let starts = vec![Vec::new(); terms.len()];
        let (threshold, row, count, positions) = (f32::NEG_INFINITY, 0, 0, vec![]);
        let mut cursor =
            Self { terms, slop, lengths, weight, norms, threshold, row, count, starts, positions };
        cursor.row = cursor.settle(0);
        cursor
    }

    /// Goes to the first row from `target` on that has the phrase.
    fn settle(&mut self, mut target: u32) -> u32 {
        loop {
            let row = meet(&mut self.terms, target, |(_, postings), row| seek_postings(postings, row));
            if row == END {
                return END;
            }
            if self.can_count(row) {
                self.count = self.occurrences();
                if self.count > 0 {
                    return row;
                }
            }
            target = row + 1;
        }
    }

    /// Whether the row here, where all terms are, may reach the threshold.
    fn can_count(&self, row: u32) -> bool {
        // It has the phrase at most as often as each of its terms.
        let most = self.terms.iter().map(|(_, postings)| postings.term_freq()).min().unwrap_or(0);
        self.threshold == f32::NEG_INFINITY || reaches(self.score_of(row, most), self.threshold)
    }

    fn score_of(&self, row: u32, count: u32) -> f32 {
        self.norms.score(self.weight, count, self.lengths[row as usize])
    }

    /// How often the phrase is in the row here: matches that do not overlap, whichever term is looked at first.
    fn occurrences(&mut self) -> u32 {
        for ((offset, postings), starts) in self.terms.iter_mut().zip(&mut self.starts) {
            postings.positions(&mut self.positions);
            starts.clear();
            starts.extend(self.positions.iter().map(|p| i64::from(*p) - i64::from(*offset)));
        }
        let offsets: Vec<i64> = self.terms.iter().map(|(offset, _)| i64::from(*offset)).collect();
        count_windows(&self.starts, &offsets, i64::from(self.slop))
    }
}

/// Matches of a phrase: of each list one number, all within `slop` of each other, and no two of the same word of the text,
/// which are at their number and the offset of their list; each number is used once.
fn count_windows(lists: &[Vec<i64>], offsets: &[i64], slop: i64) -> u32 {
    let mut next = vec![0; lists.len()];
    let mut words = Vec::with_capacity(lists.len());
    let mut count = 0;
    loop {
        let (mut first, mut last) = ((i64::MAX, 0), i64::MIN);
        words.clear();
        for (list, ((numbers, at), offset)) in lists.iter().zip(&next).zip(offsets).enumerate() {
            let Some(number) = numbers.get(*at) else {
                return count;
            };
            first = first.min((*number, list));
            last = last.max(*number);
            words.push(number + offset);
        }
        words.sort_unstable();
        if last - first.0 <= slop && words.windows(2).all(|pair| pair[0] != pair[1]) {
            count += 1;
            next.iter_mut().for_each(|at| *at += 1);
        } else {
            next[first.1] += 1;
        }
    }
}

/// The first row from `target` on that all have; `seek` goes to the first of one from a row on.
fn meet<T>(all: &mut [T], mut target: u32, seek: impl Fn(&mut T, u32) -> u32) -> u32 {
    'candidate: while target < END {
        for one in all.iter_mut() {
            let row = seek(one, target);
            if row != target {
                target = row;
                continue 'candidate;
            }
        }
        return target;
    }
    END
}

/// The first row of a term from `target` on.
fn seek_postings(postings: &mut SegmentPostings, target: u32) -> u32 {
    if postings.doc() >= target { postings.doc() } else { postings.seek(target) }
}

impl Cursor for PhraseCursor {
    fn row(&self) -> u32 {
        self.row
    }

    fn seek(&mut self, target: u32) -> u32 {
        if self.row < target {
            self.row = self.settle(target);
        }
        self.row
    }

    fn score(&mut self) -> f32 {
        self.score_of(self.row, self.count)
    }

    fn raise(&mut self, threshold: f32) {
        self.threshold = self.threshold.max(threshold);
    }
}

/// Rows that all score the same.
pub struct RowsCursor {
    rows: roaring::bitmap::IntoIter,
    row: u32,
    score: f32,
}

impl RowsCursor {
    pub fn new(rows: RowSet, score: f32) -> Self {
        let mut rows = rows.into_iter();
        let row = rows.next().unwrap_or(END);
        Self { rows, row, score }
    }
}

impl Cursor for RowsCursor {
    fn row(&self) -> u32 {
        self.row
    }

    fn seek(&mut self, target: u32) -> u32 {
        if self.row < target {
            self.rows.advance_to(target);
            self.row = self.rows.next().unwrap_or(END);
        }
        self.row
    }

    fn score(&mut self) -> f32 {
        self.score
    }
}

/// Rows that match all of `must`, or any of `should` where there is no `must`, and none of `not`.
pub struct BoolCursor {
    must: Vec<Box<dyn Cursor>>,
    should: Vec<Box<dyn Cursor>>,
    not: Vec<Box<dyn Cursor>>,
    row: u32,
}

impl BoolCursor {
    pub fn new(must: Vec<Box<dyn Cursor>>, should: Vec<Box<dyn Cursor>>, not: Vec<Box<dyn Cursor>>) -> Self {
        let mut cursor = Self { must, should, not, row: 0 };
        cursor.row = cursor.settle(0);
        cursor
    }

    fn settle(&mut self, mut target: u32) -> u32 {
        loop {
            let row = match self.must.is_empty() {
                true => self.should.iter_mut().map(|c| c.seek(target)).min().unwrap_or(END),
                false => meet(&mut self.must, target, |cursor, row| cursor.seek(row)),
            };
            if row == END || !self.not.iter_mut().any(|c| c.seek(row) == row) {
                return row;
            }
            target = row + 1;
        }
    }
}

impl Cursor for BoolCursor {
    fn row(&self) -> u32 {
        self.row
    }

    fn seek(&mut self, target: u32) -> u32 {
        if self.row < target {
            self.row = self.settle(target);
        }
        self.row
    }

    fn score(&mut self) -> f32 {
        // In the order of the query, which decides the last bits.
        let mut score = 0.0;
        for cursor in self.must.iter_mut().chain(&mut self.should) {
            if cursor.seek(self.row) == self.row {
                score += cursor.score();
            }
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_counted_whichever_list_comes_first() {
        // "a b" with a at 0, 1 and b at 2, 3: where the phrase would begin.
        let (a, b) = (vec![0, 1], vec![1, 2]);
        assert_eq!(count_windows(&[a.clone(), b.clone()], &[0, 1], 0), 1);
        assert_eq!(count_windows(&[b.clone(), a.clone()], &[1, 0], 0), 1);
        assert_eq!(count_windows(&[a.clone(), b.clone()], &[0, 1], 1), 2);
        assert_eq!(count_windows(&[b, a], &[1, 0], 1), 2);
        assert_eq!(count_windows(&[vec![], vec![1]], &[0, 1], 9), 0);
        // "a a" with one a, and with two.
        assert_eq!(count_windows(&[vec![4], vec![3]], &[0, 1], 2), 0);
        assert_eq!(count_windows(&[vec![4, 5], vec![3, 4]], &[0, 1], 2), 1);
    }
}
