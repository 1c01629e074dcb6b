//! `apply` is a pure function: the same commands give the same bytes, and what it guards holds.

use plexus_model::limits::{INLINE_TOTAL_BYTES_MAX, TOKENS_MAX, TOKENS_MIN};
use plexus_model::{
    AlterTable, ChangeKind, ClusterId, Command, Commit, CreateTable, DeletionVector, DeletionVectorData,
    ErrorKind, FileData, Flush, IndexDefinition, IndexKind, Manifest, NewSegment, NodeId, NodeRecord,
    Outcome, Proposal, Roles, RowSet, Segment, SegmentData, SegmentId, SegmentIndex, Statistics, Table,
    TableChange, TableId, TableName, TableSchema, Token, Version,
};
use plexus_raft::apply::apply;
use proptest::prelude::*;

fn node(id: u64) -> NodeRecord {
    let address = |port: u64| format!("10.0.0.{id}:{port}");
    NodeRecord {
        id: NodeId(id),
        roles: Roles::ALL,
        flight: address(1),
        peer: address(2),
        http: address(3),
        live: true,
    }
}

fn schema() -> TableSchema {
    let column = plexus_model::Column {
        id: 1,
        name: "a".into(),
        data_type: plexus_model::ColumnType::Int64,
        nullable: false,
    };
    TableSchema { columns: vec![column], last_column: 1, ..TableSchema::default() }
}

fn create(name: &str, replicas: u32) -> Command {
    Command::CreateTable(CreateTable {
        name: TableName::new("public", name),
        schema: schema(),
        shards: 2,
        replicas,
        if_not_exists: false,
        or_replace: false,
    })
}

fn segment(id: u128, inline: bool, acknowledged: Vec<u64>) -> NewSegment {
    let data = match inline {
        true => SegmentData::Inline(vec![7; 100]),
        false => SegmentData::File(FileData { bytes: 1000, checksum: [id as u8; 32], column_bytes: 1000 }),
    };
    NewSegment(Segment {
        id: SegmentId(id),
        shard: (id % 2) as u32,
        rows: 10,
        level: 0,
        schema_version: 1,
        added: Version(0),
        newest: Version(0),
        removed: None,
        removed_time_us: 0,
        data,
        statistics: Statistics::default(),
        keys: vec![],
        deletions: vec![],
        indexes: vec![],
        acknowledged: acknowledged.into_iter().map(NodeId).collect(),
    })
}

/// A change of rows that was computed from the end of time, so that nothing is newer.
fn change(table: u64) -> TableChange {
    TableChange::new(TableId(table), 1, Version(u64::MAX), ChangeKind::Write)
}

fn commit_change(change: TableChange) -> Command {
    Command::Commit(Commit { changes: vec![change], operation: "test".into(), ..Commit::default() })
}

fn commit(table: u64, add: Vec<NewSegment>, remove: Vec<u128>) -> Command {
    let remove = remove.into_iter().map(SegmentId).collect();
    commit_change(TableChange { add, remove, ..change(table) })
}

fn flush(table: u64, from: Vec<u128>, segment: NewSegment) -> Command {
    let from = from.into_iter().map(SegmentId).collect();
    commit_change(TableChange { flush: vec![Flush { from, segment }], ..change(table) })
}

/// Deletes rows of a segment, as seen at `base`.
fn delete(base: u64, segment: u128, rows: &[u32]) -> Command {
    let deletion = DeletionVector::inline(&RowSet::from_iter(rows));
    let delete = vec![(SegmentId(segment), deletion)];
    commit_change(TableChange { base: Version(base), delete, ..change(5) })
}

/// Takes a segment out of sight as a whole, as seen at `base`.
fn whole(base: u64, segment: u128) -> Command {
    commit_change(TableChange { base: Version(base), remove: vec![SegmentId(segment)], ..change(5) })
}

fn table(manifest: &Manifest) -> &std::sync::Arc<Table> {
    manifest.tables.get(&TableId(5)).unwrap()
}

fn deleted(manifest: &Manifest, segment: u128, version: u64) -> Vec<u32> {
    let segment = table(manifest).segments.get(&SegmentId(segment)).unwrap();
    let mut rows = RowSet::new();
    for deletion in segment.deletions_at(Version(version)) {
        rows |= deletion.inline_rows().unwrap().unwrap();
    }
    rows.iter().collect()
}

fn proposal(token: u128, command: Command) -> Proposal {
    Proposal { token: Token(token), command }
}

