//! Garbage collection on a node's disk: removes the files of vacuumed segments and of writes that were never
//! committed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::{Error, Result, SegmentId};

use super::context::TaskContext;
use super::files::files_of;
use super::runner::BackgroundTask;
use crate::limits::{GARBAGE_AGE_MIN, READ_INDEX_TIMEOUT, SWEEP_INTERVAL, VACUUMED_AGE_MIN};

/// Tracks local files that a manifest referred to before and that no manifest refers to now. A file that was
/// never referred to is different: its commit may still be in progress.
#[derive(Default)]
struct GarbageTracker {
    /// Local files that the latest manifest refers to.
    referenced: HashSet<SegmentId>,
    /// When each vacuumed file was first seen without a reference.
    unreferenced_since: HashMap<SegmentId, Instant>,
}

impl GarbageTracker {
    /// Records which of the `local` files are referenced, and returns those that lost their last reference at
    /// least [`VACUUMED_AGE_MIN`] ago. A query that still reads one fails.
    fn update(
        &mut self,
        local: Vec<SegmentId>,
        referenced: &HashSet<SegmentId>,
        now: Instant,
    ) -> Vec<SegmentId> {
        self.unreferenced_since = local
            .iter()
            .filter(|id| !referenced.contains(id))
            .filter_map(|id| {
                let just_vacuumed = self.referenced.contains(id).then_some(now);
                Some((*id, self.unreferenced_since.get(id).copied().or(just_vacuumed)?))
            })
            .collect();
        self.referenced = local.into_iter().filter(|id| referenced.contains(id)).collect();
        let expired = |since: &Instant| now.duration_since(*since) >= VACUUMED_AGE_MIN;
        self.unreferenced_since.iter().filter(|(_, since)| expired(since)).map(|(id, _)| *id).collect()
    }
}

/// Removes files that the manifest does not refer to, and evicts idle cache entries of the query engine.
pub(crate) struct GarbageTask {
    context: TaskContext,
    tracker: GarbageTracker,
}

impl GarbageTask {
    /// A task that has not seen any file yet.
    pub(crate) fn new(context: TaskContext) -> Self {
        Self { context, tracker: GarbageTracker::default() }
    }

    async fn collect(&mut self) -> Result<()> {
        let Some(store) = self.context.store.clone() else {
            return Ok(());
        };
        // A linearizable read: a lagging local manifest would miss recent commits, and their files would be
        // removed.
        let manifest = self.context.meta.read(READ_INDEX_TIMEOUT).await?;
        let referenced: HashSet<SegmentId> =
            manifest.tables.values().flat_map(|table| files_of(table)).map(|file| file.id).collect();
        let vacuumed = self.tracker.update(store.ids(), &referenced, Instant::now());
        let removed = tokio::task::spawn_blocking(move || {
            for id in &vacuumed {
                store.remove(*id)?;
            }
            let abandoned = store.collect_garbage(GARBAGE_AGE_MIN, |id| referenced.contains(&id))?;
            Ok::<_, Error>(vacuumed.len() + abandoned)
        })
        .await
        .map_err(|e| Error::internal(format!("garbage collection: {e}")))??;
        if removed > 0 {
            tracing::info!(removed, "removed unreferenced segments");
        }
        Ok(())
    }
}

#[async_trait]
impl BackgroundTask for GarbageTask {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn interval(&self) -> Duration {
        SWEEP_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        self.context.writer.engine.evict_idle();
        self.collect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_vacuumed_files_are_removed_and_only_after_the_minimum_age() {
        let (vacuumed, uncommitted) = (SegmentId(1), SegmentId(2));
        let start = Instant::now();
        let mut tracker = GarbageTracker::default();
        assert!(tracker.update(vec![vacuumed, uncommitted], &HashSet::from([vacuumed]), start).is_empty());
        assert!(tracker.update(vec![vacuumed, uncommitted], &HashSet::new(), start).is_empty());
        let later = start + VACUUMED_AGE_MIN;
        assert_eq!(tracker.update(vec![vacuumed, uncommitted], &HashSet::new(), later), [vacuumed]);
        assert!(tracker.update(vec![uncommitted], &HashSet::new(), later + VACUUMED_AGE_MIN).is_empty());
    }
}
