//! Background work of a node.
//!
//! - every node tells the leader that it lives;
//! - the leader writes down who does not, and forgets what was removed long ago;
//! - a data node pulls segments that it should keep and does not have, writes inline rows of its shards
//!   out as files, merges segments, indexes them, removes those that nothing refers to, and reads what it keeps again and
//!   again to find what the disk has damaged.
//!
//! Each round looks at one pinned manifest. All of it may be interrupted at any point: what is half done
//! is found again by the next round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use plexus_model::limits::{RETENTION_MIN_US, STAGING_RETENTION_US};
use plexus_model::{
    Command, Error, ErrorKind, IndexDefinition, Manifest, NodeId, Result, Segment, SegmentId, SegmentIndex,
    Table, TableId,
};
use plexus_raft::Meta;
use plexus_storage::{SegmentRef, SegmentStore};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::indexing::{index_segment, remake, unindexed};
use crate::ingest::Writer;
use crate::limits::{
    COMMIT_TIMEOUT, GARBAGE_AGE_MIN, MAINTENANCE_INTERVAL, PULLS_MAX, READ_INDEX_TIMEOUT, VACUUMED_AGE_MIN,
};
use crate::merge_policy::{self, Sizes};
use crate::merging::{self, now_ms};
use crate::peers::Missing;
use crate::pull::Repairer;
use crate::scrub;
use crate::upkeep::vacuum;
use crate::write_out::{is_due, write_out};

/// How often a node tells the leader that it lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How often the leader looks for members that can become voters: a new cluster should not wait for them.
const VOTERS_INTERVAL: Duration = Duration::from_millis(200);
/// Silence after which the leader takes a node for dead.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Time for nodes to report to a new leader before silence counts.
const LEADER_GRACE: Duration = Duration::from_secs(5);
/// Time after which an index of a segment is made again, if it is not there.
const INDEX_RETRY: Duration = Duration::from_secs(60);
/// Time after which an index is made again, once more, that would be another than the lost one.
const REMAKE_RETRY: Duration = Duration::from_secs(60 * 60);
/// How often garbage and old records are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The background work of one node.
pub struct Maintenance {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub writer: Writer,
    pub store: Option<Arc<SegmentStore>>,
    pub repairer: Repairer,
    pub missing: Arc<Missing>,
}

/// Work on an index of a segment, as a manifest has it.
struct Due<T> {
    manifest: Arc<Manifest>,
    table: Arc<Table>,
    segment: Arc<Segment>,
    what: T,
}

impl Maintenance {
    /// Runs until `stop` is cancelled. The round that it is in is left where it is: the next finds the rest.
    pub async fn run(self, stop: CancellationToken) {
        let heartbeat = async {
            let mut tick = ticker(HEARTBEAT_INTERVAL);
            loop {
                tick.tick().await;
                if let Err(error) = self.meta.heartbeat().await {
                    tracing::debug!(%error, "heartbeat did not reach the leader");
                }
            }
        };
        let lead = async {
            let mut tick = ticker(MAINTENANCE_INTERVAL);
            let mut leading_since: Option<Instant> = None;
            let mut purged = Instant::now();
            loop {
                tick.tick().await;
                if !self.meta.is_leader() {
                    leading_since = None;
                    continue;
                }
                let since = *leading_since.get_or_insert_with(|| {
                    self.meta.clear_heartbeats();
                    Instant::now()
                });
                if since.elapsed() > LEADER_GRACE {
                    self.note("liveness", self.watch_nodes().await);
                }
                if purged.elapsed() > SWEEP_INTERVAL {
                    purged = Instant::now();
                    self.note("purge", self.purge().await);
                }
            }
        };
        let voters = async {
            let mut tick = ticker(VOTERS_INTERVAL);
            loop {
                tick.tick().await;
                self.note("voters", self.meta.reconcile_voters().await);
            }
        };
        let keep = async {
            let mut tick = ticker(MAINTENANCE_INTERVAL);
            let mut swept = Instant::now();
            let mut whole = Whole::default();
            let mut unneeded = GarbageTracker::default();
            loop {
                tick.tick().await;
                let manifest = self.meta.manifest();
                self.note("pull", self.pull_missing(&manifest, &mut whole).await);
                self.note("write out", self.write_out(&manifest).await);
                if swept.elapsed() > SWEEP_INTERVAL {
                    swept = Instant::now();
                    self.note("garbage", self.collect_garbage(&mut unneeded).await);
                    self.writer.engine.forget_idle();
                }
            }
        };
        // Apart from the rest: a merge takes a while, and a missing segment should not wait for it.
        let merge = async {
            let mut tick = ticker(MAINTENANCE_INTERVAL);
            loop {
                tick.tick().await;
                self.note("merge", self.merge().await);
            }
        };
        let index = async {
            let mut tick = ticker(MAINTENANCE_INTERVAL);
            let mut tried = HashMap::new();
            loop {
                tick.tick().await;
                self.note("index", self.index(&mut tried).await);
            }
        };
        let scrub = async {
            if let Some(store) = &self.store {
                scrub::run(self.node, &self.meta, store).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = heartbeat => {}
            () = merge => {}
            () = index => {}
            () = scrub => {}
            () = lead => {}
            () = voters => {}
            () = keep => {}
            () = stop.cancelled() => {}
        }
    }

    fn note(&self, work: &str, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!(work, %error, "background work failed; it is tried again");
        }
    }