/// A cluster of three nodes with table `t`, whose id is 5.
fn prepared() -> Manifest {
    let mut manifest = Manifest::default();
    let commands = [
        Command::Bootstrap { cluster: ClusterId(1) },
        Command::RegisterNode(node(1)),
        Command::RegisterNode(node(2)),
        Command::RegisterNode(node(3)),
        create("t", 3),
    ];
    for (i, command) in commands.into_iter().enumerate() {
        let index = i as u64 + 1;
        let outcomes =
            apply(&mut manifest, Version(index), 1_000, vec![proposal(u128::from(index), command)]);
        assert!(matches!(outcomes[0], Outcome::Applied { .. }), "{outcomes:?}");
    }
    manifest
}

fn one(manifest: &mut Manifest, token: u128, command: Command) -> Outcome {
    let index = Version(manifest.version.0 + 1);
    apply(manifest, index, 2_000, vec![proposal(token, command)]).remove(0)
}

fn rejection(outcome: Outcome) -> ErrorKind {
    match outcome {
        Outcome::Rejected { kind, .. } => kind,
        applied => panic!("should be rejected: {applied:?}"),
    }
}

#[test]
fn a_repeated_token_answers_what_it_answered_and_changes_nothing() {
    let mut manifest = prepared();
    let command = commit(5, vec![segment(100, false, vec![1, 2])], vec![]);
    let first = one(&mut manifest, 50, command.clone());
    let before = manifest.clone();
    let again = one(&mut manifest, 50, command);
    assert_eq!(first, again);
    assert_eq!(manifest.tables, before.tables);
}

#[test]
fn a_commit_needs_a_majority_of_the_replicas_by_the_placement_of_now() {
    let mut manifest = prepared();
    for (token, acknowledged) in [(60, vec![]), (61, vec![1]), (62, vec![1, 1]), (63, vec![1, 9])] {
        let outcome = one(&mut manifest, token, commit(5, vec![segment(100, false, acknowledged)], vec![]));
        assert_eq!(rejection(outcome), ErrorKind::Conflict);
    }
    assert_eq!(manifest.tables.get(&TableId(5)).unwrap().segments.len(), 0);
    let outcome = one(&mut manifest, 64, commit(5, vec![segment(100, false, vec![3, 1])], vec![]));
    assert!(matches!(outcome, Outcome::Applied { .. }));
}

#[test]
fn a_commit_is_all_or_nothing_and_a_lost_race_is_a_conflict() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, true, vec![]), segment(101, true, vec![])], vec![]));
    let replace = |id| commit(5, vec![segment(id, false, vec![1, 2, 3])], vec![100]);
    assert!(matches!(one(&mut manifest, 71, replace(200)), Outcome::Applied { .. }));
    assert_eq!(rejection(one(&mut manifest, 72, replace(202))), ErrorKind::Conflict);
    let table = manifest.tables.get(&TableId(5)).unwrap();
    let visible: Vec<u128> = table.visible(manifest.version).map(|s| s.id.0).collect();
    assert_eq!(visible, [101, 200]);
    // What was visible before can still be read.
    let before: Vec<u128> = table.visible(Version(6)).map(|s| s.id.0).collect();
    assert_eq!(before, [100, 101]);
    assert_eq!(table.inline_bytes, 200);
    one(&mut manifest, 73, Command::DropTable { name: TableName::new("public", "t"), if_exists: false });
    let outcome = one(&mut manifest, 74, commit(5, vec![segment(300, true, vec![])], vec![]));
    assert_eq!(rejection(outcome), ErrorKind::Conflict);
}

#[test]
fn deletions_of_different_rows_go_together_and_of_the_same_row_the_first_wins() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, true, vec![])], vec![]));
    let base = manifest.version.0;
    assert!(matches!(one(&mut manifest, 71, delete(base, 100, &[1, 2])), Outcome::Applied { .. }));
    assert!(matches!(one(&mut manifest, 72, delete(base, 100, &[3])), Outcome::Applied { .. }));
    assert_eq!(rejection(one(&mut manifest, 73, delete(base, 100, &[4, 2]))), ErrorKind::Conflict);
    assert_eq!(deleted(&manifest, 100, base), [] as [u32; 0]);
    assert_eq!(deleted(&manifest, 100, base + 1), [1, 2]);
    assert_eq!(deleted(&manifest, 100, base + 9), [1, 2, 3]);
    assert_eq!(table(&manifest).rows(manifest.version), 7);
    // A row that the segment does not have, and a segment that was read before somebody deleted from it.
    assert_eq!(rejection(one(&mut manifest, 74, delete(base + 9, 100, &[10]))), ErrorKind::Internal);
    let whole = TableChange { base: Version(base), remove: vec![SegmentId(100)], ..change(5) };
    assert_eq!(rejection(one(&mut manifest, 75, commit_change(whole))), ErrorKind::Conflict);
}

