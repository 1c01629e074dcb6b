//! Files must be durable on a majority of the replicas, by the placement at the entry's position in the log.

use plexus_model::{
    Command, DeletionVector, DeletionVectorData, ErrorKind, FileData, SegmentId, TableChange, Version,
};

use crate::helpers::*;

#[test]
fn segment_file_needs_a_majority_of_the_current_replicas() {
    let mut manifest = cluster();
    for (token, acknowledged) in [(60, &[][..]), (61, &[1]), (62, &[1, 1]), (63, &[1, 9])] {
        let command = add(vec![file_segment(100, acknowledged)]);
        assert_eq!(reject(&mut manifest, token, command), ErrorKind::Conflict);
    }
    assert_eq!(table(&manifest).segments.len(), 0);
    accept(&mut manifest, 64, add(vec![file_segment(100, &[3, 1])]));
}

#[test]
fn deletion_file_needs_a_majority_too() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![file_segment(100, &[1, 2])]));
    let delete_by_file = |acknowledged: &[u64]| {
        let data = FileData { bytes: 10, checksum: [9; 32], column_bytes: 0 };
        let acknowledged = node_ids(acknowledged);
        let rows = DeletionVectorData::File { id: SegmentId(300), data, acknowledged };
        let delete = vec![(SegmentId(100), DeletionVector { added: Version(0), count: 3, rows })];
        commit_change(TableChange { delete, ..write(TABLE) })
    };
    assert_eq!(reject(&mut manifest, 71, delete_by_file(&[3])), ErrorKind::Conflict);
    accept(&mut manifest, 72, delete_by_file(&[3, 2]));
    // A flush copies the deletions of inline segments, so they must be inline as well.
    accept(&mut manifest, 73, add(vec![inline_segment(102)]));
    let Command::Commit(mut of_inline) = delete_by_file(&[3, 2]) else { unreachable!() };
    of_inline.changes[0].delete[0].0 = SegmentId(102);
    assert_eq!(reject(&mut manifest, 74, Command::Commit(of_inline)), ErrorKind::Internal);
}
