//! Which rows of a segment may have a key: sorted hashes with their rows.
//!
//! The hashes are those of `model`'s placement, uniform over 64 bits, so that the place of one is found by
//! interpolation in a step or two, without a filter in front. Layout, little-endian: magic, count, the hashes
//! in ascending order, the row of each. Equal hashes stand in the order of their rows. A hash that is found
//! says that the key may be there; only the key itself says that it is.

use bytes::Bytes;
use plexus_model::{Error, Result};

const MAGIC: &[u8; 8] = b"PLXKEYS1";
const HEADER_BYTES: usize = 16;
const HASH_BYTES: usize = 8;
const ROW_BYTES: usize = 4;
/// Steps of a walk that one lookup costs, about.
const LOOKUP_STEPS: usize = 16;

/// The index of a segment whose row `i` has a key with hash `hashes[i]`.
pub fn build_keys(hashes: &[u64]) -> Vec<u8> {
    let mut entries: Vec<(u64, u32)> = hashes.iter().copied().zip(0..).collect();
    entries.sort_unstable();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * (HASH_BYTES + ROW_BYTES));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|(hash, _)| bytes.extend_from_slice(&hash.to_le_bytes()));
    entries.iter().for_each(|(_, row)| bytes.extend_from_slice(&row.to_le_bytes()));
    bytes
}

/// Reads what [`build_keys`] wrote.
#[derive(Clone, Debug)]
pub struct KeyIndex {
    bytes: Bytes,
    count: usize,
}

impl KeyIndex {
    /// # Errors
    /// `Corrupt` when the bytes are not a key index, or not all of one.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let wrong = |what: &str| Error::corrupt(format!("key index of {} bytes: {what}", bytes.len()));
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(wrong("it does not begin as one"));
        }
        let count = u64::from_le_bytes(word(&bytes, 8));
        let expected = count.checked_mul((HASH_BYTES + ROW_BYTES) as u64);
        if expected.and_then(|n| n.checked_add(HEADER_BYTES as u64)) != Some(bytes.len() as u64) {
            return Err(wrong("its length is not that of its keys"));
        }
        Ok(Self { count: count as usize, bytes })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The hash at `position`, in ascending order.
    pub fn hash(&self, position: usize) -> u64 {
        u64::from_le_bytes(word(&self.bytes, HEADER_BYTES + position * HASH_BYTES))
    }

    fn row(&self, position: usize) -> u32 {
        let start = HEADER_BYTES + self.count * HASH_BYTES + position * ROW_BYTES;
        u32::from_le_bytes(word(&self.bytes, start))
    }

    /// Rows whose key may be one with this hash, in ascending order.
    pub fn rows(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let first = self.first_at_least(hash);
        (first..self.count).take_while(move |&i| self.hash(i) == hash).map(|i| self.row(i))
    }

    /// Pairs of a row here and a row there whose keys may be equal.
    pub fn common(&self, other: &Self) -> Vec<(u32, u32)> {
        // A few keys are looked up one by one; many are met on one walk over both.
        if self.count.saturating_mul(LOOKUP_STEPS) < other.count {
            let mine = (0..self.count).map(|i| (self.hash(i), self.row(i)));
            return mine.flat_map(|(hash, row)| other.rows(hash).map(move |o| (row, o))).collect();
        }
        let mut pairs = Vec::new();
        let mut start = 0;
        for i in 0..self.count {
            let hash = self.hash(i);
            while start < other.count && other.hash(start) < hash {
                start += 1;
            }
            let equal = (start..other.count).take_while(|&j| other.hash(j) == hash);
            pairs.extend(equal.map(|j| (self.row(i), other.row(j))));
        }
        pairs
    }

    /// The first position whose hash is not below `hash`. Interpolates; every other step halves what is
    /// left, so that hashes that are not uniform cost no more than a binary search twice over.
    fn first_at_least(&self, hash: u64) -> usize {
        let (mut low, mut high) = (0, self.count);
        let mut halve = false;
        while low < high {
            let (first, last) = (self.hash(low), self.hash(high - 1));
            if hash <= first {
                return low;
            }
            if hash > last {
                return high;
            }
            let middle = match halve {
                true => low + (high - low) / 2,
                false => {
                    // Between 0 and 1, since first < hash <= last.
                    let share = (hash - first) as f64 / (last - first) as f64;
                    low + ((share * (high - 1 - low) as f64) as usize).min(high - 1 - low)
                }
            };
            match self.hash(middle) < hash {
                true => low = middle + 1,
                false => high = middle,
            }
            halve = !halve;
        }
        low
    }
}

fn word<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    bytes[start..start + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_hash_is_found_at_all_its_rows_and_no_other(
            hashes in proptest::collection::vec(prop_oneof![0u64..40, any::<u64>(), Just(u64::MAX)], 0..200),
            others in proptest::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..50),
        ) {
            let index = KeyIndex::open(build_keys(&hashes).into()).unwrap();
            for hash in hashes.iter().chain(&others) {
                let expected: Vec<u32> =
                    hashes.iter().zip(0..).filter(|(h, _)| *h == hash).map(|(_, row)| row).collect();
                prop_assert_eq!(index.rows(*hash).collect::<Vec<_>>(), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn common_hashes_are_met_however_many_there_are(
            few in proptest::collection::vec(0u64..60, 0..8),
            many in proptest::collection::vec(0u64..60, 0..300),
        ) {
            let (a, b) = (KeyIndex::open(build_keys(&few).into()).unwrap(), KeyIndex::open(build_keys(&many).into()).unwrap());
            let mut expected = Vec::new();
            for (i, x) in (0..).zip(&few) {
                expected.extend((0..).zip(&many).filter(|(_, y)| x == *y).map(|(j, _)| (i, j)));
            }
            expected.sort_unstable();
            let sorted = |mut pairs: Vec<(u32, u32)>| { pairs.sort_unstable(); pairs };
            prop_assert_eq!(sorted(a.common(&b)), expected.clone());
            prop_assert_eq!(sorted(b.common(&a)), sorted(expected.into_iter().map(|(i, j)| (j, i)).collect()));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = build_keys(&[1, 2, 3]);
        for length in [0, 8, 15, bytes.len() - 1] {
            assert!(KeyIndex::open(Bytes::copy_from_slice(&bytes[..length])).is_err(), "{length}");
        }
    }
}
