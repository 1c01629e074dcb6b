//! A cluster of three nodes with one table, and short ways to build commands and to apply them.

use std::sync::Arc;

use plexus_model::{
    ChangeKind, ClusterId, Column, ColumnType, Command, Commit, CreateTable, DeletionVector, ErrorKind,
    FileData, Flush, Manifest, NewSegment, NodeId, NodeRecord, Outcome, Proposal, Roles, RowSet, Secret,
    Segment, SegmentData, SegmentId, Statistics, Table, TableChange, TableId, TableName, TableSchema, Token,
    Version,
};
use plexus_raft::apply::apply;

/// Id of the table that [`cluster`] creates: the index of the log entry that created it.
pub(crate) const TABLE: u64 = 5;

/// Rows of every segment, unless a test says otherwise.
pub(crate) const ROWS: u64 = 10;

/// A cluster of nodes 1, 2 and 3 with table `public.t`, which has two shards of three replicas.
pub(crate) fn cluster() -> Manifest {
    let mut manifest = Manifest::default();
    let commands = [
        Command::Bootstrap { cluster: ClusterId(1), secret: Secret::from_bytes([1; 32]) },
        Command::RegisterNode(node(1)),
        Command::RegisterNode(node(2)),
        Command::RegisterNode(node(3)),
        create_table("t", 3),
    ];
    for (command, index) in commands.into_iter().zip(1..) {
        let proposals = vec![proposal(u128::from(index), command)];
        let outcomes = apply(&mut manifest, Version(index), 1_000, proposals);
        assert!(matches!(outcomes[0], Outcome::Applied { .. }), "{outcomes:?}");
    }
    manifest
}

pub(crate) fn proposal(token: u128, command: Command) -> Proposal {
    Proposal { token: Token(token), command }
}

/// Applies one command as the next log entry.
pub(crate) fn apply_one(manifest: &mut Manifest, token: u128, command: Command) -> Outcome {
    let index = Version(manifest.version.0 + 1);
    apply(manifest, index, 2_000, vec![proposal(token, command)]).remove(0)
}

/// Applies a command that must succeed, and returns the table that it created or changed, if it names one.
#[track_caller]
pub(crate) fn accept(manifest: &mut Manifest, token: u128, command: Command) -> Option<TableId> {
    match apply_one(manifest, token, command) {
        Outcome::Applied { table, .. } => table,
        rejected => panic!("should be applied: {rejected:?}"),
    }
}

/// Applies a command that must be rejected, and returns the kind of the error.
#[track_caller]
pub(crate) fn reject(manifest: &mut Manifest, token: u128, command: Command) -> ErrorKind {
    reject_with_message(manifest, token, command).0
}

/// Applies a command that must be rejected, and returns the kind and the message of the error.
#[track_caller]
pub(crate) fn reject_with_message(
    manifest: &mut Manifest,
    token: u128,
    command: Command,
) -> (ErrorKind, String) {
    match apply_one(manifest, token, command) {
        Outcome::Rejected { kind, message } => (kind, message),
        applied => panic!("should be rejected: {applied:?}"),
    }
}

pub(crate) fn node(id: u64) -> NodeRecord {
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

pub(crate) fn node_ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

pub(crate) fn table_name(name: &str) -> TableName {
    TableName::new("public", name)
}

pub(crate) fn schema() -> TableSchema {
    let column = Column { id: 1, name: "a".into(), data_type: ColumnType::Int64, nullable: false };
    TableSchema { columns: vec![column], last_column: 1, ..TableSchema::default() }
}

pub(crate) fn create_table(name: &str, replicas: u32) -> Command {
    Command::CreateTable(CreateTable {
        name: table_name(name),
        schema: schema(),
        shards: 2,
        replicas,
        if_not_exists: false,
        or_replace: false,
    })
}

pub(crate) fn drop_table(name: &str) -> Command {
    Command::DropTable { name: table_name(name), if_exists: false }
}

fn segment(id: u128, data: SegmentData, acknowledged: Vec<NodeId>) -> NewSegment {
    NewSegment(Segment {
        id: SegmentId(id),
        shard: (id % 2) as u32,
        rows: ROWS,
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
        acknowledged,
    })
}

/// An inline segment. Even ids belong to shard 0, odd ones to shard 1.
pub(crate) fn inline_segment(id: u128) -> NewSegment {
    segment(id, SegmentData::Inline(vec![7; 100]), vec![])
}

/// A segment in a file that the nodes `acknowledged` hold. Even ids belong to shard 0, odd ones to shard 1.
pub(crate) fn file_segment(id: u128, acknowledged: &[u64]) -> NewSegment {
    let file = FileData { bytes: 1000, checksum: [id as u8; 32], column_bytes: 1000 };
    segment(id, SegmentData::File(file), node_ids(acknowledged))
}

/// A segment of `rows` rows in a file that all nodes hold.
pub(crate) fn file_of_rows(id: u128, rows: u64) -> NewSegment {
    let NewSegment(segment) = file_segment(id, &[1, 2, 3]);
    NewSegment(Segment { rows, ..segment })
}

/// A write whose base is the greatest version, so that no commit is newer than it.
pub(crate) fn write(table: u64) -> TableChange {
    TableChange::new(TableId(table), 1, Version(u64::MAX), ChangeKind::Write)
}

pub(crate) fn commit_change(change: TableChange) -> Command {
    Command::Commit(Commit { changes: vec![change], operation: "test".into(), ..Commit::default() })
}

pub(crate) fn commit(table: u64, add: Vec<NewSegment>, remove: Vec<u128>) -> Command {
    let remove = remove.into_iter().map(SegmentId).collect();
    commit_change(TableChange { add, remove, ..write(table) })
}

pub(crate) fn add(segments: Vec<NewSegment>) -> Command {
    commit(TABLE, segments, vec![])
}

pub(crate) fn flush(table: u64, from: Vec<u128>, segment: NewSegment) -> Command {
    let from = from.into_iter().map(SegmentId).collect();
    commit_change(TableChange { flush: vec![Flush { from, segment }], ..write(table) })
}

/// Deletes rows of a segment, as seen at version `base`.
pub(crate) fn delete_rows(base: u64, segment: u128, rows: &[u32]) -> Command {
    let deletion = DeletionVector::inline(&RowSet::from_iter(rows));
    let delete = vec![(SegmentId(segment), deletion)];
    commit_change(TableChange { base: Version(base), delete, ..write(TABLE) })
}

/// Removes a segment as a whole, as seen at version `base`.
pub(crate) fn remove_segment(base: u64, segment: u128) -> Command {
    commit_change(TableChange { base: Version(base), remove: vec![SegmentId(segment)], ..write(TABLE) })
}

pub(crate) fn table(manifest: &Manifest) -> &Arc<Table> {
    manifest.tables.get(&TableId(TABLE)).unwrap()
}

pub(crate) fn table_segment(manifest: &Manifest, id: u128) -> &Arc<Segment> {
    table(manifest).segments.get(&SegmentId(id)).unwrap()
}

/// Ids of the segments that are visible at a version.
pub(crate) fn visible_segments(manifest: &Manifest, version: Version) -> Vec<u128> {
    table(manifest).visible(version).map(|s| s.id.0).collect()
}

/// Rows of a segment that are deleted at a version.
pub(crate) fn deleted_rows(manifest: &Manifest, segment: u128, version: u64) -> Vec<u32> {
    let mut rows = RowSet::new();
    for deletion in table_segment(manifest, segment).deletions_at(Version(version)) {
        rows |= deletion.inline_rows().unwrap().unwrap();
    }
    rows.iter().collect()
}
