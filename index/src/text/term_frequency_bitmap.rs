//! Frequencies of a term that is in many of a segment's rows, looked up without unpacking its postings.

/// Rows of a word.
const ROWS: usize = 32;
/// Of a row that the term is in so often or more often.
const MANY: u32 = 3;

/// Two bits a row: zero, once, twice, or more often than that.
#[derive(Debug)]
pub struct TermFrequencyBitmap {
    words: Vec<u64>,
}

/// How often a term is in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequency {
    Known(u32),
    /// Not without a look at the postings.
    Unknown,
}

impl TermFrequencyBitmap {
    pub fn new(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(ROWS)] }
    }

    /// Bytes that it takes: a quarter of the number of rows.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Of a row that none was set of before.
    pub fn set(&mut self, row: u32, frequency: u32) {
        let row = row as usize;
        self.words[row / ROWS] |= u64::from(frequency.min(MANY)) << (row % ROWS * 2);
    }

    /// Of any row, also of none of the segment.
    pub fn get(&self, row: u32) -> Frequency {
        let row = row as usize;
        let word = self.words.get(row / ROWS).copied().unwrap_or_default();
        match (word >> (row % ROWS * 2)) as u32 & MANY {
            MANY => Frequency::Unknown,
            frequency => Frequency::Known(frequency),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_frequency() {
        let mut dense = TermFrequencyBitmap::new(70);
        let of = |row: u32| row * 7 % 5;
        (0..70).for_each(|row| dense.set(row, of(row)));
        for row in 0..70 {
            let expected = if of(row) < MANY { Frequency::Known(of(row)) } else { Frequency::Unknown };
            assert_eq!(dense.get(row), expected, "row {row}");
        }
        assert_eq!(dense.get(1_000), Frequency::Known(0));
    }
}
