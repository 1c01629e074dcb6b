//! Encoding and decoding of segments, routing, and the segment store.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use plexus_model::{Bound, ColumnType, ErrorKind, SegmentId};
use plexus_storage::{
    ReferenceSource, Router, SegmentCondition, SegmentEncoder, SegmentStore, inline, shard_of_key, types,
};
use proptest::prelude::*;

fn batch(ids: Vec<i64>, names: Vec<Option<String>>) -> RecordBatch {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), Arc::new(StringArray::from(names))];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn rows(n: i64) -> RecordBatch {
    batch((0..n).collect(), (0..n).map(|i| (i % 3 != 0).then(|| format!("name {i}"))).collect())
}

#[test]
fn supported_types_convert_both_ways_and_others_are_refused_by_name() {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let supported = [
        DataType::Boolean,
        DataType::Int8,
        DataType::UInt64,
        DataType::Float16,
        DataType::Utf8View,
        DataType::LargeBinary,
        DataType::Date64,
        DataType::Time32(TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Second, Some("+02:00".into())),
        DataType::Decimal32(9, 2),
        DataType::Decimal64(18, 0),
        DataType::Decimal128(38, -3),
        DataType::Decimal256(76, 10),
        DataType::List(item.clone()),
        DataType::LargeList(item.clone()),
        DataType::ListView(item.clone()),
        DataType::LargeListView(item.clone()),
        DataType::FixedSizeList(item.clone(), 384),
        DataType::Map(
            Arc::new(Field::new(
                "entries",
                DataType::Struct(
                    vec![
                        Field::new("key", DataType::Utf8, false),
                        Field::new("value", DataType::Int32, true),
                    ]
                    .into(),
                ),
                false,
            )),
            false,
        ),
        DataType::Struct(vec![Field::new("x", DataType::Int32, true)].into()),
    ];
    for t in supported {
        assert_eq!(types::to_data_type(&types::from_data_type(&t).unwrap()), t);
    }
    // What has no value is stored as text.
    assert_eq!(types::from_data_type(&DataType::Null).unwrap(), ColumnType::Utf8);
    let schema = Schema::new(vec![Field::new("span", DataType::Duration(TimeUnit::Second), true)]);
    let error = types::from_arrow(&schema).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("span") && error.message().contains("Duration"), "{error}");
}

#[test]
fn an_encoded_segment_reports_rows_bounds_and_checksum() {
    let schema = types::from_arrow(rows(1).schema().as_ref()).unwrap();
    let encoded = SegmentEncoder.encode(&schema, vec![rows(1000), rows(10)]).unwrap();
    assert_eq!(encoded.rows, 1010);
    assert_eq!(encoded.data.checksum, *blake3::hash(&encoded.bytes).as_bytes());
    let columns: Vec<_> = encoded.statistics.iter().collect();
    assert_eq!(columns[0].bounds, Some((Bound::Int(0), Bound::Int(999))));
    assert!(columns[0].distinct.unwrap().abs_diff(1_000) < 50, "{columns:?}");
    assert_eq!(columns[1].nulls, 334 + 4);
}

#[test]
fn inline_rows_round_trip_and_truncation_is_an_error() {
    let schema = types::from_arrow(rows(1).schema().as_ref()).unwrap();
    let (a, b) = (rows(3), rows(2));
    let encoded = inline::encode(&schema, &[&a, &b]).unwrap();
    let decoded = inline::decode(&encoded.bytes).unwrap();
    assert_eq!(arrow::compute::concat_batches(&a.schema(), &decoded).unwrap().num_rows(), 5);
    assert_eq!(inline::decode(&encoded.bytes[..40]).unwrap_err().kind(), ErrorKind::Corrupt);
}

