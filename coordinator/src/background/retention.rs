//! Retention: the leader vacuums versions that are older than the retention of their table, and drops the
//! staging tables of abandoned loads.

use std::time::Duration;

use async_trait::async_trait;
use plexus_model::limits::{RETENTION_MIN_US, STAGING_RETENTION_US};
use plexus_model::{Command, Result};

use super::context::TaskContext;
use super::runner::BackgroundTask;
use crate::limits::{COMMIT_TIMEOUT, SWEEP_INTERVAL};

/// On the leader: vacuums all tables and drops abandoned staging tables. Does nothing on other nodes.
pub(crate) struct RetentionTask(pub(crate) TaskContext);

#[async_trait]
impl BackgroundTask for RetentionTask {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn interval(&self) -> Duration {
        SWEEP_INTERVAL
    }

    async fn run(&mut self) -> Result<()> {
        if !self.0.meta.is_leader() {
            return Ok(());
        }
        let manifest = self.0.meta.manifest();
        for table in manifest.tables.values() {
            let abandoned = table.name.is_staging()
                && table.created_time_us.saturating_add(STAGING_RETENTION_US) < manifest.time_us;
            if abandoned && table.dropped.is_none() {
                let drop = Command::DropTable { name: table.name.clone(), if_exists: true };
                self.0.meta.propose(drop, COMMIT_TIMEOUT).await?;
            }
            let retention = table.retention_us().max(RETENTION_MIN_US);
            if let Ok(until) = manifest.version_at(manifest.time_us.saturating_sub(retention))
                && table.has_garbage(until)
            {
                self.0.meta.propose(Command::Vacuum { table: table.id, until }, COMMIT_TIMEOUT).await?;
            }
        }
        Ok(())
    }
}
