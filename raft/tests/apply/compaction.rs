//! Compactions carry over deletions that are committed while they run, and writes are rebased over them.

use std::ops::Range;

use plexus_model::{
    ChangeKind, ErrorKind, NewSegment, RowRelocation, RowSet, Segment, SegmentId, TableChange, Version,
    encode_row_set,
};

use crate::helpers::*;

#[test]
fn compaction_keeps_deletions_that_are_committed_while_it_runs_and_after_it() {
    let mut manifest = cluster();
    let sources = vec![file_segment(100, &[1, 2]), file_segment(102, &[1, 2])];
    accept(&mut manifest, 70, add(sources));
    let before = manifest.version.0;
    accept(&mut manifest, 71, delete_rows(before, 100, &[0, 1]));
    let base = manifest.version.0;
    // The compaction reads at this version: rows 2 to 9 of the first segment, then all of the second.
    accept(&mut manifest, 72, delete_rows(base, 100, &[3]));
    accept(&mut manifest, 73, delete_rows(base, 102, &[9]));
    let relocation = |from: u128, offset, rows: Range<u32>| RowRelocation {
        from: SegmentId(from),
        to: SegmentId(200),
        offset,
        rows: encode_row_set(&RowSet::from_iter(rows)),
    };
    let NewSegment(compacted) = file_segment(200, &[1, 2]);
    let compaction = TableChange {
        kind: ChangeKind::Relocate,
        base: Version(base),
        add: vec![NewSegment(Segment { rows: 18, ..compacted })],
        remove: vec![SegmentId(100), SegmentId(102)],
        relocations: vec![relocation(100, 0, 2..10), relocation(102, 8, 0..10)],
        ..write(TABLE)
    };
    accept(&mut manifest, 74, commit_change(compaction));
    assert_eq!(deleted_rows(&manifest, 200, manifest.version.0), [1, 17]);
    assert_eq!(table(&manifest).rows(manifest.version), 16);
    // A statement that started before the compaction is rebased.
    accept(&mut manifest, 75, delete_rows(base, 102, &[0]));
    assert_eq!(deleted_rows(&manifest, 200, manifest.version.0), [1, 8, 17]);
    for (token, segment, row) in [(76, 100, 3), (77, 100, 1), (78, 102, 0)] {
        assert_eq!(reject(&mut manifest, token, delete_rows(base, segment, &[row])), ErrorKind::Conflict);
    }
    // A row was deleted after this statement saw the segment, so it must not remove the whole segment.
    assert_eq!(reject(&mut manifest, 79, remove_segment(base, 100)), ErrorKind::Conflict);
    // Versions before the compaction still read the source segments.
    assert_eq!(table(&manifest).rows(Version(base)), 18);
}
