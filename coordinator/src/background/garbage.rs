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

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::{Error, Result, SegmentId};

use super::context::TaskContext;
use super::files::files_of;
use super::runner::BackgroundTask;
use crate::limits::{GARBAGE_AGE_MIN, READ_INDEX_TIMEOUT, SWEEP_INTERVAL, VACUUMED_AGE_MIN};

/// Files that were needed and are not any more. Those that never were may yet be: their commit can be on its way.
#[derive(Default)]
pub struct GarbageTracker {
    needed: HashSet<SegmentId>,
    since: HashMap<SegmentId, Instant>,
}

impl GarbageTracker {
    /// Notes what is needed now, and gives the files that have not been for so long that no query reads them.
    fn update(&mut self, here: Vec<SegmentId>, needed: &HashSet<SegmentId>, now: Instant) -> Vec<SegmentId> {
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

/// Removes files that no manifest names, and releases what caches have not used for a while.
pub struct GarbageTask {
    context: TaskContext,
    tracker: GarbageTracker,
}

impl GarbageTask {
    /// A task that has seen no file yet.
    pub fn new(context: TaskContext) -> Self {
        Self { context, tracker: GarbageTracker::default() }
    }

    async fn collect(&mut self) -> Result<()> {
        let Some(store) = self.context.store.clone() else {
            return Ok(());
        };
        // Not this node's view: one that is behind would collect what was committed meanwhile.
        let manifest = self.context.meta.read(READ_INDEX_TIMEOUT).await?;
        let needed: HashSet<SegmentId> =
            manifest.tables.values().flat_map(|table| files_of(table)).map(|file| file.id).collect();
        let vacuumed = self.tracker.update(store.ids(), &needed, Instant::now());
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
    fn only_what_was_needed_before_goes_early_and_only_after_a_while() {
        let (old, young) = (SegmentId(1), SegmentId(2));
        let start = Instant::now();
        let mut tracker = GarbageTracker::default();
        assert!(tracker.update(vec![old, young], &HashSet::from([old]), start).is_empty());
        assert!(tracker.update(vec![old, young], &HashSet::new(), start).is_empty());
        let later = start + VACUUMED_AGE_MIN;
        assert_eq!(tracker.update(vec![old, young], &HashSet::new(), later), [old]);
        assert!(tracker.update(vec![young], &HashSet::new(), later + VACUUMED_AGE_MIN).is_empty());
    }
}
