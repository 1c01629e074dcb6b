//! Indexes are attached to segments after these were committed, and detached when they are dropped.

use plexus_model::{
    AlterTable, ChangeKind, ColumnType, Command, ErrorKind, FileData, IndexDefinition, IndexKind, Manifest,
    SegmentId, SegmentIndex, TableChange, TableId, TableSchema, Version,
};

use crate::helpers::*;

fn schema_with_indexes(names: &[&str]) -> TableSchema {
    let mut schema = schema();
    schema.columns[0].data_type = ColumnType::Utf8;
    let kind = || IndexKind::Text { columns: vec![1], tokenizer: "raw".into() };
    let index = |(id, name): (u32, &&str)| IndexDefinition { id, name: (*name).into(), kind: kind() };
    schema.indexes = (1..).zip(names).map(index).collect();
    schema
}

fn alter_indexes(table: u64, schema_version: u32, names: &[&str]) -> Command {
    let schema = schema_with_indexes(names);
    Command::AlterTable(AlterTable { table: TableId(table), schema_version, schema, base: None })
}

fn attach(segment: u128, index: u32, file: u128, acknowledged: &[u64]) -> Command {
    let acknowledged = node_ids(acknowledged);
    let data = FileData { bytes: 10, checksum: [9; 32], column_bytes: 0 };
    let index = vec![(SegmentId(segment), SegmentIndex { index, file: SegmentId(file), data, acknowledged })];
    commit_change(TableChange {
        index,
        ..TableChange::new(TableId(TABLE), 1, Version(1), ChangeKind::Relocate)
    })
}

#[test]
fn index_must_be_defined_and_durable_and_is_detached_when_dropped() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![file_segment(100, &[1, 2]), inline_segment(101)]));
    assert_eq!(reject(&mut manifest, 71, attach(100, 1, 300, &[1, 2])), ErrorKind::Conflict);
    accept(&mut manifest, 72, alter_indexes(TABLE, 1, &["i"]));
    let changed = table(&manifest).changed;
    for (token, command, kind) in [
        // Not durable; inline; not defined; no such segment; the id of the file is in use.
        (73, attach(100, 1, 300, &[1]), ErrorKind::Conflict),
        (74, attach(101, 1, 300, &[1, 2]), ErrorKind::Internal),
        (75, attach(100, 2, 300, &[1, 2]), ErrorKind::Conflict),
        (76, attach(999, 1, 300, &[1, 2]), ErrorKind::Conflict),
        (77, attach(100, 1, 101, &[1, 2]), ErrorKind::Internal),
    ] {
        assert_eq!(reject(&mut manifest, token, command), kind);
    }
    accept(&mut manifest, 78, attach(100, 1, 300, &[1, 2]));
    let indexes = |manifest: &Manifest| table_segment(manifest, 100).indexes.clone();
    assert_eq!(indexes(&manifest).len(), 1);
    assert!(indexes(&manifest)[0].acknowledged.is_empty());
    // Attaching an index changes no rows.
    assert_eq!(table(&manifest).changed, changed);
    assert_eq!(reject(&mut manifest, 79, attach(100, 1, 301, &[1, 2])), ErrorKind::Conflict);
    // The name of an index is unique among the tables of a schema.
    let other = accept(&mut manifest, 80, create_table("other", 3)).unwrap();
    assert_eq!(reject(&mut manifest, 81, alter_indexes(other.0, 1, &["i"])), ErrorKind::AlreadyExists);
    accept(&mut manifest, 82, alter_indexes(TABLE, 2, &[]));
    assert!(indexes(&manifest).is_empty());
}