proptest! {
    #[test]
    fn routing_assigns_every_row_once_and_equal_keys_to_one_shard(
        ids in proptest::collection::vec(-50i64..50, 1..300),
        shards in 1u32..9,
    ) {
        let names = ids.iter().map(|i| Some(i.to_string())).collect();
        let parts = Router::new(&[0], shards, 0).route(batch(ids.clone(), names)).unwrap();
        let mut found = Vec::new();
        for (shard, part) in parts {
            let column = part.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            for id in column.values() {
                let key: ArrayRef = Arc::new(Int64Array::from(vec![*id]));
                prop_assert_eq!(shard_of_key(&[key], shards).unwrap(), shard);
                found.push(*id);
            }
        }
        found.sort_unstable();
        let mut expected = ids;
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn text_keys_have_the_same_hash_in_every_representation() {
    let plain: ArrayRef = Arc::new(StringArray::from(vec!["a rather long key that is not stored inline"]));
    let view = arrow::compute::cast(&plain, &DataType::Utf8View).unwrap();
    let large = arrow::compute::cast(&plain, &DataType::LargeUtf8).unwrap();
    let shards: Vec<u32> =
        [plain, view, large].into_iter().map(|k| shard_of_key(&[k], 1000).unwrap()).collect();
    assert!(shards.iter().all(|s| *s == shards[0]));
}

#[test]
fn the_store_accepts_only_complete_segments_and_rebuilds_its_inventory() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::generate();
    let bytes = vec![42u8; 100_000];
    let checksum = *blake3::hash(&bytes).as_bytes();
    {
        let store = SegmentStore::open(dir.path()).unwrap();
        let error = store.put(id, &bytes[..99_999], &checksum).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(!store.contains(id));
        store.put(id, &bytes, &checksum).unwrap();
        // A retry has no effect.
        store.put(id, &bytes, &checksum).unwrap();
    }
    // The inventory is rebuilt from the directory. An incomplete file is not a segment.
    std::fs::remove_dir_all(dir.path().join("inventory")).unwrap();
    std::fs::write(dir.path().join("segments/tmp/incomplete"), b"incomplete").unwrap();
    let store = SegmentStore::open(dir.path()).unwrap();
    assert_eq!(store.ids(), [id]);
    assert!(!dir.path().join("segments/tmp/incomplete").exists());
    let file = store.segment(id, 100_000, &checksum, ReferenceSource::Manifest).unwrap();
    let mut tail = [0; 10];
    file.read_exact_at(&mut tail, 99_990).unwrap();
    assert_eq!(tail, [42; 10]);
    assert!(file.read_exact_at(&mut tail, 99_995).is_err());
}

#[test]
fn a_damaged_file_is_detected_on_open_and_goes_to_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::generate();
    let bytes = vec![42u8; 1000];
    let checksum = *blake3::hash(&bytes).as_bytes();
    SegmentStore::open(dir.path()).unwrap().put(id, &bytes, &checksum).unwrap();
    std::fs::write(dir.path().join(format!("segments/{id}.vortex")), &bytes[..999]).unwrap();
    let store = SegmentStore::open(dir.path()).unwrap();
    let open = |reference| store.segment(id, 1000, &checksum, reference);
    // A request from another node may have a wrong checksum, so only the manifest sends a file to quarantine.
    assert_eq!(
        open(ReferenceSource::Untrusted).err().expect("the damage is detected").kind(),
        ErrorKind::Corrupt
    );
    assert!(store.contains(id));
    assert_eq!(
        open(ReferenceSource::Manifest).err().expect("the damage is detected").kind(),
        ErrorKind::Corrupt
    );
    assert!(!store.contains(id));
    assert_eq!(std::fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
    store.put(id, &bytes, &checksum).unwrap();
    assert!(open(ReferenceSource::Manifest).is_ok());
}

#[test]
fn a_file_that_changes_while_it_is_open_is_noticed_and_goes_to_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let id = SegmentId::generate();
    let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let length = bytes.len() as u64;
    let checksum = *blake3::hash(&bytes).as_bytes();
    let store = SegmentStore::open(dir.path()).unwrap();
    store.put(id, &bytes, &checksum).unwrap();
    let read = |offset| {
        let mut buffer = [0; 100];
        let manifest = ReferenceSource::Manifest;
        store.read_exact_at(id, length, &checksum, manifest, &mut buffer, offset).map(|()| buffer)
    };
    assert_eq!(read(150_000).unwrap(), bytes[150_000..150_100]);
    let mut changed = bytes.clone();
    changed[150_010] ^= 1;
    std::fs::write(dir.path().join(format!("segments/{id}.vortex")), &changed).unwrap();
    // Other blocks are still right, and the file goes as a whole.
    assert_eq!(read(0).unwrap(), bytes[..100]);
    assert_eq!(read(150_000).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(read(0).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
    assert_eq!(store.lost_file_count(), 1);
    store.put(id, &bytes, &checksum).unwrap();
    assert_eq!(read(150_000).unwrap(), bytes[150_000..150_100]);
    // What another node says of a file does not set it aside.
    let condition = store.check(id, length, &[0; 32], ReferenceSource::Untrusted).unwrap();
    assert_eq!(condition, SegmentCondition::Damaged);
    assert_eq!(read(150_000).unwrap(), bytes[150_000..150_100]);
    // The same id with other bytes, which match their own checksum.
    let error = store.put(id, &changed, blake3::hash(&changed).as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(read(150_000).unwrap(), bytes[150_000..150_100]);
}

#[test]
fn a_deleted_file_is_reported_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(dir.path()).unwrap();
    let (id, bytes) = (SegmentId::generate(), vec![1u8; 10]);
    let checksum = *blake3::hash(&bytes).as_bytes();
    store.put(id, &bytes, &checksum).unwrap();
    std::fs::remove_file(dir.path().join(format!("segments/{id}.vortex"))).unwrap();
    let error =
        store.segment(id, 10, &checksum, ReferenceSource::Manifest).err().expect("the file is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!store.contains(id), "repair would not fetch it again");
}

#[test]
fn garbage_collection_deletes_old_segments_that_are_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(dir.path()).unwrap();
    let ids: Vec<SegmentId> = (0..3)
        .map(|i| {
            let id = SegmentId::generate();
            let bytes = vec![i; 10];
            store.put(id, &bytes, blake3::hash(&bytes).as_bytes()).unwrap();
            id
        })
        .collect();
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(store.collect_garbage(hour, |_| false).unwrap(), 0);
    assert_eq!(store.collect_garbage(std::time::Duration::ZERO, |id| id == ids[1]).unwrap(), 2);
    assert_eq!(store.ids(), [ids[1]]);
}

#[test]
fn null_vectors_and_structs_are_encoded() {
    use arrow::array::{FixedSizeListArray, Float32Array, StructArray};
    use arrow::buffer::NullBuffer;
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let values: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), Some(2.0), None, None]));
    let nulls = Some(NullBuffer::from(vec![true, false]));
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, values, nulls.clone()));
    let inner = Arc::new(Field::new("x", DataType::Int64, false));
    let x: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let structs: ArrayRef = Arc::new(StructArray::new(vec![inner].into(), vec![x], nulls));
    let batch =
        RecordBatch::try_from_iter_with_nullable([("v", vectors, true), ("s", structs, true)]).unwrap();
    let schema = types::from_arrow(batch.schema().as_ref()).unwrap();
    let encoded = SegmentEncoder.encode(&schema, vec![batch]).unwrap();
    assert_eq!(encoded.rows, 2);
    assert_eq!(encoded.statistics.iter().map(|c| c.nulls).collect::<Vec<_>>(), [1, 1]);
}
