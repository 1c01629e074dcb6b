//! Indexes: their definitions, and making them for the segments that are there.
//!
//! A definition is a view of the schema, visible at once. The index of a segment is made in the background, from the
//! segment alone, copied to its replicas, and committed as a record beside it. Until then the segment is searched without.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use plexus_index::text::Analyzer;
use plexus_model::{
    ChangeKind, Error, ErrorKind, FileData, IndexDefinition, IndexKind, Manifest, Result, Segment, SegmentId,
    SegmentIndex, Table, TableChange, TableId,
};
use plexus_query::search::{TextFields, blocking, build_texts};
use plexus_storage::{SegmentRef, SegmentStore};

use super::context::{TaskContext, log_failure};
use super::runner::BackgroundTask;
use crate::background::compaction_policy::Sizes;
use crate::background::{compaction, compaction_policy};
use crate::limits::MAINTENANCE_INTERVAL;
use crate::write::writer::Writer;

/// Segments of a shard that lack an index: each with a definition. Those in the log are few, and leave it soon.
pub fn unindexed(table: &Table, shard: u32) -> Vec<(Arc<Segment>, IndexDefinition)> {
    let definitions = &table.schema.indexes;
    let segments =
        table.segments.values().filter(|s| s.shard == shard && s.removed.is_none() && !s.is_inline());
    let lacks = |segment: &Segment, id: u32| segment.indexes.iter().all(|index| index.index != id);
    segments
        .flat_map(|segment| {
            let lacking =
                definitions.iter().filter(|d| d.kind.applies_to(segment.rows) && lacks(segment, d.id));
            lacking.map(|d| (segment.clone(), (*d).clone())).collect::<Vec<_>>()
        })
        .collect()
}