    /// Writes down which nodes are heard of.
    async fn watch_nodes(&self) -> Result<()> {
        let manifest = self.meta.manifest();
        for record in manifest.nodes.values() {
            let live = self.meta.heartbeat_age(record.id).is_some_and(|silence| silence < SILENCE_MAX);
            if live != record.live {
                tracing::info!(node = %record.id, live, "a node's liveness changed");
                self.meta.propose(Command::SetLiveness { node: record.id, live }, COMMIT_TIMEOUT).await?;
            }
        }
        Ok(())
    }

    /// Forgets what is older than the retention of its table, and loads that were abandoned.
    async fn purge(&self) -> Result<()> {
        let manifest = self.meta.manifest();
        for table in manifest.tables.values() {
            let abandoned = table.name.is_staging()
                && table.created_time_us.saturating_add(STAGING_RETENTION_US) < manifest.time_us;
            if abandoned && table.dropped.is_none() {
                let drop = Command::DropTable { name: table.name.clone(), if_exists: true };
                self.meta.propose(drop, COMMIT_TIMEOUT).await?;
            }
            let retention = table.retention_us().max(RETENTION_MIN_US);
            if let Ok(until) = manifest.version_at(manifest.time_us.saturating_sub(retention))
                && vacuum::has_garbage(table, until)
            {
                self.meta.propose(Command::Vacuum { table: table.id, until }, COMMIT_TIMEOUT).await?;
            }
        }
        Ok(())
    }

