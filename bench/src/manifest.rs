//! Memory and transfer size of the manifest: the bytes that one segment adds to its snapshot.

use std::sync::Arc;

use arrow::array::RecordBatch;
use plexus_model::{
    Error, Manifest, NodeId, Result, Segment, SegmentData, SegmentId, Shard, Table, TableId, TableName,
    Version,
};
use plexus_node::command::demo::tpch;
use plexus_storage::{SegmentEncoder, types};

use crate::Figure;

const SEGMENTS: u128 = 1_000;

/// Measures a segment of `lineitem`, the widest table of TPC-H.
pub(crate) fn measure() -> Result<Figure> {
    let lineitem = tpch(0.02).into_iter().find(|t| t.name == "lineitem");
    let lineitem = lineitem.ok_or_else(|| Error::internal("TPC-H without lineitem"))?;
    let schema = types::from_arrow(lineitem.reader.schema().as_ref())?;
    let batches: Vec<RecordBatch> =
        lineitem.reader.collect::<Result<_, _>>().map_err(|e| Error::internal(e.to_string()))?;
    let columns = schema.columns.len();
    let encoded = SegmentEncoder.encode(&schema, batches)?;
    let segment = |id| Segment {
        id: SegmentId(id),
        shard: 0,
        rows: encoded.rows,
        level: 0,
        schema_version: 1,
        added: Version(2),
        newest: Version(2),
        removed: None,
        removed_time_us: 0,
        data: SegmentData::File(encoded.data),
        statistics: encoded.statistics.clone(),
        keys: vec![],
        deletions: vec![],
        indexes: vec![],
        // Empty in a committed segment.
        acknowledged: vec![],
    };
    let manifest_bytes = |segments: u128| {
        let id = TableId(1);
        let table = Table {
            id,
            name: TableName::new("public", "lineitem"),
            schema: Arc::new(schema.clone()),
            schema_version: 1,
            replicas: 3,
            shards: Arc::new(vec![Shard { replicas: vec![NodeId(1), NodeId(2), NodeId(3)] }]),
            created: Version(1),
            created_time_us: 1,
            dropped: None,
            dropped_time_us: 0,
            segments: (0..segments).map(|id| (SegmentId(id), Arc::new(segment(id)))).collect(),
            inline_bytes: 0,
            history: vec![],
            oldest: Version(1),
            changed: Version(2),
            relocations: Default::default(),
        };
        let mut manifest = Manifest::default();
        manifest.tables.insert(id, Arc::new(table));
        manifest.to_bytes().len()
    };
    let bytes = (manifest_bytes(SEGMENTS) - manifest_bytes(0)) as u128 / SEGMENTS;
    let statistics = encoded.statistics.encoded_len();
    let value = format!("{bytes} bytes, {statistics} of them statistics of {columns} columns");
    Ok(Figure::new("manifest, one segment of lineitem", value, "<= 300 bytes"))
}
