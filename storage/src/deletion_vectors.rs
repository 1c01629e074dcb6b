//! Rows of a segment that a version does not see, kept from one read to the next.
//!
//! A version sees a prefix of the deletions of a segment. What was put together for one prefix is the beginning of
//! what a longer one needs, so that of a segment from which rows are deleted all the time each reader puts together
//! only what is new.

use std::sync::Arc;

use moka::sync::Cache;
use plexus_model::{DeletionVector, DeletionVectorData, RowSet, SegmentId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of such sets that a node keeps.
const BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Which deletions a set is of: of transactions that are not committed there may be several at one version.
pub type Fingerprint = u64;

#[derive(Clone, Debug)]
pub struct DeletionVectorCache {
    sets: Cache<(SegmentId, Fingerprint), Arc<RowSet>>,
    /// The longest prefix that was put together for a segment, and its length.
    latest: Cache<SegmentId, (usize, Fingerprint)>,
}

impl Default for DeletionVectorCache {
    fn default() -> Self {
        let weight = |_: &(SegmentId, Fingerprint), rows: &Arc<RowSet>| {
            // What it takes in memory is about what it takes encoded.
            u32::try_from(rows.serialized_size() + 64).unwrap_or(u32::MAX)
        };
        Self {
            sets: Cache::builder().max_capacity(BYTES_MAX).weigher(weight).build(),
            latest: Cache::new(BYTES_MAX / 1024),
        }
    }
}

impl DeletionVectorCache {
    pub fn get(&self, segment: SegmentId, fingerprint: Fingerprint) -> Option<Arc<RowSet>> {
        self.sets.get(&(segment, fingerprint))
    }

    /// The longest prefix of deletions that is known: its length, and its rows. `prefixes` are those of the
    /// deletions, from the first on.
    pub fn longest(&self, segment: SegmentId, prefixes: &[Fingerprint]) -> Option<(usize, Arc<RowSet>)> {
        let (length, fingerprint) = self.latest.get(&segment)?;
        if prefixes.get(length.checked_sub(1)?) != Some(&fingerprint) {
            return None;
        }
        Some((length, self.get(segment, fingerprint)?))
    }

    pub fn insert(&self, segment: SegmentId, prefixes: &[Fingerprint], rows: Arc<RowSet>) {
        let Some(last) = prefixes.last() else {
            return;
        };
        self.sets.insert((segment, *last), rows);
        // One that is no prefix of these is of a transaction that was not committed, or of these no more.
        let shorter = |(length, fingerprint): (usize, Fingerprint)| {
            length < prefixes.len() || prefixes.get(length - 1) != Some(&fingerprint)
        };
        if self.latest.get(&segment).is_none_or(shorter) {
            self.latest.insert(segment, (prefixes.len(), *last));
        }
    }
}

/// The fingerprint of every prefix of deletions, from that of the first alone on.
pub fn prefixes<'a>(deletions: impl Iterator<Item = &'a DeletionVector>) -> Vec<Fingerprint> {
    deletions
        .scan(0, |fingerprint, deletion| {
            let seed = *fingerprint ^ deletion.added.0.rotate_left(32) ^ deletion.count;
            *fingerprint = match &deletion.rows {
                DeletionVectorData::Inline(bytes) => xxh3_64_with_seed(bytes, seed),
                DeletionVectorData::File { id, .. } => xxh3_64_with_seed(&id.0.to_le_bytes(), seed),
            };
            Some(*fingerprint)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use plexus_model::Version;

    use super::*;

    fn deletion(version: u64, row: u32) -> DeletionVector {
        DeletionVector { added: Version(version), ..DeletionVector::inline(&RowSet::from_iter([row])) }
    }

    #[test]
    fn a_longer_prefix_goes_on_from_a_shorter_one_and_another_does_not() {
        let cache = DeletionVectorCache::default();
        let segment = SegmentId(1);
        let all = [deletion(1, 1), deletion(2, 2), deletion(3, 3)];
        let known = prefixes(all.iter());
        cache.insert(segment, &known[..2], Arc::new(RowSet::from_iter([1, 2])));
        assert_eq!(cache.longest(segment, &known).map(|(n, rows)| (n, rows.len())), Some((2, 2)));
        assert!(cache.get(segment, known[1]).is_some());
        assert!(cache.longest(segment, &known[..1]).is_none());
        // The same version of another transaction.
        let other = prefixes([deletion(1, 1), deletion(2, 9)].iter());
        assert!(cache.get(segment, other[1]).is_none());
        assert!(cache.longest(segment, &other).is_none());
        assert!(cache.longest(SegmentId(2), &known).is_none());
    }
}