#[test]
fn a_file_takes_the_place_of_inline_rows_at_every_version_with_what_was_deleted_meanwhile() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, true, vec![])], vec![]));
    let first = manifest.version.0;
    one(&mut manifest, 71, commit(5, vec![segment(102, true, vec![])], vec![]));
    one(&mut manifest, 72, delete(first + 1, 102, &[4]));
    let file = |rows| {
        let NewSegment(segment) = segment(200, false, vec![1, 2, 3]);
        NewSegment(Segment { rows, ..segment })
    };
    assert_eq!(rejection(one(&mut manifest, 73, flush(5, vec![100, 102], file(19)))), ErrorKind::Internal);
    assert!(matches!(one(&mut manifest, 74, flush(5, vec![100, 102], file(20))), Outcome::Applied { .. }));
    let moved = table(&manifest).segments.get(&SegmentId(200)).unwrap();
    assert_eq!((moved.added.0, moved.newest.0, moved.has_versions()), (first, first + 1, true));
    assert_eq!(table(&manifest).visible(Version(first)).count(), 1);
    assert_eq!(table(&manifest).visible(Version(first - 1)).count(), 0);
    assert_eq!(deleted(&manifest, 200, first + 1), [] as [u32; 0]);
    assert_eq!(deleted(&manifest, 200, first + 2), [14]);
    assert_eq!(table(&manifest).inline_bytes, 0);
    // Whoever began before deletes from the file; a row that is gone is a conflict there as well.
    assert!(matches!(one(&mut manifest, 80, delete(first + 1, 102, &[0, 5])), Outcome::Applied { .. }));
    let last = manifest.version.0;
    assert_eq!(deleted(&manifest, 200, last), [10, 14, 15]);
    assert_eq!(rejection(one(&mut manifest, 81, delete(first + 1, 102, &[4]))), ErrorKind::Conflict);
    // All of a segment, of which nobody deleted since; and of one from which somebody did.
    assert!(matches!(one(&mut manifest, 82, whole(first + 1, 100)), Outcome::Applied { .. }));
    assert_eq!(deleted(&manifest, 200, last + 9), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15]);
    assert_eq!(rejection(one(&mut manifest, 83, whole(first + 1, 102))), ErrorKind::Conflict);
    // They have left the log; nobody can take them out again.
    assert_eq!(rejection(one(&mut manifest, 75, flush(5, vec![100], file(20)))), ErrorKind::Internal);
    let other = segment(202, false, vec![1, 2, 3]);
    assert_eq!(rejection(one(&mut manifest, 76, flush(5, vec![100], other))), ErrorKind::Conflict);
}

#[test]
fn rows_that_were_replaced_leave_the_log_together_with_those_that_replaced_them() {
    let mut manifest = prepared();
    let mut bases = Vec::new();
    // One row is written three times: each time its segment goes as a whole.
    for (round, id) in [100, 102, 104].into_iter().enumerate() {
        bases.push(manifest.version.0);
        let change = TableChange {
            base: manifest.version,
            add: vec![segment(id, true, vec![])],
            remove: if round == 0 { vec![] } else { vec![SegmentId(id - 2)] },
            ..change(5)
        };
        one(&mut manifest, id, commit_change(change));
    }
    let last = manifest.version.0;
    let seen = |manifest: &Manifest, version: u64| table(manifest).rows(Version(version));
    let NewSegment(file) = segment(200, false, vec![1, 2, 3]);
    let file = NewSegment(Segment { rows: 30, ..file });
    assert!(matches!(one(&mut manifest, 74, flush(5, vec![100, 102, 104], file)), Outcome::Applied { .. }));
    let moved = table(&manifest).segments.get(&SegmentId(200)).unwrap();
    assert_eq!(moved.removed, None);
    assert_eq!(deleted(&manifest, 200, last - 2), [] as [u32; 0]);
    assert_eq!(deleted(&manifest, 200, last - 1), (0..10).collect::<Vec<_>>());
    assert_eq!(deleted(&manifest, 200, last), (0..20).collect::<Vec<_>>());
    assert_eq!(seen(&manifest, last), 10);
    // Who began before the second write may not take what that took, also as a whole.
    assert_eq!(rejection(one(&mut manifest, 75, whole(bases[1], 100))), ErrorKind::Conflict);
    assert_eq!(rejection(one(&mut manifest, 76, delete(bases[1], 100, &[7]))), ErrorKind::Conflict);
    assert!(matches!(one(&mut manifest, 77, whole(last, 104)), Outcome::Applied { .. }));
    assert_eq!(seen(&manifest, manifest.version.0), 0);
}

