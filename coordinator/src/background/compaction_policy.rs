//! Which segments of a shard to compact. Pure: sizes in, a choice out.
//!
//! Segments are sorted into tiers by their bytes, each four times as wide as the one below. As soon as a tier
//! has [`FAN_IN`] of them they become one, which is of a higher tier: so every row is moved about as often as
//! there are tiers. What is full is left alone, unless many of its rows are deleted.

use plexus_model::{IndexDefinition, IndexKind, SegmentId, Table};

use crate::limits::SEGMENT_BYTES_TARGET;

/// What the choice depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub id: SegmentId,
    pub bytes: u64,
    /// What its rows take in memory: the results of merges are cut by that.
    pub memory_bytes: u64,
    pub rows: u64,
    pub deleted: u64,
    /// Deletions that a reader has to put together.
    pub deletions: usize,
    pub age_s: u64,
}

impl Candidate {
    fn is_full(&self, sizes: &Sizes) -> bool {
        self.bytes >= sizes.full_bytes || self.memory_bytes >= sizes.full_memory_bytes
    }
}

/// How large segments become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Bytes in memory of the rows that become one segment.
    pub target_bytes: usize,
    /// Bytes from which a segment is full: what a load makes of one flush, or more.
    pub full_bytes: u64,
    /// Bytes in memory from which a segment is full, however few they are on disk: merging it with others would only
    /// cut them anew.
    pub full_memory_bytes: u64,
    /// Bytes of the segments of one compact, so that its memory is bounded.
    pub merge_bytes_max: u64,
    /// Segments of a tier that are merged.
    pub fan_in: usize,
}

impl Sizes {
    pub const USUAL: Self = Self {
        target_bytes: SEGMENT_BYTES_TARGET,
        full_bytes: 16 * 1024 * 1024,
        full_memory_bytes: SEGMENT_BYTES_TARGET as u64 * 3 / 4,
        merge_bytes_max: 96 * 1024 * 1024,
        fan_in: 8,
    };

    /// Of tables with an index of vectors: to look into a graph four times as large takes hardly longer than into one of
    /// the four, and vectors take on disk what they take in memory.
    pub const OF_VECTORS: Self = Self {
        target_bytes: 4 * SEGMENT_BYTES_TARGET,
        full_bytes: SEGMENT_BYTES_TARGET as u64 * 3,
        full_memory_bytes: SEGMENT_BYTES_TARGET as u64 * 3,
        merge_bytes_max: 6 * SEGMENT_BYTES_TARGET as u64,
        fan_in: 4,
    };

    pub fn of(table: &Table) -> Self {
        let length = |column: u32| {
            let column = table.schema.columns.iter().find(|c| c.id == column);
            column.and_then(|c| c.data_type.vector_dimensions()).unwrap_or_default()
        };
        // Of short ones a segment has many rows as it is.
        let long = |index: &IndexDefinition| match index.kind {
            IndexKind::Vector { column, .. } => length(column) >= LONG_VECTOR,
            IndexKind::Text { .. } => false,
        };
        if table.schema.indexes.iter().any(long) { Self::OF_VECTORS } else { Self::USUAL }
    }
}

/// Components from which vectors have larger segments.
pub const LONG_VECTOR: u32 = 96;

/// Bytes up to which segments are of the lowest tier.
pub const FIRST_TIER_BYTES: u64 = 64 * 1024;

pub const TIER_FACTOR: u64 = 4;

/// Share of deleted rows from which a segment is written anew: it would be read for little.
pub const DELETED_SHARE: f64 = 0.2;

/// Deletions from which a segment is written anew, however few rows they are.
pub const DELETIONS_MAX: usize = 4_096;

/// Age from which small segments are merged, though there are not enough of them.
pub const LINGER_S: u64 = 10 * 60;

/// The segments to compact next, or none.
pub fn choose(segments: &[Candidate], sizes: &Sizes) -> Option<Vec<SegmentId>> {
    rewrite(segments).or_else(|| tier(segments, sizes)).or_else(|| linger(segments, sizes))
}

