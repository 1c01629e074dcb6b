//! Liveness: every node sends heartbeats. The leader records in the log which nodes are live, and maintains
//! the set of Raft voters.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use plexus_model::{Command, Result};

use super::context::TaskContext;
use super::runner::{BackgroundTask, ErrorPolicy};
use crate::limits::{COMMIT_TIMEOUT, MAINTENANCE_INTERVAL};

/// Time between heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Time between checks of the voters. Short, because a new cluster waits for its voters.
const VOTERS_INTERVAL: Duration = Duration::from_millis(200);
/// Age of the last heartbeat from which the leader considers a node dead.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(3);
/// Time between two checks from which on the leader was busy, and may have missed heartbeats itself.
const LATE: Duration = Duration::from_millis(2_500);
/// Time that nodes have to find a new leader, or one that was busy, before it counts missing heartbeats.
const LEADER_GRACE: Duration = Duration::from_secs(5);

/// Sends heartbeats to the leader.
pub(crate) struct HeartbeatTask(pub(crate) TaskContext);

#[async_trait]
impl BackgroundTask for HeartbeatTask {
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

/// On the leader: keeps the set of Raft voters up to date. Does nothing on other nodes.
pub(crate) struct VotersTask(pub(crate) TaskContext);

#[async_trait]
impl BackgroundTask for VotersTask {
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

/// On the leader: records which nodes are live. Does nothing on other nodes.
pub(crate) struct LivenessTask {
    context: TaskContext,
    /// When this node became the leader; `None` while it is not.
    leading_since: Option<Instant>,
    /// When it last checked.
    checked: Option<Instant>,
}

impl LivenessTask {
    /// A task that declares no node dead during the first [`LEADER_GRACE`] of its leadership, or after it was
    /// late.
    pub(crate) fn new(context: TaskContext) -> Self {
        Self { context, leading_since: None, checked: None }
    }

    /// Commits every change of a node's liveness.
    async fn record_changes(&self) -> Result<()> {
        let manifest = self.context.meta.manifest();
        for record in manifest.nodes.values() {
            let age = self.context.meta.heartbeat_age(record.id);
            let live = record.id == self.context.node || age.is_some_and(|age| age < HEARTBEAT_AGE_MAX);
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
impl BackgroundTask for LivenessTask {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn interval(&self) -> Duration {
        MAINTENANCE_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        if !self.context.meta.is_leader() {
            (self.leading_since, self.checked) = (None, None);
            return Ok(());
        }
        let is_late = self.checked.replace(Instant::now()).is_some_and(|checked| checked.elapsed() > LATE);
        if is_late && self.leading_since.is_some() {
            self.leading_since = Some(Instant::now());
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
