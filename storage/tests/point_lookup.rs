//! Point lookups return the rows that were written, for every column type and any distance between the rows.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, UInt64Array,
};
use arrow::compute;
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use bytes::Bytes;
use plexus_model::{
    Column, ColumnType, Error, NodeId, Result, RowSet, Segment, SegmentData, SegmentId, Shard, Table,
    TableId, TableName, TableSchema, Version,
};
use plexus_storage::{RemoteSegments, SegmentEncoder, SegmentReader, SegmentRef, SegmentStore, types};

const ROWS: i64 = 30_000;

/// A cluster in which no other node holds any file.
struct NoPeers;

#[async_trait]
impl RemoteSegments for NoPeers {
    async fn read(&self, _: NodeId, segment: &SegmentRef, _: u64, _: usize) -> Result<Bytes> {
        Err(Error::unavailable(format!("no other node holds {}", segment.id)))
    }

    fn order(&self, _: &SegmentRef) -> Vec<NodeId> {
        vec![]
    }
}

/// The rows of the segment: columns of several types, with nulls, repetitions and runs.
fn rows() -> RecordBatch {
    let ids = || 0..ROWS;
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let numbers: ArrayRef = Arc::new(Float32Array::from_iter_values((0..ROWS * 4).map(|i| (i as f32).sin())));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids())), false),
        // Unordered, with repetitions.
        (
            "small",
            Arc::new(Int32Array::from_iter(ids().map(|i| (i % 5 > 0).then_some((i * 7_919 % 1_000) as i32)))),
            true,
        ),
        (
            "word",
            Arc::new(StringArray::from_iter(ids().map(|i| (i % 7 > 0).then(|| format!("word {}", i % 90))))),
            true,
        ),
        (
            "text",
            Arc::new(StringArray::from_iter_values(ids().map(|i| format!("{} is {}", i * 31, i * i)))),
            false,
        ),
        ("real", Arc::new(Float64Array::from_iter_values(ids().map(|i| (i as f64).sqrt()))), false),
        ("flag", Arc::new(BooleanArray::from_iter(ids().map(|i| Some(i % 3 == 0)))), true),
        ("same", Arc::new(Int64Array::from_iter_values(ids().map(|_| 7))), false),
        ("v", Arc::new(FixedSizeListArray::new(item, 4, numbers, None)), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn table(schema: &TableSchema) -> Table {
    Table {
        id: TableId(1),
        name: TableName::new("public", "t"),
        schema: Arc::new(schema.clone()),
        schema_version: 0,
        replicas: 1,
        shards: Arc::new(vec![Shard { replicas: vec![NodeId(1)] }]),
        created: Version(1),
        created_time_us: 0,
        dropped: None,
        dropped_time_us: 0,
        segments: Default::default(),
        inline_bytes: 0,
        history: vec![],
        oldest: Version(0),
        changed: Version(1),
        relocations: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_return_the_written_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SegmentStore::open(dir.path()).unwrap());
    let batch = rows();
    let schema = types::from_arrow(batch.schema().as_ref()).unwrap();
    let encoded = SegmentEncoder.encode(&schema, vec![batch.clone()]).unwrap();
    let id = SegmentId::generate();
    store.put(id, &encoded.bytes, &encoded.data.checksum).unwrap();
    let segment = Segment {
        id,
        shard: 0,
        rows: encoded.rows,
        level: 0,
        schema_version: 0,
        added: Version(1),
        newest: Version(1),
        removed: None,
        removed_time_us: 0,
        data: SegmentData::File(encoded.data),
        statistics: encoded.statistics,
        keys: vec![],
        deletions: vec![],
        indexes: vec![],
        acknowledged: vec![],
    };
    let reads = SegmentReader::new(Some(store), Arc::new(NoPeers));
    let table = table(&schema);
    let last = ROWS as u32 - 1;
    let sets: Vec<RowSet> = vec![
        RowSet::new(),
        [0].into(),
        [last].into(),
        [0, 1, 8_191, 8_192, 8_193, 16_384, last].into(),
        (0..ROWS as u32).filter(|row| row.wrapping_mul(2_654_435_761) % 97 == 0).collect(),
        (0..ROWS as u32).collect(),
    ];
    // The first round opens the columns, the second one finds them open.
    for _ in 0..2 {
        for rows in &sets {
            let found = reads.lookup_rows(&table, &segment, &schema, rows.clone()).await.unwrap();
            let positions = UInt64Array::from_iter_values(rows.iter().map(u64::from));
            let expected = compute::take_record_batch(&batch, &positions).unwrap();
            assert_eq!(found, expected, "{} rows", rows.len());
        }
    }
    // A newer schema with a widened column, an added column and another order.
    let mut newer = schema.clone();
    newer.columns = vec![schema.columns[1].clone(), schema.columns[0].clone()];
    newer.columns[0].data_type = ColumnType::Int64;
    newer.columns.push(Column { id: 99, name: "added".into(), data_type: ColumnType::Utf8, nullable: true });
    let found = reads.lookup_rows(&table, &segment, &newer, [3, 20_000].into()).await.unwrap();
    let small = Int64Array::from(vec![Some(3 * 7_919 % 1_000), None]);
    assert_eq!(found.column(0).as_ref(), &small as &dyn arrow::array::Array);
    assert_eq!(found.column(1).as_ref(), &Int64Array::from(vec![3, 20_000]) as &dyn arrow::array::Array);
    assert_eq!(found.column(2).null_count(), 2);
    // The older schema again, as in time travel.
    let found = reads.lookup_rows(&table, &segment, &schema, [3].into()).await.unwrap();
    assert_eq!(found.column(1).data_type(), &DataType::Int32);
}
