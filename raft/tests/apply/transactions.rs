//! A commit is all or nothing, and one that lost a race is a conflict.

use plexus_model::{AlterTable, Command, Commit, ErrorKind, TableChange, TableId, Version};

use crate::helpers::*;

#[test]
fn commit_is_all_or_nothing_and_a_lost_race_is_a_conflict() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![inline_segment(100), inline_segment(101)]));
    let replace = |id| commit(TABLE, vec![file_segment(id, &[1, 2, 3])], vec![100]);
    accept(&mut manifest, 71, replace(200));
    assert_eq!(reject(&mut manifest, 72, replace(202)), ErrorKind::Conflict);
    assert_eq!(visible_segments(&manifest, manifest.version), [101, 200]);
    // Earlier versions remain readable.
    assert_eq!(visible_segments(&manifest, Version(6)), [100, 101]);
    assert_eq!(table(&manifest).inline_bytes, 200);
    accept(&mut manifest, 73, drop_table("t"));
    assert_eq!(reject(&mut manifest, 74, add(vec![inline_segment(300)])), ErrorKind::Conflict);
}

#[test]
fn commit_changes_schemas_and_rows_together_or_not_at_all() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![file_segment(100, &[1, 2])]));
    let base = manifest.version;
    let command = |unchanged: u64, id: u128, schema_version| {
        let mut altered = schema();
        altered.columns[0].name = "renamed".into();
        let alter = AlterTable { table: TableId(TABLE), schema_version: 1, schema: altered, base: None };
        let change =
            TableChange { add: vec![file_segment(id, &[1, 2])], schema_version, base, ..write(TABLE) };
        let unchanged = vec![(TableId(TABLE), Version(unchanged))];
        Command::Commit(Commit { alter: vec![alter], changes: vec![change], unchanged, ..Commit::default() })
    };
    let before = manifest.clone();
    // The rows have the old schema; then the table has changed since it was read.
    assert_eq!(reject(&mut manifest, 71, command(base.0, 102, 1)), ErrorKind::Conflict);
    assert_eq!(reject(&mut manifest, 72, command(base.0 - 1, 102, 2)), ErrorKind::Conflict);
    assert_eq!(manifest.tables, before.tables);
    // The rows have the new schema.
    accept(&mut manifest, 73, command(base.0, 102, 2));
    assert_eq!(table(&manifest).schema.columns[0].name, "renamed");
    assert_eq!(table(&manifest).rows(manifest.version), 20);
    let then = table(&manifest).as_of(base).unwrap();
    assert_eq!((then.schema.columns[0].name.as_str(), then.rows(base)), ("a", 10));
}