    /// Pulls what this node should keep and does not have.
    async fn pull_missing(&self, manifest: &Manifest, whole: &mut Whole) -> Result<()> {
        let Some(store) = &self.store else {
            self.missing.set(manifest.version, std::iter::empty());
            return Ok(());
        };
        if whole.lost_file_count != store.lost_file_count() {
            *whole = Whole { lost_file_count: store.lost_file_count(), tables: HashMap::new() };
        }
        let mut missing: Vec<SegmentRef> = Vec::new();
        let mut tables = HashMap::new();
        for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
            if !whole.tables.get(&table.id).is_some_and(|seen| Arc::ptr_eq(seen, table)) {
                let known = missing.len();
                missing.extend(kept_by(table, self.node).filter(|s| !store.contains(s.id)));
                if missing.len() > known {
                    continue;
                }
            }
            tables.insert(table.id, table.clone());
        }
        whole.tables = tables;
        self.missing.set(manifest.version, missing.iter().map(|s| s.id));
        if missing.is_empty() {
            return Ok(());
        }
        tracing::info!(segments = missing.len(), "pulling segments that this node lacks");
        let pulls = missing.into_iter().map(|segment| async move {
            let pulled = self.repairer.pull(store, &segment).await;
            if pulled.is_ok() {
                self.missing.found(segment.id);
            }
            pulled
        });
        let results: Vec<Result<()>> =
            futures::stream::iter(pulls).buffer_unordered(PULLS_MAX).collect().await;
        results.into_iter().collect()
    }

    /// Exchanges inline rows for files, shard by shard, where this node is the first live replica.
    async fn write_out(&self, manifest: &Manifest) -> Result<()> {
        if self.store.is_none() {
            return Ok(());
        }
        for table in manifest.tables.values().filter(|t| t.inline_bytes > 0) {
            // Also what is out of sight and only there for readers of older versions.
            let mut shards: BTreeMap<u32, Vec<Arc<Segment>>> = BTreeMap::new();
            for segment in table.segments.values().filter(|s| s.is_inline()) {
                shards.entry(segment.shard).or_default().push(segment.clone());
            }
            for (shard, segments) in shards {
                let due = table.dropped.is_some() || is_due(&segments);
                if due && self.is_first(manifest, table, shard) {
                    // One shard without a majority must not hold up the others.
                    self.note("write out", write_out(&self.writer, table, shard, segments).await);
                }
            }
        }
        Ok(())
    }

    /// Merges segments of the shards that this node is the first live replica of, one merge after the other.
    async fn merge(&self) -> Result<()> {
        if self.store.is_none() {
            return Ok(());
        }
        let manifest = self.meta.manifest();
        for table in manifest.tables.values().filter(|t| t.dropped.is_none()) {
            for shard in 0..table.shards.len() as u32 {
                if !self.is_first(&manifest, table, shard) {
                    continue;
                }
                let candidates = merging::candidates(table, manifest.version, shard, now_ms());
                if let Some(chosen) = merge_policy::choose(&candidates, &Sizes::of(table)) {
                    let merged =
                        merging::merge(&self.writer, &manifest, table, shard, &chosen, "merge").await;
                    self.note("merge", merged.map(|_| ()));
                }
            }
        }
        Ok(())
    }

    /// Makes the indexes that segments lack, of the shards that this node is the first live replica of, and those of its own
    /// that nobody has any more; one after the other, each once in a while.
    async fn index(&self, tried: &mut HashMap<(SegmentId, u32), Instant>) -> Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        tried.retain(|_, at| at.elapsed() < INDEX_RETRY);
        let manifest = self.meta.manifest();
        let indexed =
            manifest.tables.values().filter(|t| t.dropped.is_none() && !t.schema.indexes.is_empty());
        for id in indexed.map(|table| table.id) {
            // It takes a while, in which segments come and go.
            while let Some(Due { manifest, table, segment, what: definition }) = self.next_to_index(id, tried)
            {
                tried.insert((segment.id, definition.id), Instant::now());
                let indexed = index_segment(&self.writer, &manifest, &table, &segment, &definition).await;
                self.note("index", indexed.map(|_| ()));
            }
            while let Some(Due { manifest, table, segment, what }) = self.next_lost(id, store, tried) {
                let (file, index) = what;
                tried.insert((segment.id, index), Instant::now());
                if self.repairer.pull(store, &file).await.is_ok() {
                    continue;
                }
                let remade = remake(&self.writer, &manifest, &table, &segment, &file, store).await;
                if remade.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt) {
                    tried.insert((segment.id, index), Instant::now() + REMAKE_RETRY);
                }
                self.note("index", remade);
            }
        }
        Ok(())
    }

    /// A segment without one of its indexes, that is not about to be merged.
    fn next_to_index(
        &self,
        table: TableId,
        tried: &HashMap<(SegmentId, u32), Instant>,
    ) -> Option<Due<IndexDefinition>> {
        let manifest = self.meta.manifest();
        let table = manifest.tables.get(&table).filter(|t| t.dropped.is_none())?.clone();
        for shard in (0..table.shards.len() as u32).filter(|s| self.is_first(&manifest, &table, *s)) {
            let candidates = merging::candidates(&table, manifest.version, shard, now_ms());
            let leaving = merge_policy::choose(&candidates, &Sizes::of(&table)).unwrap_or_default();
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
        let manifest = self.meta.manifest();
        let table = manifest.tables.get(&table).filter(|t| t.dropped.is_none())?.clone();
        let found = table.segments.values().find_map(|segment| {
            let is_lost = |index: &&SegmentIndex| {
                !store.contains(index.file) && !tried.contains_key(&(segment.id, index.index))
            };
            let index = segment.indexes.iter().find(is_lost)?.index;
            let file = SegmentRef::index_file(&table, segment, index)?;
            file.replicas.contains(&self.node).then(|| (segment.clone(), file, index))
        });
        let (segment, file, index) = found?;
        Some(Due { manifest, table, segment, what: (file, index) })
    }

    /// Whether this node is the first live replica of a shard.
    fn is_first(&self, manifest: &Manifest, table: &Table, shard: u32) -> bool {
        let live = |node: &&NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
        table.shards[shard as usize].replicas.iter().find(live) == Some(&self.node)
    }

    /// Removes segments that no record refers to.
    async fn collect_garbage(&self, unneeded: &mut GarbageTracker) -> Result<()> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        // Not this node's view: one that is behind would collect what was committed meanwhile.
        let manifest = self.meta.read(READ_INDEX_TIMEOUT).await?;
        let needed: HashSet<SegmentId> =
            manifest.tables.values().flat_map(|table| files_of(table)).map(|file| file.id).collect();
        let vacuumed = unneeded.look(store.ids(), &needed, Instant::now());
        let removed = tokio::task::spawn_blocking(move || {
            for id in &vacuumed {
                store.remove(*id)?;
            }
            let abandoned = store.collect_garbage(GARBAGE_AGE_MIN, |id| needed.contains(&id))?;
            Ok::<_, Error>(vacuumed.len() + abandoned)
        })
        .await
        .map_err(|e| Error::internal(format!("garbage: {e}")))??;
        if removed > 0 {
            tracing::info!(removed, "removed segments that nothing refers to");
        }
        Ok(())
    }
}

