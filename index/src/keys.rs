//! The primary-key index of a segment: sorted key hashes, each with its row.
//!
//! The hashes are those of `plexus_model::placement`. They are uniform over 64 bits, so interpolation search
//! finds one in a step or two and no filter is needed in front. A matching hash only says that the key may be
//! present; the caller compares the key itself.
//!
//! Layout, little-endian: magic (8 bytes), number of entries (8), all hashes in ascending order (8 each), the
//! row of each hash (4 each). Equal hashes are ordered by row.

use bytes::Bytes;
use plexus_model::{Error, Result};

const MAGIC: &[u8; 8] = b"PLXKEYS1";
const HEADER_BYTES: usize = 16;
const HASH_BYTES: usize = 8;
const ROW_BYTES: usize = 4;
/// Approximate cost of one lookup, in steps of a merge of two indexes.
const LOOKUP_COST_STEPS: usize = 16;

/// Builds the index of a segment whose row `i` has a key with hash `hashes[i]`.
pub fn build_key_index(hashes: &[u64]) -> Vec<u8> {
    let mut entries: Vec<(u64, u32)> = hashes.iter().copied().zip(0..).collect();
    entries.sort_unstable();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * (HASH_BYTES + ROW_BYTES));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|(hash, _)| bytes.extend_from_slice(&hash.to_le_bytes()));
    entries.iter().for_each(|(_, row)| bytes.extend_from_slice(&row.to_le_bytes()));
    bytes
}

/// Reader of the bytes that [`build_key_index`] writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyIndex {
    bytes: Bytes,
    entries: usize,
}

impl KeyIndex {
    /// Opens an index. Only its size is checked, not the order of its hashes.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a complete key index.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(format!("key index of {} bytes: {what}", bytes.len()));
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(corrupt("the magic number is missing"));
        }
        let entries = u64::from_le_bytes(array_at(&bytes, 8));
        let expected = entries.checked_mul((HASH_BYTES + ROW_BYTES) as u64);
        if expected.and_then(|n| n.checked_add(HEADER_BYTES as u64)) != Some(bytes.len() as u64) {
            return Err(corrupt("the size does not match the number of keys"));
        }
        Ok(Self { entries: entries as usize, bytes })
    }

    /// Number of rows in the index.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Size of the index in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the index has no rows.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn hash_at(&self, entry: usize) -> u64 {
        u64::from_le_bytes(array_at(&self.bytes, HEADER_BYTES + entry * HASH_BYTES))
    }

    fn row_at(&self, entry: usize) -> u32 {
        let start = HEADER_BYTES + self.entries * HASH_BYTES + entry * ROW_BYTES;
        u32::from_le_bytes(array_at(&self.bytes, start))
    }

    /// Rows whose key has this hash, in ascending order.
    pub fn rows_with_hash(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let first = self.lower_bound(hash);
        (first..self.entries).take_while(move |&i| self.hash_at(i) == hash).map(|i| self.row_at(i))
    }

    /// Joins two indexes on the hash: pairs of a row of `self` and a row of `other` whose keys may be equal.
    pub fn join_hashes(&self, other: &Self) -> Vec<(u32, u32)> {
        // A merge reads all of `other`, which does not pay off for a few keys.
        if self.entries.saturating_mul(LOOKUP_COST_STEPS) < other.entries {
            let own = (0..self.entries).map(|i| (self.hash_at(i), self.row_at(i)));
            let pairs = own.flat_map(|(hash, row)| other.rows_with_hash(hash).map(move |o| (row, o)));
            return pairs.collect();
        }
        let mut pairs = Vec::new();
        let mut start = 0;
        for i in 0..self.entries {
            let hash = self.hash_at(i);
            while start < other.entries && other.hash_at(start) < hash {
                start += 1;
            }
            let equal = (start..other.entries).take_while(|&j| other.hash_at(j) == hash);
            pairs.extend(equal.map(|j| (self.row_at(i), other.row_at(j))));
        }
        pairs
    }

    /// The first entry whose hash is not below `hash`.
    ///
    /// Steps of interpolation and of bisection alternate, so that skewed hashes cost at most twice the steps
    /// of a binary search.
    fn lower_bound(&self, hash: u64) -> usize {
        let (mut low, mut high) = (0, self.entries);
        let mut bisect = false;
        while low < high {
            let (first, last) = (self.hash_at(low), self.hash_at(high - 1));
            if hash <= first {
                return low;
            }
            if hash > last {
                return high;
            }
            let middle = match bisect {
                true => low + (high - low) / 2,
                false => {
                    // Between 0 and 1, since first < hash <= last.
                    let fraction = (hash - first) as f64 / (last - first) as f64;
                    low + ((fraction * (high - 1 - low) as f64) as usize).min(high - 1 - low)
                }
            };
            match self.hash_at(middle) < hash {
                true => low = middle + 1,
                false => high = middle,
            }
            bisect = !bisect;
        }
        low
    }
}

fn array_at<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    bytes[start..start + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(hashes: &[u64]) -> KeyIndex {
        KeyIndex::open(build_key_index(hashes).into()).unwrap()
    }

    proptest! {
        #[test]
        fn lookup_finds_exactly_the_rows_of_a_hash(
            hashes in proptest::collection::vec(
                prop_oneof![0u64..40, any::<u64>(), Just(u64::MAX)], 0..200),
            others in proptest::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..50),
        ) {
            let index = open(&hashes);
            for hash in hashes.iter().chain(&others) {
                let expected: Vec<u32> =
                    hashes.iter().zip(0..).filter(|(h, _)| *h == hash).map(|(_, row)| row).collect();
                prop_assert_eq!(index.rows_with_hash(*hash).collect::<Vec<_>>(), expected);
            }
        }

        /// The sizes make `common` use lookups in one direction and a merge in the other.
        #[test]
        fn common_joins_small_and_large_indexes(
            few in proptest::collection::vec(0u64..60, 0..8),
            many in proptest::collection::vec(0u64..60, 0..300),
        ) {
            let (a, b) = (open(&few), open(&many));
            let mut expected = Vec::new();
            for (i, x) in (0..).zip(&few) {
                expected.extend((0..).zip(&many).filter(|(_, y)| x == *y).map(|(j, _)| (i, j)));
            }
            expected.sort_unstable();
            let sorted = |mut pairs: Vec<(u32, u32)>| { pairs.sort_unstable(); pairs };
            prop_assert_eq!(sorted(a.join_hashes(&b)), expected.clone());
            let swapped = expected.into_iter().map(|(i, j)| (j, i)).collect();
            prop_assert_eq!(sorted(b.join_hashes(&a)), sorted(swapped));
        }
    }

    #[test]
    fn truncated_bytes_are_corrupt() {
        let bytes = build_key_index(&[1, 2, 3]);
        for size in [0, 8, 15, bytes.len() - 1] {
            assert!(KeyIndex::open(Bytes::copy_from_slice(&bytes[..size])).is_err(), "{size}");
        }
    }
}
