//! The frequencies of a frequent term in all rows of a segment, for random access without decoding its
//! postings.

/// Rows in one word of 64 bits.
const ROWS_PER_WORD: usize = 32;
/// The code of this frequency and all larger ones.
const FREQUENCY_CODE_MAX: u32 = 3;

/// Two bits for each row: the frequencies 0, 1 and 2, or larger.
#[derive(Debug)]
pub(crate) struct TermFrequencyBitmap {
    words: Vec<u64>,
}

/// The frequency of a term in a row, as far as it is known without its postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frequency {
    /// The exact frequency. 0 means that the row does not have the term.
    Known(u32),
    /// The frequency has to be read from the postings.
    Unknown,
}

impl TermFrequencyBitmap {
    /// A bitmap of a segment with `rows` rows, in which all frequencies are 0.
    pub(crate) fn new(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(ROWS_PER_WORD)] }
    }

    /// Size in memory in bytes: a quarter of the number of rows.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Sets the frequency of a row. A row must be set only once.
    pub(crate) fn set(&mut self, row: u32, frequency: u32) {
        let row = row as usize;
        let code = u64::from(frequency.min(FREQUENCY_CODE_MAX));
        self.words[row / ROWS_PER_WORD] |= code << (row % ROWS_PER_WORD * 2);
    }

    /// The frequency of a row; 0 for rows beyond the segment.
    pub(crate) fn get(&self, row: u32) -> Frequency {
        let row = row as usize;
        let word = self.words.get(row / ROWS_PER_WORD).copied().unwrap_or_default();
        match (word >> (row % ROWS_PER_WORD * 2)) as u32 & FREQUENCY_CODE_MAX {
            FREQUENCY_CODE_MAX => Frequency::Unknown,
            frequency => Frequency::Known(frequency),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_frequency() {
        let mut bitmap = TermFrequencyBitmap::new(70);
        let frequency = |row: u32| row * 7 % 5;
        (0..70).for_each(|row| bitmap.set(row, frequency(row)));
        for row in 0..70 {
            let expected = match frequency(row) {
                frequency if frequency < FREQUENCY_CODE_MAX => Frequency::Known(frequency),
                _ => Frequency::Unknown,
            };
            assert_eq!(bitmap.get(row), expected, "row {row}");
        }
        assert_eq!(bitmap.get(1_000), Frequency::Known(0));
    }
}