#[test]
fn what_nobody_sees_leaves_the_log_out_of_sight() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, true, vec![]), segment(102, true, vec![])], vec![]));
    let added = manifest.version;
    one(&mut manifest, 71, whole(added.0, 100));
    one(&mut manifest, 72, delete(added.0, 102, &[1]));
    let base = manifest.version.0;
    one(&mut manifest, 73, whole(base, 102));
    let removed = manifest.version;
    let NewSegment(file) = segment(200, false, vec![1, 2, 3]);
    let file = NewSegment(Segment { rows: 20, ..file });
    assert!(matches!(one(&mut manifest, 74, flush(5, vec![100, 102], file)), Outcome::Applied { .. }));
    let moved = table(&manifest).segments.get(&SegmentId(200)).unwrap();
    assert_eq!(moved.removed, Some(removed));
    assert_eq!(deleted(&manifest, 200, removed.0), (0..10).chain([11]).collect::<Vec<_>>());
    assert_eq!(table(&manifest).rows(Version(removed.0 - 1)), 9);
    assert_eq!(table(&manifest).rows(removed), 0);
}

#[test]
fn a_deletion_in_a_file_needs_a_majority_too() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, false, vec![1, 2])], vec![]));
    let in_file = |acknowledged: Vec<u64>| {
        let data = FileData { bytes: 10, checksum: [9; 32], column_bytes: 0 };
        let acknowledged = acknowledged.into_iter().map(NodeId).collect();
        let rows = DeletionVectorData::File { id: SegmentId(300), data, acknowledged };
        let delete = vec![(SegmentId(100), DeletionVector { added: Version(0), count: 3, rows })];
        commit_change(TableChange { delete, ..change(5) })
    };
    assert_eq!(rejection(one(&mut manifest, 71, in_file(vec![3]))), ErrorKind::Conflict);
    assert!(matches!(one(&mut manifest, 72, in_file(vec![3, 2])), Outcome::Applied { .. }));
    // Rows in the log take their deletions along when they leave it: those are in the log too.
    one(&mut manifest, 73, commit(5, vec![segment(102, true, vec![])], vec![]));
    let Command::Commit(mut of_inline) = in_file(vec![3, 2]) else { unreachable!() };
    of_inline.changes[0].delete[0].0 = SegmentId(102);
    assert_eq!(rejection(one(&mut manifest, 74, Command::Commit(of_inline))), ErrorKind::Internal);
}

#[test]
fn segments_get_indexes_that_are_defined_and_durable_and_lose_those_that_are_dropped() {
    let mut manifest = prepared();
    one(
        &mut manifest,
        70,
        commit(5, vec![segment(100, false, vec![1, 2]), segment(101, true, vec![])], vec![]),
    );
    let with_indexes = |names: &[&str]| {
        let mut schema = schema();
        schema.columns[0].data_type = plexus_model::ColumnType::Utf8;
        let kind = || IndexKind::Text { columns: vec![1], tokenizer: "raw".into() };
        let index = |(id, name): (u32, &&str)| IndexDefinition { id, name: (*name).into(), kind: kind() };
        schema.indexes = (1..).zip(names).map(index).collect();
        schema
    };
    let alter = |table: u64, schema_version: u32, names: &[&str]| {
        let schema = with_indexes(names);
        Command::AlterTable(AlterTable { table: TableId(table), schema_version, schema, base: None })
    };
    let attach = |segment: u128, index: u32, file: u128, acknowledged: Vec<u64>| {
        let acknowledged = acknowledged.into_iter().map(NodeId).collect();
        let data = FileData { bytes: 10, checksum: [9; 32], column_bytes: 0 };
        let index =
            vec![(SegmentId(segment), SegmentIndex { index, file: SegmentId(file), data, acknowledged })];
        commit_change(TableChange { index, ..TableChange::new(TableId(5), 1, Version(1), ChangeKind::Move) })
    };
    assert_eq!(rejection(one(&mut manifest, 71, attach(100, 1, 300, vec![1, 2]))), ErrorKind::Conflict);
    assert!(matches!(one(&mut manifest, 72, alter(5, 1, &["i"])), Outcome::Applied { .. }));
    let newest = table(&manifest).changed;
    for (token, refused, kind) in [
        (73, attach(100, 1, 300, vec![1]), ErrorKind::Conflict),
        (74, attach(101, 1, 300, vec![1, 2]), ErrorKind::Internal),
        (75, attach(100, 2, 300, vec![1, 2]), ErrorKind::Conflict),
        (76, attach(999, 1, 300, vec![1, 2]), ErrorKind::Conflict),
        (77, attach(100, 1, 101, vec![1, 2]), ErrorKind::Internal),
    ] {
        assert_eq!(rejection(one(&mut manifest, token, refused)), kind);
    }
    assert!(matches!(one(&mut manifest, 78, attach(100, 1, 300, vec![1, 2])), Outcome::Applied { .. }));
    let of = |manifest: &Manifest| table(manifest).segments[&SegmentId(100)].indexes.clone();
    assert_eq!(of(&manifest).len(), 1);
    assert!(of(&manifest)[0].acknowledged.is_empty());
    // No row was changed by it.
    assert_eq!(table(&manifest).changed, newest);
    assert_eq!(rejection(one(&mut manifest, 79, attach(100, 1, 301, vec![1, 2]))), ErrorKind::Conflict);
    // Names are of one table of a schema.
    one(&mut manifest, 80, create("other", 3));
    let other = manifest.table(&TableName::new("public", "other")).map(|t| t.id.0).unwrap();
    assert_eq!(rejection(one(&mut manifest, 81, alter(other, 1, &["i"]))), ErrorKind::AlreadyExists);
    assert!(matches!(one(&mut manifest, 82, alter(5, 2, &[])), Outcome::Applied { .. }));
    assert!(of(&manifest).is_empty());
}