/// Files that were needed and are not any more. Those that never were may yet be: their commit can be on its way.
#[derive(Default)]
struct GarbageTracker {
    needed: HashSet<SegmentId>,
    since: HashMap<SegmentId, Instant>,
}

impl GarbageTracker {
    /// Notes what is needed now, and gives the files that have not been for so long that no query reads them.
    fn look(&mut self, here: Vec<SegmentId>, needed: &HashSet<SegmentId>, now: Instant) -> Vec<SegmentId> {
        self.since = here
            .iter()
            .filter(|id| !needed.contains(id))
            .filter_map(|id| {
                let fresh = self.needed.contains(id).then_some(now);
                Some((*id, self.since.get(id).copied().or(fresh)?))
            })
            .collect();
        self.needed = here.into_iter().filter(|id| needed.contains(id)).collect();
        let old = |since: &Instant| now.duration_since(*since) >= VACUUMED_AGE_MIN;
        self.since.iter().filter(|(_, since)| old(since)).map(|(id, _)| *id).collect()
    }
}

/// Tables of which this node had all that it should keep. A table is a new value after every change, so
/// that the same value need not be looked at again.
#[derive(Default)]
struct Whole {
    tables: HashMap<TableId, Arc<Table>>,
    /// [`SegmentStore::lost_file_count`] at that time.
    lost_file_count: u64,
}

/// Files of the shards of a table that `node` keeps, also of segments that only older versions see.
pub fn kept_by(table: &Table, node: NodeId) -> impl Iterator<Item = SegmentRef> {
    files_of(table).filter(move |file| file.replicas.contains(&node))
}

/// All files of a table.
fn files_of(table: &Table) -> impl Iterator<Item = SegmentRef> {
    table.segments.values().flat_map(move |segment| SegmentRef::all_files(table, segment))
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_needed_before_goes_early_and_only_after_a_while() {
        let (old, young) = (SegmentId(1), SegmentId(2));
        let start = Instant::now();
        let mut unneeded = GarbageTracker::default();
        assert!(unneeded.look(vec![old, young], &HashSet::from([old]), start).is_empty());
        assert!(unneeded.look(vec![old, young], &HashSet::new(), start).is_empty());
        let later = start + VACUUMED_AGE_MIN;
        assert_eq!(unneeded.look(vec![old, young], &HashSet::new(), later), [old]);
        assert!(unneeded.look(vec![young], &HashSet::new(), later + VACUUMED_AGE_MIN).is_empty());
    }
}
