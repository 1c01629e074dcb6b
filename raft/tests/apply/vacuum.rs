//! `VACUUM` deletes old versions for good and keeps the others readable.

use plexus_model::{AlterTable, Command, ErrorKind, SegmentId, TableChange, TableId, Version};

use crate::helpers::*;

#[test]
fn vacuumed_versions_cannot_be_read_and_later_ones_can() {
    let mut manifest = cluster();
    accept(&mut manifest, 70, add(vec![file_segment(100, &[1, 2])]));
    let first = manifest.version;
    let mut altered = schema();
    altered.columns[0].name = "renamed".into();
    let alter = AlterTable { table: TableId(TABLE), schema_version: 1, schema: altered, base: None };
    accept(&mut manifest, 71, Command::AlterTable(alter));
    let remove = TableChange { schema_version: 2, remove: vec![SegmentId(100)], ..write(TABLE) };
    accept(&mut manifest, 72, commit_change(remove));
    let last = manifest.version;
    let table_at = |version| manifest.as_of(version).unwrap().table(&table_name("t")).cloned();
    assert_eq!(table_at(first).unwrap().schema.columns[0].name, "a");
    assert_eq!(table_at(last).unwrap().schema.columns[0].name, "renamed");
    assert!(table_at(Version(4)).is_none());
    let vacuum = |until| Command::Vacuum { table: TableId(TABLE), until };
    assert_eq!(reject(&mut manifest, 73, vacuum(Version(99))), ErrorKind::InvalidArgument);
    accept(&mut manifest, 74, vacuum(last));
    assert!(table(&manifest).segments.is_empty() && table(&manifest).history.is_empty());
    let error = table(&manifest).as_of(first).unwrap_err();
    assert!(error.message().contains("vacuumed") && error.message().contains(&last.to_string()), "{error}");
    assert!(table(&manifest).as_of(last).is_ok());
    // A dropped table remains readable at earlier versions until it is vacuumed.
    accept(&mut manifest, 75, drop_table("t"));
    assert!(manifest.as_of(last).unwrap().table(&table_name("t")).is_some());
    let until = manifest.version;
    accept(&mut manifest, 76, vacuum(until));
    assert!(manifest.tables.is_empty());
}
