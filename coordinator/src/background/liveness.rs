//! Liveness: every node sends heartbeats; the leader records in the log which nodes stopped, and keeps the voters.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::{Command, Result};

use super::context::TaskContext;
use super::runner::{BackgroundTask, ErrorPolicy};
use crate::limits::{COMMIT_TIMEOUT, MAINTENANCE_INTERVAL};

/// Time between heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Time between checks of the voters: a new cluster should not wait for them.
const VOTERS_INTERVAL: Duration = Duration::from_millis(200);
/// Age of the last heartbeat at which the leader takes a node for dead.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(3);
/// Time for nodes to reach a new leader before missing heartbeats count.
const LEADER_GRACE: Duration = Duration::from_secs(5);

/// Tells the leader that this node lives.
pub struct Heartbeat(pub TaskContext);

#[async_trait]
impl BackgroundTask for Heartbeat {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn interval(&self) -> Duration {
        HEARTBEAT_INTERVAL
    }

    fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::Debug
    }

    async fn run(&mut self) -> Result<()> {
        self.0.meta.heartbeat().await
    }
}

/// Makes voters of members that are ready for it, on the leader.
pub struct Voters(pub TaskContext);

#[async_trait]
impl BackgroundTask for Voters {
    fn name(&self) -> &'static str {
        "voters"
    }

    fn interval(&self) -> Duration {
        VOTERS_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        self.0.meta.reconcile_voters().await
    }
}

/// Records which nodes send heartbeats, on the leader.
pub struct Liveness {
    context: TaskContext,
    leading_since: Option<Instant>,
}

impl Liveness {
    /// A task that takes no node for dead before [`LEADER_GRACE`].
    pub fn new(context: TaskContext) -> Self {
        Self { context, leading_since: None }
    }

    async fn record_changes(&self) -> Result<()> {
        let manifest = self.context.meta.manifest();
        for record in manifest.nodes.values() {
            let live = self.context.meta.heartbeat_age(record.id).is_some_and(|age| age < HEARTBEAT_AGE_MAX);
            if live != record.live {
                tracing::info!(node = %record.id, live, "a node's liveness changed");
                self.context
                    .meta
                    .propose(Command::SetLiveness { node: record.id, live }, COMMIT_TIMEOUT)
                    .await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl BackgroundTask for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        if !self.context.meta.is_leader() {
            self.leading_since = None;
            return Ok(());
        }
        let since = *self.leading_since.get_or_insert_with(|| {
            self.context.meta.clear_heartbeats();
            Instant::now()
        });
        if since.elapsed() > LEADER_GRACE {
            self.record_changes().await?;
        }
        Ok(())
    }
}
