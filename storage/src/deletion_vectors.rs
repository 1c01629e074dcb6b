//! A cache of the deleted rows of segments.
//!
//! The rows that are deleted at a version are the union of the deletion vectors up to it, which are a prefix
//! of all deletion vectors of the segment. The union of a prefix is the starting point for every longer
//! prefix. So when rows are deleted from a segment repeatedly, each reader decodes only the new deletion
//! vectors.

use std::sync::Arc;

use moka::sync::Cache;
use plexus_model::{DeletionVector, DeletionVectorData, RowSet, SegmentId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Total size of the cached sets.
const BYTES_MAX: u64 = 128 * 1024 * 1024;

/// A hash of a prefix of deletion vectors. A version does not identify a prefix: several open transactions
/// can have uncommitted deletions at the same version.
pub(crate) type Fingerprint = u64;

/// The unions of deletion vectors, by segment and prefix.
#[derive(Clone, Debug)]
pub(crate) struct DeletionVectorCache {
    sets: Cache<(SegmentId, Fingerprint), Arc<RowSet>>,
    /// The length and fingerprint of the longest cached prefix of each segment.
    longest: Cache<SegmentId, (usize, Fingerprint)>,
}

impl Default for DeletionVectorCache {
    fn default() -> Self {
        let weight = |_: &(SegmentId, Fingerprint), rows: &Arc<RowSet>| {
            // The size in memory is about the encoded size.
            u32::try_from(rows.serialized_size() + 64).unwrap_or(u32::MAX)
        };
        Self {
            sets: Cache::builder().max_capacity(BYTES_MAX).weigher(weight).build(),
            longest: Cache::new(BYTES_MAX / 1024),
        }
    }
}

impl DeletionVectorCache {
    /// The deleted rows of the prefix with this fingerprint.
    pub(crate) fn get(&self, segment: SegmentId, fingerprint: Fingerprint) -> Option<Arc<RowSet>> {
        self.sets.get(&(segment, fingerprint))
    }

    /// The longest cached prefix: its length and its deleted rows. `fingerprints` are those of all prefixes
    /// of the wanted deletion vectors, see [`prefix_fingerprints`].
    pub(crate) fn longest_prefix(
        &self,
        segment: SegmentId,
        fingerprints: &[Fingerprint],
    ) -> Option<(usize, Arc<RowSet>)> {
        let (length, fingerprint) = self.longest.get(&segment)?;
        if fingerprints.get(length.checked_sub(1)?) != Some(&fingerprint) {
            return None;
        }
        Some((length, self.get(segment, fingerprint)?))
    }

    /// Stores the deleted rows of the last of these prefixes.
    pub(crate) fn insert(&self, segment: SegmentId, fingerprints: &[Fingerprint], rows: Arc<RowSet>) {
        let Some(last) = fingerprints.last() else {
            return;
        };
        self.sets.insert((segment, *last), rows);
        // A cached entry that is not a prefix of these deletion vectors is stale: it belongs to a transaction
        // that was not committed, or the deletion vectors were replaced.
        let is_outdated = |(length, fingerprint): (usize, Fingerprint)| {
            length < fingerprints.len() || fingerprints.get(length - 1) != Some(&fingerprint)
        };
        if self.longest.get(&segment).is_none_or(is_outdated) {
            self.longest.insert(segment, (fingerprints.len(), *last));
        }
    }
}

/// The fingerprints of all prefixes of deletion vectors, from length one on.
pub(crate) fn prefix_fingerprints<'a>(
    deletions: impl Iterator<Item = &'a DeletionVector>,
) -> Vec<Fingerprint> {
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
    fn a_longer_prefix_extends_a_shorter_one_of_the_same_history() {
        let cache = DeletionVectorCache::default();
        let segment = SegmentId(1);
        let all = [deletion(1, 1), deletion(2, 2), deletion(3, 3)];
        let fingerprints = prefix_fingerprints(all.iter());
        cache.insert(segment, &fingerprints[..2], Arc::new(RowSet::from_iter([1, 2])));
        assert_eq!(
            cache.longest_prefix(segment, &fingerprints).map(|(n, rows)| (n, rows.len())),
            Some((2, 2))
        );
        assert!(cache.get(segment, fingerprints[1]).is_some());
        assert!(cache.longest_prefix(segment, &fingerprints[..1]).is_none());
        // Another transaction with deletions at the same version.
        let other = prefix_fingerprints([deletion(1, 1), deletion(2, 9)].iter());
        assert!(cache.get(segment, other[1]).is_none());
        assert!(cache.longest_prefix(segment, &other).is_none());
        assert!(cache.longest_prefix(SegmentId(2), &fingerprints).is_none());
    }
}
