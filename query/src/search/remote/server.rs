//! The server side of a distributed search.

use std::sync::Arc;

use plexus_model::{Error, Manifest, Result, Segment, SegmentData, Table, Version, decode};

use crate::search::remote::protocol::{ShardRequest, ShardTask};
use crate::search::snapshot::context::SearchContext;
use crate::search::snapshot::{SearchSnapshot, SegmentView};

/// Opens an encoded [`ShardTask`]: a snapshot of the segments that it names, and the request. `manifest` is
/// the latest that this node knows.
///
/// # Errors
/// `InvalidArgument` when a segment has other files here; otherwise what reading its deletion vectors fails
/// with.
pub(crate) async fn open(
    task: &[u8],
    manifest: &Manifest,
    context: &SearchContext,
) -> Result<(SearchSnapshot, ShardRequest)> {
    let task: ShardTask = decode("search request", task)?;
    for segment in &task.segments {
        check_files(segment, manifest)?;
    }
    let segments = task.segments.into_iter().map(Arc::new).collect::<Vec<_>>();
    let table = Arc::new(Table {
        id: task.id,
        name: task.name,
        schema: Arc::new(task.schema),
        schema_version: task.schema_version,
        replicas: 0,
        shards: Arc::new(task.shards),
        created: Version(0),
        created_time_us: 0,
        dropped: None,
        dropped_time_us: 0,
        segments: segments.iter().map(|segment| (segment.id, segment.clone())).collect(),
        inline_bytes: 0,
        history: vec![],
        oldest: Version(0),
        changed: task.version,
        relocations: Default::default(),
    });
    let mut views = Vec::with_capacity(segments.len());
    for segment in segments {
        let invisible = context.reader.invisible_rows(&table, &segment, task.version).await?;
        views.push(SegmentView { segment, invisible });
    }
    let snapshot = SearchSnapshot::of(table, task.version, context.clone(), views).for_query(task.query_id);
    tracing::debug!(query_id = snapshot.query_id, version = snapshot.version.0, "searching for another node");
    Ok((snapshot, task.request))
}

/// Fails when a segment has other files than this node knows it to have. Reading such a file would fail its
/// check, and the intact file would count as damaged.
fn check_files(segment: &Segment, manifest: &Manifest) -> Result<()> {
    let Some(known) = manifest.segment(segment.id) else {
        // Its version has not been applied on this node yet.
        return Ok(());
    };
    let same_data = match (&segment.data, &known.data) {
        (SegmentData::File(requested), SegmentData::File(known)) => requested == known,
        _ => true,
    };
    let same_indexes = segment.indexes.iter().all(|requested| {
        known
            .indexes
            .iter()
            .filter(|known| known.file == requested.file)
            .all(|known| known.data == requested.data)
    });
    match same_data && same_indexes {
        true => Ok(()),
        false => Err(Error::invalid(format!("segment {} has other files than in the manifest", segment.id))),
    }
}
