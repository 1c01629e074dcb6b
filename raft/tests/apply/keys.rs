//! Primary keys: a concurrent write of the same key is a conflict.

use plexus_model::{Command, ErrorKind, NewSegment, Segment, TableChange, Version};

use crate::helpers::*;

#[test]
fn key_is_written_once_and_a_writer_that_has_not_seen_it_conflicts() {
    let mut manifest = cluster();
    let mut keyed = create_table("k", 3);
    if let Command::CreateTable(create) = &mut keyed {
        create.schema.primary_key = vec![0];
    }
    let id = accept(&mut manifest, 60, keyed).unwrap();
    let insert = |base: Version, segment: NewSegment, keys: &[u64]| {
        let segment = NewSegment(Segment { keys: keys.to_vec(), ..segment.0 });
        commit_change(TableChange { base, add: vec![segment], ..write(id.0) })
    };
    let base = manifest.version;
    accept(&mut manifest, 62, insert(base, inline_segment(100), &[7, 8]));
    // From the same base: another key, the same key, and the same key in another shard.
    accept(&mut manifest, 63, insert(base, inline_segment(102), &[9]));
    assert_eq!(reject(&mut manifest, 64, insert(base, inline_segment(104), &[8])), ErrorKind::Conflict);
    accept(&mut manifest, 65, insert(base, inline_segment(105), &[8]));
    // The keys of a file cannot be compared, so no commit of the shard may be newer than its base.
    let file = || file_segment(106, &[1, 2, 3]);
    assert_eq!(reject(&mut manifest, 66, insert(base, file(), &[])), ErrorKind::Conflict);
    let now = manifest.version;
    accept(&mut manifest, 67, insert(now, file(), &[]));
    assert_eq!(reject(&mut manifest, 68, insert(now, inline_segment(108), &[1])), ErrorKind::Conflict);
}