/// Makes the index of a segment, and commits it. Whether it was taken: the segment or the definition may be gone.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, segment = %segment.id, index = definition.name))]
pub async fn index_segment(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    definition: &IndexDefinition,
) -> Result<bool> {
    let started = Instant::now();
    let (bytes, checksum) = build(writer, manifest, table, segment, definition).await?;
    let data = FileData { bytes: bytes.len() as u64, checksum, column_bytes: 0 };
    let (file, acknowledged) = writer.replicate(table, segment.shard, bytes, checksum).await?;
    let index = SegmentIndex { index: definition.id, file, data, acknowledged };
    let change = TableChange::new(table.id, table.schema_version, manifest.version, ChangeKind::Relocate);
    let change = TableChange { index: vec![(segment.id, index)], ..change };
    match writer.commit(vec![change], "index", started).await {
        Ok(_) => {
            tracing::debug!(bytes = data.bytes, "indexed a segment");
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::Conflict => {
            tracing::debug!(error = %e, "an index came too late");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Makes an index again whose file is lost on all replicas. It is made of the segment alone, and so it is the same.
///
/// # Errors
/// `Corrupt` when it is another, since a newer version makes it: it is to be dropped then and created again.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, segment = %segment.id, file = %file.id))]
pub async fn rebuild(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    file: &SegmentRef,
    store: &Arc<SegmentStore>,
) -> Result<()> {
    let index = segment.indexes.iter().find(|index| index.file == file.id);
    let definition = index.and_then(|index| table.schema.indexes.iter().find(|d| d.id == index.index));
    let definition = definition.ok_or_else(|| Error::not_found(format!("{} is no index", file.id)))?;
    let (bytes, checksum) = build(writer, manifest, table, segment, definition).await?;
    if checksum != file.data.checksum {
        return Err(Error::corrupt(format!(
            "index {:?} of segment {} is lost, and would be another now: drop it and create it again",
            definition.name, segment.id
        )));
    }
    let (store, id) = (store.clone(), file.id);
    blocking(move || store.put(id, &bytes, &checksum)).await?;
    tracing::info!("made a lost index again");
    Ok(())
}

/// The bytes of the index of a segment, with their checksum.
pub async fn build(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    definition: &IndexDefinition,
) -> Result<(Bytes, [u8; 32])> {
    let snapshot = writer.engine.search_snapshot(table.clone(), manifest.version, segment.clone());
    let view =
        snapshot.views.first().ok_or_else(|| Error::internal("a snapshot of one segment without it"))?;
    let bytes = match &definition.kind {
        IndexKind::Text { columns, tokenizer } => {
            let (columns, analyzer) = (columns.clone(), Analyzer::named(tokenizer)?);
            let fields = TextFields { columns, analyzer, index: Some(definition.id) };
            let texts = snapshot.texts(view, &fields).await?;
            blocking(move || build_texts(&texts, &fields.analyzer)).await?
        }
        IndexKind::Vector { column, metric } => {
            let vectors = snapshot.vectors(view, *column).await?;
            let metric = *metric;
            blocking(move || vectors.build_graph(metric)).await?
        }
    };
    blocking(move || {
        let checksum = *blake3::hash(&bytes).as_bytes();
        Ok((Bytes::from(bytes), checksum))
    })
    .await
}

/// Work on an index of a segment, as a manifest has it.
pub struct Due<T> {
    manifest: Arc<Manifest>,
    table: Arc<Table>,
    segment: Arc<Segment>,
    what: T,
}

/// Time after which building an index is tried again.
const INDEX_RETRY: Duration = Duration::from_secs(60);
/// Time after which a lost index is rebuilt once more that would get other bytes.
const REBUILD_RETRY: Duration = Duration::from_secs(60 * 60);

/// Builds the indexes that segments lack, of the shards whose first live replica is this node, and rebuilds those of its
/// own that no replica has any more; one after the other.
pub struct IndexBuildTask {
    context: TaskContext,
    /// When each index of a segment was tried last.
    tried: HashMap<(SegmentId, u32), Instant>,
}

impl IndexBuildTask {
    /// A task that has tried nothing yet.
    pub fn new(context: TaskContext) -> Self {
        Self { context, tried: HashMap::new() }
    }

    /// A segment without one of its indexes, that is not about to be merged.
    fn next_to_index(
        &self,
        table: TableId,
        tried: &HashMap<(SegmentId, u32), Instant>,
    ) -> Option<Due<IndexDefinition>> {
        let manifest = self.context.meta.manifest();
        let table = manifest.tables.get(&table).filter(|t| t.dropped.is_none())?.clone();
        for shard in (0..table.shards.len() as u32).filter(|s| self.context.is_first(&manifest, &table, *s)) {
            let candidates = compaction::candidates(&table, manifest.version, shard, compaction::now_ms());
            let leaving = compaction_policy::choose(&candidates, &Sizes::of(&table)).unwrap_or_default();
            let due = |(segment, definition): &(Arc<Segment>, IndexDefinition)| {
                !leaving.contains(&segment.id) && !tried.contains_key(&(segment.id, definition.id))
            };
            if let Some((segment, definition)) = unindexed(&table, shard).into_iter().find(due) {
                return Some(Due { manifest, table, segment, what: definition });
            }
        }
        None
    }

    /// An index of a segment whose file this node should have, and has not.
    fn next_lost(
        &self,
        table: TableId,
        store: &SegmentStore,
        tried: &HashMap<(SegmentId, u32), Instant>,
    ) -> Option<Due<(SegmentRef, u32)>> {
        let manifest = self.context.meta.manifest();
        let table = manifest.tables.get(&table).filter(|t| t.dropped.is_none())?.clone();
        let found = table.segments.values().find_map(|segment| {
            let is_lost = |index: &&SegmentIndex| {
                !store.contains(index.file) && !tried.contains_key(&(segment.id, index.index))
            };
            let index = segment.indexes.iter().find(is_lost)?.index;
            let file = SegmentRef::index_file(&table, segment, index)?;
            file.replicas.contains(&self.context.node).then(|| (segment.clone(), file, index))
        });
        let (segment, file, index) = found?;
        Some(Due { manifest, table, segment, what: (file, index) })
    }
}

#[async_trait]
impl BackgroundTask for IndexBuildTask {
    fn name(&self) -> &'static str {
        "index_build"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    fn is_heavy(&self) -> bool {
        true
    }

    async fn run(&mut self) -> Result<()> {
        let Some(store) = self.context.store.clone() else {
            return Ok(());
        };
        self.tried.retain(|_, at| at.elapsed() < INDEX_RETRY);
        let manifest = self.context.meta.manifest();
        let indexed =
            manifest.tables.values().filter(|t| t.dropped.is_none() && !t.schema.indexes.is_empty());
        for id in indexed.map(|table| table.id) {
            // It takes a while, in which segments come and go.
            while let Some(Due { manifest, table, segment, what: definition }) =
                self.next_to_index(id, &self.tried)
            {
                self.tried.insert((segment.id, definition.id), Instant::now());
                let indexed =
                    index_segment(&self.context.writer, &manifest, &table, &segment, &definition).await;
                log_failure("index", indexed.map(|_| ()));
            }
            while let Some(Due { manifest, table, segment, what }) = self.next_lost(id, &store, &self.tried) {
                let (file, index) = what;
                self.tried.insert((segment.id, index), Instant::now());
                if self.context.repairer.repair(&store, &file).await.is_ok() {
                    continue;
                }
                let rebuilt = rebuild(&self.context.writer, &manifest, &table, &segment, &file, &store).await;
                if rebuilt.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt) {
                    self.tried.insert((segment.id, index), Instant::now() + REBUILD_RETRY);
                }
                log_failure("index", rebuilt);
            }
        }
        Ok(())
    }
}