#[test]
fn a_commit_changes_schemas_and_rows_together_or_not_at_all() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, false, vec![1, 2])], vec![]));
    let base = manifest.version;
    let command = |unchanged: u64, id: u128, schema_version| {
        let mut wider = schema();
        wider.columns[0].name = "renamed".into();
        let alter = AlterTable { table: TableId(5), schema_version: 1, schema: wider, base: None };
        let change =
            TableChange { add: vec![segment(id, false, vec![1, 2])], schema_version, base, ..change(5) };
        let unchanged = vec![(TableId(5), Version(unchanged))];
        Command::Commit(Commit { alter: vec![alter], changes: vec![change], unchanged, ..Commit::default() })
    };
    let before = manifest.clone();
    // The rows are of the old schema; the table has changed since; the rows are of the new one.
    assert_eq!(rejection(one(&mut manifest, 71, command(base.0, 102, 1))), ErrorKind::Conflict);
    assert_eq!(rejection(one(&mut manifest, 72, command(base.0 - 1, 102, 2))), ErrorKind::Conflict);
    assert_eq!(manifest.tables, before.tables);
    assert!(matches!(one(&mut manifest, 73, command(base.0, 102, 2)), Outcome::Applied { .. }));
    assert_eq!(table(&manifest).schema.columns[0].name, "renamed");
    assert_eq!(table(&manifest).rows(manifest.version), 20);
    let then = table(&manifest).as_of(base).unwrap();
    assert_eq!((then.schema.columns[0].name.as_str(), then.rows(base)), ("a", 10));
}

#[test]
fn a_merge_takes_along_what_is_deleted_while_it_runs_and_after() {
    let mut manifest = prepared();
    let sources = vec![segment(100, false, vec![1, 2]), segment(102, false, vec![1, 2])];
    one(&mut manifest, 70, commit(5, sources, vec![]));
    let before = manifest.version.0;
    one(&mut manifest, 71, delete(before, 100, &[0, 1]));
    let base = manifest.version.0;
    // The merge reads here: rows 2..10 of the one, then all of the other.
    one(&mut manifest, 72, delete(base, 100, &[3]));
    one(&mut manifest, 73, delete(base, 102, &[9]));
    let moved = |from: u128, offset, rows: std::ops::Range<u32>| plexus_model::RowRelocation {
        from: SegmentId(from),
        to: SegmentId(200),
        offset,
        rows: plexus_model::encode_row_set(&RowSet::from_iter(rows)),
    };
    let NewSegment(result) = segment(200, false, vec![1, 2]);
    let merge = TableChange {
        kind: ChangeKind::Move,
        base: Version(base),
        add: vec![NewSegment(Segment { rows: 18, ..result })],
        remove: vec![SegmentId(100), SegmentId(102)],
        relocations: vec![moved(100, 0, 2..10), moved(102, 8, 0..10)],
        ..change(5)
    };
    assert!(matches!(one(&mut manifest, 74, commit_change(merge)), Outcome::Applied { .. }));
    assert_eq!(deleted(&manifest, 200, manifest.version.0), [1, 17]);
    assert_eq!(table(&manifest).rows(manifest.version), 16);
    // A statement that began before the merge.
    assert!(matches!(one(&mut manifest, 75, delete(base, 102, &[0])), Outcome::Applied { .. }));
    assert_eq!(deleted(&manifest, 200, manifest.version.0), [1, 8, 17]);
    for (token, segment, row) in [(76, 100, 3), (77, 100, 1), (78, 102, 0)] {
        assert_eq!(rejection(one(&mut manifest, token, delete(base, segment, &[row]))), ErrorKind::Conflict);
    }
    // One that takes all that it saw of a segment has not seen that somebody deleted from it.
    let whole = TableChange { base: Version(base), remove: vec![SegmentId(100)], ..change(5) };
    assert_eq!(rejection(one(&mut manifest, 79, commit_change(whole))), ErrorKind::Conflict);
    // Versions before the merge read the segments that it merged.
    assert_eq!(table(&manifest).rows(Version(base)), 18);
}

