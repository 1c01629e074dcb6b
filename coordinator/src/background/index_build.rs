//! Index builds: creates the index files of existing segments.
//!
//! An index definition is part of the schema and takes effect at once. The index of a segment is built in the
//! background from that segment alone, replicated, and committed as a record of the segment. Until then,
//! searches scan the segment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use plexus_index::text::Analyzer;
use plexus_model::{
    ChangeKind, Error, ErrorKind, FileData, IndexDefinition, IndexKind, Manifest, Result, Segment, SegmentId,
    SegmentIndex, Table, TableChange, TableId,
};
use plexus_query::search::{FieldGroup, blocking, build_bytes_max, build_texts};
use plexus_storage::{SegmentRef, SegmentStore};

use super::context::TaskContext;
use super::runner::BackgroundTask;
use crate::background::compaction_policy::SizeTargets;
use crate::background::{compaction, compaction_policy};
use crate::limits::MAINTENANCE_INTERVAL;
use crate::write::writer::Writer;

/// The indexes that file segments of a shard lack. Inline segments have none: they are few, and a flush
/// replaces them soon.
fn missing_indexes(table: &Table, shard: u32) -> Vec<(Arc<Segment>, IndexDefinition)> {
    let definitions = &table.schema.indexes;
    let segments =
        table.segments.values().filter(|s| s.shard == shard && s.removed.is_none() && !s.is_inline());
    let lacks = |segment: &Segment, id: u32| segment.indexes.iter().all(|index| index.index != id);
    segments
        .flat_map(|segment| {
            let missing =
                definitions.iter().filter(|d| d.kind.applies_to(segment.rows) && lacks(segment, d.id));
            missing.map(|d| (segment.clone(), (*d).clone())).collect::<Vec<_>>()
        })
        .collect()
}

/// Builds the index of a segment and commits it. Returns whether the commit was accepted: the segment or the
/// definition may have been removed in the meantime.
///
/// # Errors
/// Those of reading the segment, of replicating the index and of the commit.
#[tracing::instrument(
    level = "info",
    skip_all,
    fields(table = %table.name, segment = %segment.id, index = definition.name)
)]
async fn index_segment(
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
            tracing::debug!(error = %e, "an index build conflicted with another commit");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Rebuilds an index whose file is lost on all replicas. An index depends on its segment alone, so the same
/// version of the software builds the same bytes.
///
/// # Errors
/// `Corrupt` when the rebuilt file differs from the committed one, because a newer version of the software
/// built it. The index must be dropped and created again then. `NotFound` when `file` is not an index of the
/// segment.
#[tracing::instrument(
    level = "info",
    skip_all,
    fields(table = %table.name, segment = %segment.id, file = %file.id)
)]
async fn rebuild(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    file: &SegmentRef,
    store: &Arc<SegmentStore>,
) -> Result<()> {
    let index = segment.indexes.iter().find(|index| index.file == file.id);
    let definition = index.and_then(|index| table.schema.indexes.iter().find(|d| d.id == index.index));
    let definition =
        definition.ok_or_else(|| Error::not_found(format!("file {} is not an index", file.id)))?;
    let (bytes, checksum) = build(writer, manifest, table, segment, definition).await?;
    if checksum != file.data.checksum {
        return Err(Error::corrupt(format!(
            "index {:?} of segment {} is lost, and a rebuild gives a different file: drop the index and \
             create it again",
            definition.name, segment.id
        )));
    }
    let (store, id) = (store.clone(), file.id);
    blocking(move || store.put(id, &bytes, &checksum)).await?;
    tracing::info!("rebuilt a lost index");
    Ok(())
}

