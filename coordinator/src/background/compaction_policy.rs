//! Selects the segments of a shard to compact. Pure functions: segment sizes in, a selection out.
//!
//! The policy is size-tiered. Segments are grouped by their bytes into tiers, each [`TIER_FACTOR`] times as
//! wide as the one below. When a tier has [`SizeTargets::fan_in`] segments, they are compacted into a segment
//! of a higher tier, so a row is rewritten about once per tier. Full segments are not compacted, unless many
//! of their rows are deleted.

use plexus_model::{IndexDefinition, IndexKind, SegmentId, Table};

use crate::limits::SEGMENT_BYTES_TARGET;

/// A segment as the policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompactionCandidate {
    /// The segment.
    pub(crate) id: SegmentId,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// Bytes of its rows in memory. The results of a compaction are cut by this measure.
    pub(crate) memory_bytes: u64,
    /// All of its rows, with the deleted ones.
    pub(crate) rows: u64,
    /// Its deleted rows.
    pub(crate) deleted_rows: u64,
    /// Number of its deletion vectors. A reader has to combine all of them.
    pub(crate) deletion_vectors: usize,
    /// Seconds since the segment was created.
    pub(crate) age_s: u64,
}

impl CompactionCandidate {
    fn is_full(&self, targets: &SizeTargets) -> bool {
        self.bytes >= targets.full_bytes || self.memory_bytes >= targets.full_memory_bytes
    }
}

/// How large the segments of a table should become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SizeTargets {
    /// Bytes in memory of the rows that compaction writes into one segment.
    pub(crate) target_bytes: usize,
    /// Bytes of a file from which a segment is full. A load writes segments of about this size.
    pub(crate) full_bytes: u64,
    /// Bytes in memory from which a segment is full, even when its file is small. Compacting such segments
    /// would only move the boundaries between them.
    pub(crate) full_memory_bytes: u64,
    /// Bytes of the source segments of one compaction. This bounds its memory.
    pub(crate) source_bytes_max: u64,
    /// Segments of one tier that start a compaction.
    pub(crate) fan_in: usize,
}

impl SizeTargets {
    /// For tables without an index of long vectors.
    pub(crate) const DEFAULT: Self = Self {
        target_bytes: SEGMENT_BYTES_TARGET,
        full_bytes: 16 * 1024 * 1024,
        full_memory_bytes: SEGMENT_BYTES_TARGET as u64 * 3 / 4,
        source_bytes_max: 96 * 1024 * 1024,
        fan_in: 8,
    };

    /// For tables with an index of long vectors. Searching one graph of four times the size costs hardly more
    /// than searching one of the four smaller graphs. Vectors take as many bytes on disk as in memory.
    pub(crate) const LONG_VECTORS: Self = Self {
        target_bytes: 4 * SEGMENT_BYTES_TARGET,
        full_bytes: SEGMENT_BYTES_TARGET as u64 * 3,
        full_memory_bytes: SEGMENT_BYTES_TARGET as u64 * 3,
        source_bytes_max: 6 * SEGMENT_BYTES_TARGET as u64,
        fan_in: 4,
    };

    /// The targets for a table, by its vector indexes.
    pub(crate) fn for_table(table: &Table) -> Self {
        let dimensions = |column: u32| {
            let column = table.schema.columns.iter().find(|c| c.id == column);
            column.and_then(|c| c.data_type.vector_dimensions()).unwrap_or_default()
        };
        // With short vectors, a segment of the default size has many rows already.
        let has_long_vectors = |index: &IndexDefinition| match index.kind {
            IndexKind::Vector { column, .. } => dimensions(column) >= LONG_VECTOR_DIMENSIONS_MIN,
            IndexKind::Text { .. } => false,
        };
        match table.schema.indexes.iter().any(has_long_vectors) {
            true => Self::LONG_VECTORS,
            false => Self::DEFAULT,
        }
    }
}

/// Dimensions from which [`SizeTargets::LONG_VECTORS`] applies.
const LONG_VECTOR_DIMENSIONS_MIN: u32 = 96;

/// Bytes up to which a segment is in the lowest tier.
const LOWEST_TIER_BYTES_MAX: u64 = 64 * 1024;

/// Ratio of the upper bounds of a tier and of the tier below.
const TIER_FACTOR: u64 = 4;

/// Fraction of deleted rows above which a segment is rewritten, because scans read its deleted rows in vain.
const DELETED_FRACTION_MAX: f64 = 0.2;

/// Deletion vectors above which a segment is rewritten, however few rows they delete.
const DELETION_VECTORS_MAX: usize = 4_096;

/// Seconds after which small segments are compacted even when their tier has too few of them.
const SMALL_SEGMENT_AGE_S_MAX: u64 = 10 * 60;

/// The segments to compact next, if any.
pub(crate) fn select_segments(
    segments: &[CompactionCandidate],
    targets: &SizeTargets,
) -> Option<Vec<SegmentId>> {
    select_for_deletions(segments)
        .or_else(|| select_tier(segments, targets))
        .or_else(|| select_old_small(segments, targets))
}

