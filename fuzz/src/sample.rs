//! A small cluster, and things of it in each encoding.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, Int32Type};
use arrow_ipc::writer::StreamWriter;
use plexus_model::{
    ClusterId, Column, ColumnType, Command, CreateTable, Manifest, NodeId, NodeRecord, Proposal, Roles,
    Secret, TableName, TableSchema, Token, Version,
};
use plexus_raft::apply::apply;

/// Commands that make a cluster of one node with two tables.
pub(crate) fn commands() -> Vec<Command> {
    let address = |port: u16| format!("10.0.0.1:{port}");
    let node = NodeRecord {
        id: NodeId(1),
        roles: Roles::ALL,
        flight: address(1),
        peer: address(2),
        http: address(3),
        live: true,
    };
    vec![
        Command::Bootstrap { cluster: ClusterId(1), secret: Secret::from_bytes([1; 32]) },
        Command::RegisterNode(node),
        create(
            "t",
            &[("a", ColumnType::Int64), ("b", ColumnType::Utf8View), ("c", ColumnType::Float64)],
            vec![0],
        ),
        create(
            "u",
            &[("a", ColumnType::Int64), ("d", ColumnType::Date32), ("s", ColumnType::Utf8View)],
            vec![],
        ),
    ]
}

fn create(name: &str, columns: &[(&str, ColumnType)], primary_key: Vec<u32>) -> Command {
    let columns: Vec<Column> = columns
        .iter()
        .zip(1..)
        .map(|((name, data_type), id)| Column {
            id,
            name: (*name).into(),
            data_type: data_type.clone(),
            nullable: id > 1,
        })
        .collect();
    let last_column = columns.len() as u32;
    Command::CreateTable(CreateTable {
        name: TableName::new("public", name),
        schema: TableSchema { columns, last_column, primary_key, ..TableSchema::default() },
        shards: 2,
        replicas: 1,
        if_not_exists: false,
        or_replace: false,
    })
}

/// The manifest after [`commands`].
pub(crate) fn manifest() -> Manifest {
    let mut manifest = Manifest::default();
    for (command, index) in commands().into_iter().zip(1..) {
        let proposals = vec![Proposal { token: Token(u128::from(index)), command }];
        apply(&mut manifest, Version(index), 1_000_000 * index, proposals);
    }
    manifest
}

/// Rows of several types, with nulls.
pub(crate) fn batches() -> Vec<RecordBatch> {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("a longer text")]));
    let views: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("short"),
        None,
        Some("a text that is not inline"),
        Some("x"),
    ]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN, -0.0, 1e300]));
    let repeated: arrow::array::DictionaryArray<Int32Type> = vec!["a", "b", "a", "a"].into_iter().collect();
    let lists: ArrayRef = Arc::new(arrow::array::ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(5)]),
    ]));
    let parts = [("n", numbers.clone()), ("t", texts.clone())]
        .map(|(name, values)| (Arc::new(Field::new(name, values.data_type().clone(), true)), values));
    let whole = NullBuffer::from(vec![true, false, true, true]);
    let (fields, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let structs: ArrayRef = Arc::new(StructArray::new(fields.into(), values, Some(whole)));
    let columns: [(&str, ArrayRef); 7] = [
        ("a", numbers.clone()),
        ("b", texts),
        ("v", views),
        ("c", floats),
        ("r", Arc::new(repeated)),
        ("l", lists),
        ("s", structs),
    ];
    let wide = RecordBatch::try_from_iter(columns);
    let narrow = RecordBatch::try_from_iter([("a", numbers)]);
    wide.into_iter().chain(narrow).collect()
}

/// An IPC stream of a batch.
pub(crate) fn ipc_stream(batch: &RecordBatch) -> Vec<u8> {
    let write = || {
        let mut writer = StreamWriter::try_new(vec![], &batch.schema())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    write().unwrap_or_default()
}
