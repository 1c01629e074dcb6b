//! Concurrent deletions: different rows are compatible, and for the same row the first deletion wins.

use plexus_model::ErrorKind;

use crate::helpers::*;

#[test]
fn deletions_of_different_rows_are_compatible_and_of_one_row_the_first_wins() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![inline_segment(100)]));
    let base = manifest.version.0;
    accept(&mut manifest, 71, delete_rows(base, 100, &[1, 2]));
    accept(&mut manifest, 72, delete_rows(base, 100, &[3]));
    assert_eq!(reject(&mut manifest, 73, delete_rows(base, 100, &[4, 2])), ErrorKind::Conflict);
    assert_eq!(deleted_rows(&manifest, 100, base), [] as [u32; 0]);
    assert_eq!(deleted_rows(&manifest, 100, base + 1), [1, 2]);
    assert_eq!(deleted_rows(&manifest, 100, base + 9), [1, 2, 3]);
    assert_eq!(table(&manifest).rows(manifest.version), 7);
    // The segment does not have this row.
    assert_eq!(reject(&mut manifest, 74, delete_rows(base + 9, 100, &[10])), ErrorKind::Internal);
    // Rows were deleted after the base of this removal.
    assert_eq!(reject(&mut manifest, 75, remove_segment(base, 100)), ErrorKind::Conflict);
}