/// All segments that gain by it, in the groups in which to compact them.
pub fn all(segments: &[Candidate], sizes: &Sizes) -> Vec<Vec<SegmentId>> {
    let mut wanting: Vec<&Candidate> =
        segments.iter().filter(|s| !s.is_full(sizes) || s.deleted > 0).collect();
    // Old rows stay beside old rows.
    wanting.sort_by_key(|s| s.id);
    let mut groups: Vec<Vec<&Candidate>> = Vec::new();
    let mut bytes = 0;
    for segment in wanting {
        bytes += segment.bytes;
        match groups.last_mut().filter(|_| bytes <= sizes.merge_bytes_max) {
            Some(group) => group.push(segment),
            None => {
                bytes = segment.bytes;
                groups.push(vec![segment]);
            }
        }
    }
    groups.retain(|group| group.len() > 1 || group[0].deleted > 0);
    groups.into_iter().map(|group| group.into_iter().map(|s| s.id).collect()).collect()
}

pub fn rewrite(segments: &[Candidate]) -> Option<Vec<SegmentId>> {
    let worn =
        |s: &&Candidate| s.deleted as f64 > s.rows as f64 * DELETED_SHARE || s.deletions > DELETIONS_MAX;
    let worst = segments.iter().filter(worn).max_by_key(|s| s.deleted)?;
    Some(vec![worst.id])
}

pub fn tier_of(bytes: u64) -> u32 {
    let (mut tier, mut bound) = (0, FIRST_TIER_BYTES);
    while bytes > bound {
        tier += 1;
        bound *= TIER_FACTOR;
    }
    tier
}

pub fn tier(segments: &[Candidate], sizes: &Sizes) -> Option<Vec<SegmentId>> {
    let mut small: Vec<&Candidate> = segments.iter().filter(|s| !s.is_full(sizes)).collect();
    small.sort_by_key(|s| (tier_of(s.bytes), s.id));
    let group =
        small.chunk_by(|a, b| tier_of(a.bytes) == tier_of(b.bytes)).find(|g| g.len() >= sizes.fan_in)?;
    // With it everything smaller: it would only wait for its own turn.
    let top = tier_of(group[0].bytes);
    Some(take(small.iter().copied().filter(|s| tier_of(s.bytes) <= top), sizes))
        .filter(|chosen| chosen.len() > 1)
}

pub fn linger(segments: &[Candidate], sizes: &Sizes) -> Option<Vec<SegmentId>> {
    let old = |s: &&Candidate| {
        let small = s.bytes < sizes.full_bytes / TIER_FACTOR
            && s.memory_bytes < sizes.full_memory_bytes / TIER_FACTOR;
        small && s.age_s > LINGER_S
    };
    let chosen = take(segments.iter().filter(old), sizes);
    (chosen.len() > 1).then_some(chosen)
}