/// Builds the index of a segment. Returns its bytes and their BLAKE3 checksum.
async fn build(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    definition: &IndexDefinition,
) -> Result<(Bytes, [u8; 32])> {
    let snapshot = writer.engine.search_snapshot(table.clone(), manifest.version, segment.clone());
    let view = snapshot
        .views
        .first()
        .ok_or_else(|| Error::internal("the search snapshot of a segment has no segment view"))?;
    let bytes = match &definition.kind {
        IndexKind::Text { columns, tokenizer } => {
            let (columns, analyzer) = (columns.clone(), Analyzer::named(tokenizer)?);
            let fields = FieldGroup { columns, analyzer, index: Some(definition.id) };
            let texts = snapshot.texts(view, &fields).await?;
            let memory_max = build_bytes_max(writer.engine.memory_bytes());
            blocking(move || build_texts(&texts, &fields.analyzer, memory_max)).await?
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

/// An index to build or to repair, with the manifest in which it was found.
struct IndexWork<T> {
    manifest: Arc<Manifest>,
    table: Arc<Table>,
    segment: Arc<Segment>,
    index: T,
}

/// Time after which a failed index build is tried again.
const INDEX_RETRY: Duration = Duration::from_secs(60);
/// Additional time before a rebuild that gave a different file is tried again.
const REBUILD_RETRY: Duration = Duration::from_secs(60 * 60);

/// Builds the indexes that segments lack, of the shards whose first live replica is this node. Also restores
/// the index files that this node should hold and lacks: from another replica, or by a rebuild. One index at
/// a time.
pub(crate) struct IndexBuildTask {
    context: TaskContext,
    /// The last attempt for each index, by the id of the segment and of the index definition.
    attempts: HashMap<(SegmentId, u32), Instant>,
}

impl IndexBuildTask {
    /// A task that has not attempted anything yet.
    pub(crate) fn new(context: TaskContext) -> Self {
        Self { context, attempts: HashMap::new() }
    }

    /// The latest manifest with a table, unless the table was dropped.
    fn current(&self, table: TableId) -> Option<(Arc<Manifest>, Arc<Table>)> {
        let manifest = self.context.meta.manifest();
        let table = manifest.tables.get(&table).filter(|t| t.dropped.is_none())?.clone();
        Some((manifest, table))
    }

    /// A segment that lacks an index and is not about to be compacted.
    fn next_missing(&self, table: TableId) -> Option<IndexWork<IndexDefinition>> {
        let (manifest, table) = self.current(table)?;
        let shards = 0..table.shards.len() as u32;
        for shard in shards.filter(|s| self.context.is_first_live_replica(&manifest, &table, *s)) {
            let candidates = compaction::candidates(&table, manifest.version, shard, compaction::now_ms());
            let compacted_next =
                compaction_policy::select_segments(&candidates, &SizeTargets::for_table(&table))
                    .unwrap_or_default();
            let due = |(segment, definition): &(Arc<Segment>, IndexDefinition)| {
                !compacted_next.contains(&segment.id)
                    && !self.attempts.contains_key(&(segment.id, definition.id))
            };
            if let Some((segment, index)) = missing_indexes(&table, shard).into_iter().find(due) {
                return Some(IndexWork { manifest, table, segment, index });
            }
        }
        None
    }

    /// An index file that this node should hold and lacks, with the id of its definition.
    fn next_lost(&self, table: TableId, store: &SegmentStore) -> Option<IndexWork<(SegmentRef, u32)>> {
        let (manifest, table) = self.current(table)?;
        let found = table.segments.values().find_map(|segment| {
            let is_lost = |index: &&SegmentIndex| {
                !store.contains(index.file) && !self.attempts.contains_key(&(segment.id, index.index))
            };
            let index = segment.indexes.iter().find(is_lost)?.index;
            let file = SegmentRef::index_file(&table, segment, index)?;
            file.replicas.contains(&self.context.node).then(|| (segment.clone(), (file, index)))
        });
        let (segment, index) = found?;
        Some(IndexWork { manifest, table, segment, index })
    }

    /// Builds all indexes that segments of a table lack.
    async fn build_missing(&mut self, table: TableId) {
        // A build takes a while in which segments come and go, so each one starts from a new manifest.
        while let Some(work) = self.next_missing(table) {
            let IndexWork { manifest, table, segment, index } = work;
            self.attempts.insert((segment.id, index.id), Instant::now());
            let build = index_segment(&self.context.writer, &manifest, &table, &segment, &index);
            let unit = format!("index-{}-{}", segment.id, index.id);
            self.context.attempts.run(unit, build.map(|built| built.map(|_| ()))).await;
        }
    }

    /// Restores all index files of a table that this node should hold and lacks.
    async fn restore_lost(&mut self, table: TableId, store: &Arc<SegmentStore>) {
        while let Some(work) = self.next_lost(table, store) {
            let IndexWork { manifest, table, segment, index: (file, index) } = work;
            self.attempts.insert((segment.id, index), Instant::now());
            if self.context.repairer.repair(store, &file).await.is_ok() {
                continue;
            }
            let rebuild = rebuild(&self.context.writer, &manifest, &table, &segment, &file, store);
            let mut is_corrupt = false;
            let rebuild = rebuild.inspect(|rebuilt| {
                is_corrupt = rebuilt.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt);
            });
            self.context.attempts.run(format!("index-{}-{index}", segment.id), rebuild).await;
            if is_corrupt {
                self.attempts.insert((segment.id, index), Instant::now() + REBUILD_RETRY);
            }
        }
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
        self.attempts.retain(|_, at| at.elapsed() < INDEX_RETRY);
        let manifest = self.context.meta.manifest();
        let indexed =
            manifest.tables.values().filter(|t| t.dropped.is_none() && !t.schema.indexes.is_empty());
        for table in indexed.map(|table| table.id) {
            self.build_missing(table).await;
            self.restore_lost(table, &store).await;
        }
        Ok(())
    }
}
