//! `VACUUM`: ends time travel to old versions, so that their files can be removed.

use std::sync::Arc;

use arrow::array::{StringArray, UInt64Array};
use datafusion::sql::sqlparser::ast::ObjectName;
use futures::FutureExt;
use plexus_model::{Command, DeletionVector, ErrorKind, Result, Segment, Table};

use super::report;
use crate::exec::context::{Executed, StatementContext};
use crate::limits::COMMIT_TIMEOUT;
use crate::running::committing;
use crate::table_ops::ProcedureExecutor;

/// Bytes of a segment and of its deletion vectors.
fn bytes_with_deletions(segment: &Segment) -> u64 {
    segment.bytes() + segment.deletions.iter().map(DeletionVector::bytes).sum::<u64>()
}

impl ProcedureExecutor {
    /// Vacuums one table, or all of them: removes versions that are older than `retain_us` microseconds, or
    /// than the retention of their table. Files stay on disk for
    /// [`VACUUMED_AGE_MIN`](crate::limits::VACUUMED_AGE_MIN), for queries that read them. Returns one row per
    /// table. A dry run changes nothing.
    pub(super) async fn vacuum(
        &self,
        context: &StatementContext<'_>,
        table: Option<&ObjectName>,
        retain_us: Option<u64>,
        dry_run: bool,
    ) -> Result<Executed> {
        context.session.check_writable()?;
        let tables: Vec<Arc<Table>> = match table {
            Some(name) => vec![self.writable_table(context, name)?],
            None => context.manifest.tables.values().cloned().collect(),
        };
        let manifest = &context.manifest;
        let (mut names, mut oldest_versions, mut segments, mut sizes) = (vec![], vec![], vec![], vec![]);
        for table in &tables {
            let retain_us = retain_us.unwrap_or_else(|| table.retention_us());
            // There is no version of that age, so there is nothing to vacuum.
            let Ok(until) = manifest.version_at(manifest.time_us.saturating_sub(retain_us)) else {
                continue;
            };
            let due = table.has_garbage(until);
            names.push(table.name.to_string());
            oldest_versions.push(if due { until.max(table.oldest).0 } else { table.oldest.0 });
            segments.push(table.garbage(until).count() as u64);
            sizes.push(table.garbage(until).map(|s| bytes_with_deletions(s)).sum::<u64>());
            if dry_run || !due {
                continue;
            }
            let vacuum = Command::Vacuum { table: table.id, until };
            match committing(self.planner.meta.propose(vacuum, COMMIT_TIMEOUT).boxed()).await {
                // The table was dropped and already vacuumed by a concurrent command.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                done => drop(done?),
            }
        }
        report(vec![
            ("table_name", Arc::new(StringArray::from(names))),
            ("oldest_version", Arc::new(UInt64Array::from(oldest_versions))),
            ("segments", Arc::new(UInt64Array::from(segments))),
            ("bytes", Arc::new(UInt64Array::from(sizes))),
        ])
    }
}
