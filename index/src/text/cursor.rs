//! Document-at-a-time evaluation: cursors over the rows that match a query, in ascending order, with their
//! scores.

use plexus_model::RowSet;
use tantivy::TERMINATED;

/// The row of a cursor behind its last match.
pub(crate) const END: u32 = TERMINATED;

/// A position in the rows that match a query. A new cursor is at the first match.
pub(crate) trait Cursor: Send {
    /// The current row; [`END`] behind the last match.
    fn row(&self) -> u32;

    /// Moves to the first match at or after `target`, and returns its row. Never moves backward.
    fn seek(&mut self, target: u32) -> u32;

    /// The score of the current row.
    fn score(&mut self) -> f32;

    /// Lets the cursor skip rows that score less than `threshold`.
    fn raise_threshold(&mut self, _threshold: f32) {}
}

/// Moves all cursors to the first row at or after `target` that they have in common, and returns it. `seek`
/// moves one cursor to its first row at or after a target.
pub(crate) fn seek_common<T>(cursors: &mut [T], mut target: u32, seek: impl Fn(&mut T, u32) -> u32) -> u32 {
    'candidate: while target < END {
        for cursor in cursors.iter_mut() {
            let row = seek(cursor, target);
            if row != target {
                target = row;
                continue 'candidate;
            }
        }
        return target;
    }
    END
}

/// A set of rows that all have the same score.
pub(crate) struct ConstantScoreCursor {
    rows: roaring::bitmap::IntoIter,
    row: u32,
    score: f32,
}

impl ConstantScoreCursor {
    pub(crate) fn new(rows: RowSet, score: f32) -> Self {
        let mut rows = rows.into_iter();
        let row = rows.next().unwrap_or(END);
        Self { rows, row, score }
    }
}

impl Cursor for ConstantScoreCursor {
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

/// Rows that match all of `must`, or any of `should` if `must` is empty, and none of `must_not`.
pub(crate) struct BoolCursor {
    must: Vec<Box<dyn Cursor>>,
    should: Vec<Box<dyn Cursor>>,
    must_not: Vec<Box<dyn Cursor>>,
    row: u32,
}

impl BoolCursor {
    pub(crate) fn new(
        must: Vec<Box<dyn Cursor>>,
        should: Vec<Box<dyn Cursor>>,
        must_not: Vec<Box<dyn Cursor>>,
    ) -> Self {
        let mut cursor = Self { must, should, must_not, row: 0 };
        cursor.row = cursor.first_match(0);
        cursor
    }

    /// The first match at or after `target`.
    fn first_match(&mut self, mut target: u32) -> u32 {
        loop {
            let row = match self.must.is_empty() {
                true => self.should.iter_mut().map(|c| c.seek(target)).min().unwrap_or(END),
                false => seek_common(&mut self.must, target, |cursor, row| cursor.seek(row)),
            };
            if row == END || !self.must_not.iter_mut().any(|c| c.seek(row) == row) {
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
            self.row = self.first_match(target);
        }
        self.row
    }

    fn score(&mut self) -> f32 {
        // Scores are added in the order of the query, since the order decides the last bits of the sum.
        let mut score = 0.0;
        for cursor in self.must.iter_mut().chain(&mut self.should) {
            if cursor.seek(self.row) == self.row {
                score += cursor.score();
            }
        }
        score
    }
}

/// Rows that match at least `count` of some queries, with the sum of their scores.
pub(crate) struct AtLeastCursor {
    cursors: Vec<Box<dyn Cursor>>,
    count: usize,
    row: u32,
}

impl AtLeastCursor {
    pub(crate) fn new(cursors: Vec<Box<dyn Cursor>>, count: usize) -> Self {
        let mut cursor = Self { cursors, count: count.max(1), row: 0 };
        cursor.row = cursor.first_match(0);
        cursor
    }

    /// The first match at or after `target`.
    fn first_match(&mut self, mut target: u32) -> u32 {
        while target != END {
            let mut rows: Vec<u32> = self.cursors.iter_mut().map(|cursor| cursor.seek(target)).collect();
            // Before the row at which the wanted number of them has arrived there is none with so many.
            let Some(last) = self.count.checked_sub(1).filter(|last| *last < rows.len()) else {
                return END;
            };
            let (_, candidate, _) = rows.select_nth_unstable(last);
            let candidate = *candidate;
            let matches = self
                .cursors
                .iter_mut()
                .filter_map(|cursor| (candidate != END && cursor.seek(candidate) == candidate).then_some(()));
            if candidate == END || matches.count() >= self.count {
                return candidate;
            }
            target = candidate + 1;
        }
        END
    }
}

impl Cursor for AtLeastCursor {
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
        let mut score = 0.0;
        for cursor in &mut self.cursors {
            if cursor.seek(self.row) == self.row {
                score += cursor.score();
            }
        }
        score
    }
}
