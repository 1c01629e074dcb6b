//! A cursor over the rows that contain a phrase.

use std::sync::Arc;

use tantivy::DocSet;
use tantivy::directory::OwnedBytes;
use tantivy::postings::{Postings, SegmentPostings};

use super::bm25::{Norms, can_reach};
use super::cursor::{Cursor, END, seek_common};

/// Rows that have the terms of a phrase next to each other, or within a slop.
pub(crate) struct PhraseCursor {
    /// The terms with their offsets in the phrase.
    terms: Vec<(u32, SegmentPostings)>,
    /// For each term the same one before it in the phrase, if it is repeated.
    repeated: Vec<Option<usize>>,
    /// How far the terms may be displaced in total, in tokens.
    slop: u32,
    /// The length code of each row.
    lengths: OwnedBytes,
    weight: f32,
    norms: Arc<Norms>,
    /// Rows that score less may be skipped.
    threshold: f32,
    row: u32,
    /// Occurrences of the phrase in the current row.
    frequency: u32,
    /// Buffer: for each term the positions where the phrase would start.
    starts: Vec<Vec<i64>>,
    /// Buffer of the positions of one term.
    positions: Vec<u32>,
}

impl PhraseCursor {
    pub(crate) fn new(
        terms: Vec<(u32, SegmentPostings)>,
        repeated: Vec<Option<usize>>,
        slop: u32,
        lengths: OwnedBytes,
        weight: f32,
        norms: Arc<Norms>,
    ) -> Self {
        let starts = vec![Vec::new(); terms.len()];
        let (threshold, row, frequency, positions) = (f32::NEG_INFINITY, 0, 0, vec![]);
        let mut cursor = Self {
            terms,
            repeated,
            slop,
            lengths,
            weight,
            norms,
            threshold,
            row,
            frequency,
            starts,
            positions,
        };
        cursor.row = cursor.first_match(0);
        cursor
    }

    /// The first match at or after `target`.
    fn first_match(&mut self, mut target: u32) -> u32 {
        loop {
            let seek = |(_, postings): &mut (u32, SegmentPostings), row| seek_postings(postings, row);
            let row = seek_common(&mut self.terms, target, seek);
            if row == END {
                return END;
            }
            if self.can_reach_threshold(row) {
                self.frequency = self.occurrences();
                if self.frequency > 0 {
                    return row;
                }
            }
            target = row + 1;
        }
    }

    /// Whether the current row of all terms may reach the threshold. Decoding positions is the expensive
    /// part.
    fn can_reach_threshold(&self, row: u32) -> bool {
        // The phrase occurs at most as often as each of its terms.
        let frequency_max = self.terms.iter().map(|(_, postings)| postings.term_freq()).min().unwrap_or(0);
        self.threshold == f32::NEG_INFINITY || can_reach(self.score_of(row, frequency_max), self.threshold)
    }

    fn score_of(&self, row: u32, frequency: u32) -> f32 {
        self.norms.score(self.weight, frequency, self.lengths[row as usize])
    }

    /// The occurrences of the phrase in the current row of all terms.
    fn occurrences(&mut self) -> u32 {
        for ((offset, postings), starts) in self.terms.iter_mut().zip(&mut self.starts) {
            postings.positions(&mut self.positions);
            starts.clear();
            starts.extend(self.positions.iter().map(|p| i64::from(*p) - i64::from(*offset)));
        }
        let offsets: Vec<i64> = self.terms.iter().map(|(offset, _)| i64::from(*offset)).collect();
        count_occurrences(&self.starts, &offsets, &self.repeated, i64::from(self.slop))
    }
}

/// Counts the occurrences of a phrase that do not overlap.
///
/// `starts` holds for each term the positions where the phrase would start, in ascending order. An
/// occurrence takes one start of each term, all within `slop` of each other. A term that is repeated takes a
/// later token, which is at the start plus the offset, than the one before it in `repeated`. Each start is
/// used once. The result does not depend on the order of the terms.
fn count_occurrences(starts: &[Vec<i64>], offsets: &[i64], repeated: &[Option<usize>], slop: i64) -> u32 {
    let mut next = vec![0; starts.len()];
    let mut by_offset: Vec<usize> = (0..starts.len()).collect();
    by_offset.sort_by_key(|term| offsets[*term]);
    let mut count = 0;
    loop {
        let ((mut first, mut first_term), mut last) = ((i64::MAX, 0), i64::MIN);
        for &term in &by_offset {
            let token = |term: usize, at: usize| starts[term].get(at).map(|start| start + offsets[term]);
            let before = repeated[term].and_then(|before| token(before, next[before]));
            while before.is_some() && token(term, next[term]).is_some_and(|token| Some(token) <= before) {
                next[term] += 1;
            }
            let Some(start) = starts[term].get(next[term]) else {
                return count;
            };
            (first, first_term) = (first, first_term).min((*start, term));
            last = last.max(*start);
        }
        if last - first <= slop {
            count += 1;
            next.iter_mut().for_each(|at| *at += 1);
        } else {
            next[first_term] += 1;
        }
    }
}

/// Moves to the first row at or after `target`. Unlike `SegmentPostings::seek`, the target may be before the
/// current row.
fn seek_postings(postings: &mut SegmentPostings, target: u32) -> u32 {
    if postings.doc() >= target { postings.doc() } else { postings.seek(target) }
}

impl Cursor for PhraseCursor {
    fn row(&self) -> u32 {
        self.row
    }

    fn seek(&mut self, target: u32) -> u32 {
        if self.row < target {
            self.row = self.first_match(target);
        }
        self.row
    }

    fn score(&mut self) -> f32 {
        self.score_of(self.row, self.frequency)
    }

    fn raise_threshold(&mut self, threshold: f32) {
        self.threshold = self.threshold.max(threshold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_do_not_depend_on_the_order_of_the_terms() {
        // The phrase "a b", with a at 0 and 1 and b at 2 and 3, as starts of the phrase.
        let (a, b) = (vec![0, 1], vec![1, 2]);
        let count = |starts: &[Vec<i64>], offsets: &[i64], slop| {
            count_occurrences(starts, offsets, &vec![None; starts.len()], slop)
        };
        assert_eq!(count(&[a.clone(), b.clone()], &[0, 1], 0), 1);
        assert_eq!(count(&[b.clone(), a.clone()], &[1, 0], 0), 1);
        assert_eq!(count(&[a.clone(), b.clone()], &[0, 1], 1), 2);
        assert_eq!(count(&[b, a], &[1, 0], 1), 2);
        assert_eq!(count(&[vec![], vec![1]], &[0, 1], 9), 0);
        // The phrase "a a" in a text with one a, and with two.
        assert_eq!(count_occurrences(&[vec![4], vec![3]], &[0, 1], &[None, Some(0)], 2), 0);
        assert_eq!(count_occurrences(&[vec![4, 5], vec![3, 4]], &[0, 1], &[None, Some(0)], 2), 1);
        // "c a a" in "c x a a", and "a a c" in "c a a".
        let repeated = [None, None, Some(1)];
        let starts = [vec![0], vec![1, 2], vec![0, 1]];
        assert_eq!(count_occurrences(&starts, &[0, 1, 2], &repeated, 0), 0);
        assert_eq!(count_occurrences(&starts, &[0, 1, 2], &repeated, 1), 1);
        let starts = [vec![1, 2], vec![0, 1], vec![-2]];
        assert_eq!(count_occurrences(&starts, &[0, 1, 2], &[None, Some(0), None], 2), 0);
        assert_eq!(count_occurrences(&starts, &[0, 1, 2], &[None, Some(0), None], 3), 1);
    }
}