#[test]
fn one_key_is_written_once_and_whoever_has_not_seen_it_looks_again() {
    let mut manifest = prepared();
    let mut keyed = create("k", 3);
    if let Command::CreateTable(create) = &mut keyed {
        create.schema.primary_key = vec![0];
    }
    let Outcome::Applied { table: Some(id), .. } = one(&mut manifest, 60, keyed) else { panic!() };
    let base = manifest.version;
    let write = |base, id: u128, keys: Vec<u64>, inline| {
        let NewSegment(segment) = segment(id, inline, vec![1, 2, 3]);
        let add = vec![NewSegment(Segment { keys, ..segment })];
        (base, add)
    };
    let mut token = 61;
    let mut apply_write = |manifest: &mut Manifest, (base, add): (Version, Vec<NewSegment>)| {
        token += 1;
        one(manifest, token, commit_change(TableChange { base, add, ..change(id.0) }))
    };
    assert!(matches!(
        apply_write(&mut manifest, write(base, 100, vec![7, 8], true)),
        Outcome::Applied { .. }
    ));
    // Another key of the same shard from the same version, the same key, and the same key in another shard.
    assert!(matches!(apply_write(&mut manifest, write(base, 102, vec![9], true)), Outcome::Applied { .. }));
    assert_eq!(rejection(apply_write(&mut manifest, write(base, 104, vec![8], true))), ErrorKind::Conflict);
    assert!(matches!(apply_write(&mut manifest, write(base, 105, vec![8], true)), Outcome::Applied { .. }));
    // A file cannot be compared: it must have seen all.
    assert_eq!(rejection(apply_write(&mut manifest, write(base, 106, vec![], false))), ErrorKind::Conflict);
    let now = manifest.version;
    assert!(matches!(apply_write(&mut manifest, write(now, 106, vec![], false)), Outcome::Applied { .. }));
    assert_eq!(rejection(apply_write(&mut manifest, write(now, 108, vec![1], true))), ErrorKind::Conflict);
}

#[test]
fn what_was_vacuumed_cannot_be_read_and_the_rest_can() {
    let mut manifest = prepared();
    one(&mut manifest, 70, commit(5, vec![segment(100, false, vec![1, 2])], vec![]));
    let first = manifest.version;
    let mut wider = schema();
    wider.columns[0].name = "renamed".into();
    let alter = AlterTable { table: TableId(5), schema_version: 1, schema: wider, base: None };
    one(&mut manifest, 71, Command::AlterTable(alter));
    let remove = TableChange { schema_version: 2, remove: vec![SegmentId(100)], ..change(5) };
    one(&mut manifest, 72, commit_change(remove));
    let last = manifest.version;
    let name = |version| manifest.as_of(version).unwrap().table(&TableName::new("public", "t")).cloned();
    assert_eq!(name(first).unwrap().schema.columns[0].name, "a");
    assert_eq!(name(last).unwrap().schema.columns[0].name, "renamed");
    assert!(name(Version(4)).is_none());
    assert_eq!(
        rejection(one(&mut manifest, 73, Command::Vacuum { table: TableId(5), until: Version(99) })),
        ErrorKind::InvalidArgument
    );
    one(&mut manifest, 74, Command::Vacuum { table: TableId(5), until: last });
    assert!(table(&manifest).segments.is_empty() && table(&manifest).history.is_empty());
    let error = table(&manifest).as_of(first).unwrap_err();
    assert!(error.message().contains("vacuumed") && error.message().contains(&last.to_string()), "{error}");
    assert!(table(&manifest).as_of(last).is_ok());
    // A dropped table is there until it is vacuumed.
    one(&mut manifest, 75, Command::DropTable { name: TableName::new("public", "t"), if_exists: false });
    assert!(manifest.as_of(last).unwrap().table(&TableName::new("public", "t")).is_some());
    let until = manifest.version;
    one(&mut manifest, 76, Command::Vacuum { table: TableId(5), until });
    assert!(manifest.tables.is_empty());
}

