//! Flushes replace inline segments by a file at every version, together with their deletions.

use plexus_model::{ErrorKind, SegmentId, TableChange, Version};

use crate::helpers::*;

#[test]
fn file_replaces_inline_segments_and_their_deletions_at_every_version() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![inline_segment(100)]));
    let first = manifest.version.0;
    accept(&mut manifest, 71, add(vec![inline_segment(102)]));
    accept(&mut manifest, 72, delete_rows(first + 1, 102, &[4]));
    let file = |rows| file_of_rows(200, rows);
    assert_eq!(reject(&mut manifest, 73, flush(TABLE, vec![100, 102], file(19))), ErrorKind::Internal);
    accept(&mut manifest, 74, flush(TABLE, vec![100, 102], file(20)));
    let flushed = table_segment(&manifest, 200);
    assert_eq!((flushed.added.0, flushed.newest.0, flushed.has_versions()), (first, first + 1, true));
    assert_eq!(table(&manifest).visible(Version(first)).count(), 1);
    assert_eq!(table(&manifest).visible(Version(first - 1)).count(), 0);
    assert_eq!(deleted_rows(&manifest, 200, first + 1), [] as [u32; 0]);
    assert_eq!(deleted_rows(&manifest, 200, first + 2), [14]);
    assert_eq!(table(&manifest).inline_bytes, 0);
    // A statement that started before the flush deletes from the file; a row that is deleted already is a
    // conflict.
    accept(&mut manifest, 80, delete_rows(first + 1, 102, &[0, 5]));
    let last = manifest.version.0;
    assert_eq!(deleted_rows(&manifest, 200, last), [10, 14, 15]);
    assert_eq!(reject(&mut manifest, 81, delete_rows(first + 1, 102, &[4])), ErrorKind::Conflict);
    // It may remove a whole segment only if no row of it was deleted since.
    accept(&mut manifest, 82, remove_segment(first + 1, 100));
    assert_eq!(deleted_rows(&manifest, 200, last + 9), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15]);
    assert_eq!(reject(&mut manifest, 83, remove_segment(first + 1, 102)), ErrorKind::Conflict);
    // Inline segments can be flushed once.
    assert_eq!(reject(&mut manifest, 75, flush(TABLE, vec![100], file(20))), ErrorKind::Internal);
    let other = file_segment(202, &[1, 2, 3]);
    assert_eq!(reject(&mut manifest, 76, flush(TABLE, vec![100], other)), ErrorKind::Conflict);
}

#[test]
fn replaced_rows_are_flushed_together_with_their_replacements() {
    let mut manifest = cluster();
    let mut bases = Vec::new();
    // Three writes of the same rows: each removes the segment of the one before as a whole.
    for (n, id) in [100, 102, 104].into_iter().enumerate() {
        bases.push(manifest.version.0);
        let change = TableChange {
            base: manifest.version,
            add: vec![inline_segment(id)],
            remove: if n == 0 { vec![] } else { vec![SegmentId(id - 2)] },
            ..write(TABLE)
        };
        accept(&mut manifest, id, commit_change(change));
    }
    let last = manifest.version.0;
    accept(&mut manifest, 74, flush(TABLE, vec![100, 102, 104], file_of_rows(200, 30)));
    assert_eq!(table_segment(&manifest, 200).removed, None);
    assert_eq!(deleted_rows(&manifest, 200, last - 2), [] as [u32; 0]);
    assert_eq!(deleted_rows(&manifest, 200, last - 1), (0..10).collect::<Vec<_>>());
    assert_eq!(deleted_rows(&manifest, 200, last), (0..20).collect::<Vec<_>>());
    assert_eq!(table(&manifest).rows(Version(last)), 10);
    // A statement that started before the second write conflicts with it, for a whole segment and for one
    // row.
    assert_eq!(reject(&mut manifest, 75, remove_segment(bases[1], 100)), ErrorKind::Conflict);
    assert_eq!(reject(&mut manifest, 76, delete_rows(bases[1], 100, &[7])), ErrorKind::Conflict);
    accept(&mut manifest, 77, remove_segment(last, 104));
    assert_eq!(table(&manifest).rows(manifest.version), 0);
}

#[test]
fn removed_segments_are_flushed_into_a_removed_file() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![inline_segment(100), inline_segment(102)]));
    let added = manifest.version;
    accept(&mut manifest, 71, remove_segment(added.0, 100));
    accept(&mut manifest, 72, delete_rows(added.0, 102, &[1]));
    let base = manifest.version.0;
    accept(&mut manifest, 73, remove_segment(base, 102));
    let removed = manifest.version;
    accept(&mut manifest, 74, flush(TABLE, vec![100, 102], file_of_rows(200, 20)));
    assert_eq!(table_segment(&manifest, 200).removed, Some(removed));
    assert_eq!(deleted_rows(&manifest, 200, removed.0), (0..10).chain([11]).collect::<Vec<_>>());
    assert_eq!(table(&manifest).rows(Version(removed.0 - 1)), 9);
    assert_eq!(table(&manifest).rows(removed), 0);
}