/// All segments that are not full or have deleted rows, in groups to compact one by one.
pub(crate) fn group_all(segments: &[CompactionCandidate], targets: &SizeTargets) -> Vec<Vec<SegmentId>> {
    let mut compactable: Vec<&CompactionCandidate> =
        segments.iter().filter(|s| !s.is_full(targets) || s.deleted_rows > 0).collect();
    // By age, so that rows that were written together stay together.
    compactable.sort_by_key(|s| s.id);
    let mut groups: Vec<Vec<&CompactionCandidate>> = Vec::new();
    let mut bytes = 0;
    for segment in compactable {
        bytes += segment.bytes;
        match groups.last_mut().filter(|_| bytes <= targets.source_bytes_max) {
            Some(group) => group.push(segment),
            None => {
                bytes = segment.bytes;
                groups.push(vec![segment]);
            }
        }
    }
    groups.retain(|group| group.len() > 1 || group[0].deleted_rows > 0);
    groups.into_iter().map(|group| group.into_iter().map(|s| s.id).collect()).collect()
}

/// The segment with the most deleted rows among those with too many deletions.
fn select_for_deletions(segments: &[CompactionCandidate]) -> Option<Vec<SegmentId>> {
    let has_many_deletions = |s: &&CompactionCandidate| {
        s.deleted_rows as f64 > s.rows as f64 * DELETED_FRACTION_MAX
            || s.deletion_vectors > DELETION_VECTORS_MAX
    };
    let worst = segments.iter().filter(has_many_deletions).max_by_key(|s| s.deleted_rows)?;
    Some(vec![worst.id])
}

/// The tier of a segment of so many bytes.
fn tier_of(bytes: u64) -> u32 {
    let (mut tier, mut bound) = (0, LOWEST_TIER_BYTES_MAX);
    while bytes > bound {
        tier += 1;
        bound *= TIER_FACTOR;
    }
    tier
}

/// The segments of the lowest tier that has enough of them, together with all segments of lower tiers.
fn select_tier(segments: &[CompactionCandidate], targets: &SizeTargets) -> Option<Vec<SegmentId>> {
    let mut small: Vec<&CompactionCandidate> = segments.iter().filter(|s| !s.is_full(targets)).collect();
    small.sort_by_key(|s| (tier_of(s.bytes), s.id));
    let group =
        small.chunk_by(|a, b| tier_of(a.bytes) == tier_of(b.bytes)).find(|g| g.len() >= targets.fan_in)?;
    // Smaller segments join, because they would need a compaction of their own soon.
    let tier = tier_of(group[0].bytes);
    let sources = small.iter().copied().filter(|s| tier_of(s.bytes) <= tier);
    Some(smallest_within_bound(sources, targets)).filter(|chosen| chosen.len() > 1)
}

/// Small segments that are older than [`SMALL_SEGMENT_AGE_S_MAX`].
fn select_old_small(segments: &[CompactionCandidate], targets: &SizeTargets) -> Option<Vec<SegmentId>> {
    let is_old_and_small = |s: &&CompactionCandidate| {
        let small = s.bytes < targets.full_bytes / TIER_FACTOR
            && s.memory_bytes < targets.full_memory_bytes / TIER_FACTOR;
        small && s.age_s > SMALL_SEGMENT_AGE_S_MAX
    };
    let chosen = smallest_within_bound(segments.iter().filter(is_old_and_small), targets);
    (chosen.len() > 1).then_some(chosen)
}