#[test]
fn too_many_replicas_are_refused_by_name() {
    let mut manifest = prepared();
    match one(&mut manifest, 80, create("u", 4)) {
        Outcome::Rejected { kind: ErrorKind::InvalidArgument, message } => {
            assert!(message.contains("replicas = 4") && message.contains("3 live"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn commit_time_never_falls_and_tokens_expire_by_it_but_never_the_latest() {
    let mut manifest = prepared();
    let late = 1_000_000_000;
    let mut entry = |time_us, proposals| {
        let index = Version(manifest.version.0 + 1);
        apply(&mut manifest, index, time_us, proposals);
        manifest.clone()
    };
    entry(late, vec![proposal(90, create("a", 1))]);
    let manifest = entry(5, vec![proposal(91, create("b", 1))]);
    assert_eq!(manifest.time_us, late + 1);
    // One clock that is far ahead must not make the log forget what was asked a moment ago.
    assert!(manifest.tokens.contains_key(&Token(1)));
    let purge = |token| proposal(token, Command::Vacuum { table: TableId(9), until: Version(0) });
    let manifest = entry(late, (1_000..1_000 + TOKENS_MIN as u128).map(purge).collect());
    assert!(!manifest.tokens.contains_key(&Token(1)), "an old token is still there");
    assert!(manifest.tokens.contains_key(&Token(90)), "a token is gone before its time");
    // Not even a clock at the end of time stops the log.
    entry(u64::MAX - 1_000, vec![purge(5_000_000)]);
    assert_eq!(entry(0, vec![purge(5_000_001)]).tokens.len(), TOKENS_MIN);
    // Nor does it make the log remember everything from then on.
    let many = entry(0, (0..TOKENS_MAX as u128 + 5_000).map(|i| purge(6_000_000 + i)).collect());
    assert_eq!(many.tokens.len(), TOKENS_MAX);
}

#[test]
fn rows_in_the_log_are_bounded_for_each_table_and_for_all() {
    let mut manifest = prepared();
    let megabyte = |id: u128| {
        let NewSegment(segment) = segment(id, true, vec![]);
        NewSegment(Segment { data: SegmentData::Inline(vec![7; 1 << 20]), ..segment })
    };
    let mut id = 1_000;
    let mut fill = |manifest: &mut Manifest, table| loop {
        id += 1;
        match one(manifest, id, commit(table, vec![megabyte(id)], vec![])) {
            Outcome::Applied { .. } => {}
            Outcome::Rejected { kind, message } => {
                assert_eq!(kind, ErrorKind::ResourceExhausted);
                return message;
            }
        }
    };
    assert!(fill(&mut manifest, 5).contains("table public.t"));
    for n in 0..20 {
        let outcome = one(&mut manifest, 100 + n, create(&format!("u{n}"), 1));
        let Outcome::Applied { table: Some(table), .. } = outcome else { panic!("{outcome:?}") };
        if fill(&mut manifest, table.0).contains("for all tables") {
            assert!(manifest.inline_bytes() <= INLINE_TOTAL_BYTES_MAX as u64);
            return;
        }
    }
    panic!("the rows of all tables together are not bounded");
}

#[test]
fn a_node_is_removed_only_when_others_have_taken_its_replicas() {
    let mut manifest = prepared();
    let remove = |node| Command::RemoveNode(NodeId(node));
    let drain = |node| Command::DrainNode(NodeId(node));
    let replicas = |manifest: &Manifest| -> Vec<Vec<u64>> {
        let table = manifest.tables.get(&TableId(5)).unwrap();
        table.shards.iter().map(|s| s.replicas.iter().map(|n| n.0).collect()).collect()
    };
    assert_eq!(rejection(one(&mut manifest, 50, remove(9))), ErrorKind::NotFound);
    assert_eq!(rejection(one(&mut manifest, 51, drain(9))), ErrorKind::NotFound);
    assert_eq!(rejection(one(&mut manifest, 52, remove(2))), ErrorKind::Conflict);
    match one(&mut manifest, 53, drain(2)) {
        Outcome::Rejected { kind: ErrorKind::Conflict, message } => {
            assert!(message.contains("node 2") && message.contains("public.t"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    one(&mut manifest, 54, Command::RegisterNode(node(4)));
    for token in [55, 56] {
        // The second time changes nothing.
        assert!(matches!(one(&mut manifest, token, drain(2)), Outcome::Applied { .. }));
        for shard in replicas(&manifest) {
            assert!(shard.len() == 4 && shard.contains(&2), "{shard:?}");
            assert_eq!(shard.last(), Some(&4), "who has nothing yet must come last");
        }
    }
    // Who is to take over has died: somebody else is needed, and the node must stay.
    let live = |node, live| Command::SetLiveness { node: NodeId(node), live };
    one(&mut manifest, 60, live(4, false));
    assert_eq!(rejection(one(&mut manifest, 61, remove(2))), ErrorKind::Conflict);
    assert_eq!(rejection(one(&mut manifest, 62, drain(2))), ErrorKind::Conflict);
    one(&mut manifest, 63, live(4, true));
    assert!(matches!(one(&mut manifest, 57, remove(2)), Outcome::Applied { .. }));
    assert!(!manifest.nodes.contains_key(&NodeId(2)));
    for mut shard in replicas(&manifest) {
        shard.sort_unstable();
        assert_eq!(shard, [1, 3, 4]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Drop(u8),
    Rename(u8, u8),
    Commit(u8, u16, bool),
    Remove(u8, u16),
    Liveness(u8, bool),
    Delete(u8, u16, u8),
    Flush(u8, u16, u16),
    Alter(u8),
    Vacuum(u8),
    Repeat(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4).prop_map(Step::Create),
        (0u8..4).prop_map(Step::Drop),
        (0u8..4, 0u8..4).prop_map(|(a, b)| Step::Rename(a, b)),
        (0u8..20, 0u16..200, any::<bool>()).prop_map(|(t, s, inline)| Step::Commit(t, s, inline)),
        (0u8..20, 0u16..200).prop_map(|(t, s)| Step::Remove(t, s)),
        (1u8..4, any::<bool>()).prop_map(|(n, live)| Step::Liveness(n, live)),
        (0u8..20, 0u16..200, 0u8..12).prop_map(|(t, s, row)| Step::Delete(t, s, row)),
        (0u8..20, 0u16..200, 0u16..200).prop_map(|(t, a, b)| Step::Flush(t, a, b)),
        (0u8..20).prop_map(Step::Alter),
        (0u8..20).prop_map(Step::Vacuum),
        (0u8..50).prop_map(Step::Repeat),
    ];
    proptest::collection::vec(step, 1..80)
}

fn command(step: &Step, manifest: &Manifest) -> Command {
    let name = |n: &u8| TableName::new("public", format!("t{n}"));
    let table =
        |n: &u8| manifest.tables.keys().nth(*n as usize % manifest.tables.len().max(1)).map_or(0, |t| t.0);
    match step {
        Step::Create(n) => create(&format!("t{n}"), 1 + u32::from(n % 3)),
        Step::Drop(n) => Command::DropTable { name: name(n), if_exists: n % 2 == 0 },
        Step::Rename(a, b) => Command::RenameTable { from: name(a), to: name(b), replace: a % 2 == 0 },
        Step::Commit(t, s, inline) => {
            commit(table(t), vec![segment(u128::from(*s), *inline, vec![1, 2, 3])], vec![])
        }
        Step::Remove(t, s) => commit(table(t), vec![], vec![u128::from(*s)]),
        Step::Liveness(n, live) => Command::SetLiveness { node: NodeId(u64::from(*n)), live: *live },
        Step::Delete(t, s, row) => {
            let deletion = DeletionVector::inline(&RowSet::from_iter([u32::from(*row)]));
            let delete = vec![(SegmentId(u128::from(*s)), deletion)];
            commit_change(TableChange { base: manifest.version, delete, ..change(table(t)) })
        }
        Step::Flush(t, from, to) => flush(
            table(t),
            vec![u128::from(*from)],
            segment(1_000 + u128::from(*to) * 2 + u128::from(from % 2), false, vec![1, 2, 3]),
        ),
        Step::Alter(t) => Command::AlterTable(AlterTable {
            table: TableId(table(t)),
            schema_version: 1,
            schema: schema(),
            base: None,
        }),
        Step::Vacuum(t) => {
            Command::Vacuum { table: TableId(table(t)), until: Version(manifest.version.0.saturating_sub(5)) }
        }
        Step::Repeat(_) => Command::Vacuum { table: TableId(0), until: Version(0) },
    }
}

fn play(steps: &[Step], group: usize) -> Manifest {
    let mut manifest = prepared();
    for (round, chunk) in steps.chunks(group).enumerate() {
        let index = Version(manifest.version.0 + 1);
        let proposals = chunk
            .iter()
            .enumerate()
            .map(|(i, step)| {
                let token = match step {
                    Step::Repeat(token) => u128::from(*token),
                    _ => 1_000 + (round * group + i) as u128,
                };
                proposal(token, command(step, &manifest))
            })
            .collect();
        apply(&mut manifest, index, 10_000 + (round * 7 % 31) as u64, proposals);
    }
    manifest
}

proptest! {
    #[test]
    fn the_same_commands_give_the_same_snapshot_bytes(steps in steps(), group in 1usize..5) {
        let first = play(&steps, group).to_bytes();
        let second = play(&steps, group).to_bytes();
        prop_assert!(first == second, "the same commands gave different bytes");
        // And a snapshot is the manifest: restored, it gives the same bytes.
        let restored = Manifest::from_bytes(&first).unwrap();
        prop_assert!(restored.to_bytes() == first);
        prop_assert!(restored == play(&steps, group));
    }

    #[test]
    fn damaged_snapshots_never_panic(
        steps in steps(),
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = play(&steps, 3).to_bytes();
        let cut_at = cut.index(bytes.len());
        let _ = Manifest::from_bytes(&bytes[..cut_at]);
        let at = at.index(bytes.len());
        bytes[at] ^= 0x55;
        let _ = Manifest::from_bytes(&bytes);
    }
}