/// As many as one compact may have, the smallest first.
pub fn take<'a>(segments: impl Iterator<Item = &'a Candidate>, sizes: &Sizes) -> Vec<SegmentId> {
    let mut sorted: Vec<&Candidate> = segments.collect();
    sorted.sort_by_key(|s| (s.bytes, s.id));
    let mut bytes = 0;
    let fits = |s: &&&Candidate| {
        bytes += s.bytes;
        bytes <= sizes.merge_bytes_max
    };
    sorted.iter().take_while(fits).map(|s| s.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: u128, bytes: u64) -> Candidate {
        Candidate {
            id: SegmentId(id),
            bytes,
            memory_bytes: bytes * 2,
            rows: bytes / 10 + 1,
            deleted: 0,
            deletions: 0,
            age_s: 0,
        }
    }

    #[test]
    fn nothing_is_merged_that_need_not_be() {
        assert_eq!(choose(&[], &Sizes::USUAL), None);
        let few: Vec<_> = (0..7).map(|i| candidate(i, 1_000)).collect();
        assert_eq!(choose(&few, &Sizes::USUAL), None);
        let full: Vec<_> = (0..40).map(|i| candidate(i, Sizes::USUAL.full_bytes)).collect();
        assert_eq!(choose(&full, &Sizes::USUAL), None);
    }

    #[test]
    fn worn_segments_are_written_anew_and_old_small_ones_are_gathered() {
        let mut segments = vec![candidate(1, Sizes::USUAL.full_bytes), candidate(2, Sizes::USUAL.full_bytes)];
        segments[1].deleted = segments[1].rows / 4;
        assert_eq!(choose(&segments, &Sizes::USUAL), Some(vec![SegmentId(2)]));
        let old = |id| Candidate { age_s: 3_600, ..candidate(id, 1_000) };
        assert_eq!(choose(&[old(1)], &Sizes::USUAL), None);
        assert_eq!(choose(&[old(1), old(2)], &Sizes::USUAL).map(|c| c.len()), Some(2));
    }

    #[test]
    fn everything_is_merged_in_bounded_groups_when_asked() {
        let mut segments: Vec<_> = (0..20).map(|i| candidate(i, 10_000_000)).collect();
        segments.push(candidate(20, Sizes::USUAL.full_bytes));
        let groups = all(&segments, &Sizes::USUAL);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10]);
        assert_eq!(all(&[candidate(1, 1_000)], &Sizes::USUAL), Vec::<Vec<SegmentId>>::new());
        let worn = Candidate { deleted: 1, ..candidate(1, Sizes::USUAL.full_bytes) };
        assert_eq!(all(&[worn], &Sizes::USUAL), [vec![SegmentId(1)]]);
    }

    proptest! {
        /// Segments that keep coming are merged so often that few are left, and each byte is moved a bounded
        /// number of times, however well they are packed.
        #[test]
        fn merging_keeps_segments_few_and_moves_rows_seldom(
            sizes in proptest::collection::vec(500u64..200_000, 1..600),
            packed in 1u64..60,
            sizes_of in proptest::sample::select(vec![Sizes::USUAL, Sizes::OF_VECTORS]),
        ) {
            let sized = |id, bytes| Candidate { memory_bytes: bytes * packed, ..candidate(id, bytes) };
            let mut segments: Vec<Candidate> = Vec::new();
            let (mut moved, mut written, mut next) = (0u64, 0u64, 0u128);
            for size in sizes {
                segments.push(sized(next, size));
                next += 1;
                written += size;
                while let Some(chosen) = choose(&segments, &sizes_of) {
                    prop_assert!(chosen.len() > 1);
                    let bytes: u64 =
                        segments.iter().filter(|s| chosen.contains(&s.id)).map(|s| s.bytes).sum();
                    prop_assert!(bytes <= sizes_of.merge_bytes_max);
                    segments.retain(|s| !chosen.contains(&s.id));
                    // What is merged is cut by what it takes in memory.
                    let mut left = bytes;
                    while left > 0 {
                        let part = left.min(sizes_of.target_bytes as u64 / packed);
                        segments.push(sized(next, part));
                        next += 1;
                        left -= part;
                    }
                    moved += bytes;
                }
            }
            let full = segments.iter().filter(|s| s.is_full(&sizes_of)).count();
            prop_assert!(segments.len() - full <= 6 * sizes_of.fan_in, "{} small segments", segments.len() - full);
            prop_assert!(moved <= written * 8, "{moved} bytes were moved of {written}");
        }

        /// So does asking for it, which ends.
        #[test]
        fn asking_again_and_again_comes_to_an_end(
            sizes in proptest::collection::vec(500u64..4_000_000, 1..200),
            packed in 1u64..60,
            sizes_of in proptest::sample::select(vec![Sizes::USUAL, Sizes::OF_VECTORS]),
        ) {
            let sized = |id, bytes| Candidate { memory_bytes: bytes * packed, ..candidate(id, bytes) };
            let mut segments: Vec<Candidate> =
                sizes.iter().zip(0..).map(|(size, id)| sized(id, *size)).collect();
            let mut next = 1_000u128;
            for _ in 0..20 {
                let groups = all(&segments, &sizes_of);
                if groups.is_empty() {
                    return Ok(());
                }
                for group in groups {
                    let bytes: u64 = segments.iter().filter(|s| group.contains(&s.id)).map(|s| s.bytes).sum();
                    segments.retain(|s| !group.contains(&s.id));
                    let mut left = bytes;
                    while left > 0 {
                        let part = left.min(sizes_of.target_bytes as u64 / packed);
                        segments.push(sized(next, part));
                        next += 1;
                        left -= part;
                    }
                }
            }
            prop_assert!(false, "{} segments are merged still", segments.len());
        }
    }
}