/// As many segments as one compaction may read, the smallest first.
fn smallest_within_bound<'a>(
    segments: impl Iterator<Item = &'a CompactionCandidate>,
    targets: &SizeTargets,
) -> Vec<SegmentId> {
    let mut sorted: Vec<&CompactionCandidate> = segments.collect();
    sorted.sort_by_key(|s| (s.bytes, s.id));
    let mut bytes = 0;
    let fits = |s: &&&CompactionCandidate| {
        bytes += s.bytes;
        bytes <= targets.source_bytes_max
    };
    sorted.iter().take_while(fits).map(|s| s.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: u128, bytes: u64) -> CompactionCandidate {
        CompactionCandidate {
            id: SegmentId(id),
            bytes,
            memory_bytes: bytes * 2,
            rows: bytes / 10 + 1,
            deleted_rows: 0,
            deletion_vectors: 0,
            age_s: 0,
        }
    }

    #[test]
    fn few_or_full_segments_are_not_compacted() {
        assert_eq!(select_segments(&[], &SizeTargets::DEFAULT), None);
        let few: Vec<_> = (0..7).map(|i| candidate(i, 1_000)).collect();
        assert_eq!(select_segments(&few, &SizeTargets::DEFAULT), None);
        let full: Vec<_> = (0..40).map(|i| candidate(i, SizeTargets::DEFAULT.full_bytes)).collect();
        assert_eq!(select_segments(&full, &SizeTargets::DEFAULT), None);
    }

    #[test]
    fn segments_with_many_deletions_and_old_small_segments_are_compacted() {
        let mut segments = vec![
            candidate(1, SizeTargets::DEFAULT.full_bytes),
            candidate(2, SizeTargets::DEFAULT.full_bytes),
        ];
        segments[1].deleted_rows = segments[1].rows / 4;
        assert_eq!(select_segments(&segments, &SizeTargets::DEFAULT), Some(vec![SegmentId(2)]));
        let old = |id| CompactionCandidate { age_s: 3_600, ..candidate(id, 1_000) };
        assert_eq!(select_segments(&[old(1)], &SizeTargets::DEFAULT), None);
        assert_eq!(select_segments(&[old(1), old(2)], &SizeTargets::DEFAULT).map(|c| c.len()), Some(2));
    }

    #[test]
    fn group_all_forms_bounded_groups() {
        let mut segments: Vec<_> = (0..20).map(|i| candidate(i, 10_000_000)).collect();
        segments.push(candidate(20, SizeTargets::DEFAULT.full_bytes));
        let groups = group_all(&segments, &SizeTargets::DEFAULT);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10]);
        assert_eq!(group_all(&[candidate(1, 1_000)], &SizeTargets::DEFAULT), Vec::<Vec<SegmentId>>::new());
        let with_deletions =
            CompactionCandidate { deleted_rows: 1, ..candidate(1, SizeTargets::DEFAULT.full_bytes) };
        assert_eq!(group_all(&[with_deletions], &SizeTargets::DEFAULT), [vec![SegmentId(1)]]);
    }

    proptest! {
        /// While new segments arrive, few small segments remain, and each byte is rewritten a bounded number
        /// of times, whatever the compression ratio is.
        #[test]
        fn compaction_bounds_segment_count_and_write_amplification(
            sizes in proptest::collection::vec(500u64..200_000, 1..600),
            compression_ratio in 1u64..60,
            targets in proptest::sample::select(vec![SizeTargets::DEFAULT, SizeTargets::LONG_VECTORS]),
        ) {
            let sized = |id, bytes| {
                CompactionCandidate { memory_bytes: bytes * compression_ratio, ..candidate(id, bytes) }
            };
            let mut segments: Vec<CompactionCandidate> = Vec::new();
            let (mut rewritten, mut written, mut next) = (0u64, 0u64, 0u128);
            for size in sizes {
                segments.push(sized(next, size));
                next += 1;
                written += size;
                while let Some(chosen) = select_segments(&segments, &targets) {
                    prop_assert!(chosen.len() > 1);
                    let bytes: u64 =
                        segments.iter().filter(|s| chosen.contains(&s.id)).map(|s| s.bytes).sum();
                    prop_assert!(bytes <= targets.source_bytes_max);
                    segments.retain(|s| !chosen.contains(&s.id));
                    // The result is cut by its bytes in memory.
                    let mut remaining = bytes;
                    while remaining > 0 {
                        let piece = remaining.min(targets.target_bytes as u64 / compression_ratio);
                        segments.push(sized(next, piece));
                        next += 1;
                        remaining -= piece;
                    }
                    rewritten += bytes;
                }
            }
            let full = segments.iter().filter(|s| s.is_full(&targets)).count();
            let small = segments.len() - full;
            prop_assert!(small <= 6 * targets.fan_in, "{small} small segments");
            prop_assert!(rewritten <= written * 8, "{rewritten} bytes rewritten, {written} bytes written");
        }

        /// Repeated `OPTIMIZE` reaches a state with nothing to compact.
        #[test]
        fn repeated_group_all_terminates(
            sizes in proptest::collection::vec(500u64..4_000_000, 1..200),
            compression_ratio in 1u64..60,
            targets in proptest::sample::select(vec![SizeTargets::DEFAULT, SizeTargets::LONG_VECTORS]),
        ) {
            let sized = |id, bytes| {
                CompactionCandidate { memory_bytes: bytes * compression_ratio, ..candidate(id, bytes) }
            };
            let mut segments: Vec<CompactionCandidate> =
                sizes.iter().zip(0..).map(|(size, id)| sized(id, *size)).collect();
            let mut next = 1_000u128;
            for _ in 0..20 {
                let groups = group_all(&segments, &targets);
                if groups.is_empty() {
                    return Ok(());
                }
                for group in groups {
                    let bytes: u64 = segments.iter().filter(|s| group.contains(&s.id)).map(|s| s.bytes).sum();
                    segments.retain(|s| !group.contains(&s.id));
                    let mut remaining = bytes;
                    while remaining > 0 {
                        let piece = remaining.min(targets.target_bytes as u64 / compression_ratio);
                        segments.push(sized(next, piece));
                        next += 1;
                        remaining -= piece;
                    }
                }
            }
            prop_assert!(false, "{} segments are still being compacted", segments.len());
        }
    }
}
