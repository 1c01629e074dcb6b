//! What is kept of a table for readers of older versions, and until when.

use std::sync::Arc;

use arrow::array::{StringArray, UInt64Array};
use datafusion::sql::sqlparser::ast::ObjectName;
use plexus_model::{Command, DeletedRows, Result, Segment, Table, Version};

use super::report;
use crate::coordinator::{Coordinator, Executed, Scope};
use crate::limits::COMMIT_TIMEOUT;

/// Whether there is something that no version from `until` on sees.
pub fn has_garbage(table: &Table, until: Version) -> bool {
    table.dropped.is_some_and(|dropped| dropped <= until)
        || table.former.iter().any(|former| former.until <= until)
        || table.segments.values().any(|s| is_garbage(s, until))
}

fn is_garbage(segment: &Segment, until: Version) -> bool {
    segment.removed.is_some_and(|removed| removed <= until)
}

/// Segments of a table that no version from `until` on sees.
fn garbage(table: &Table, until: Version) -> impl Iterator<Item = &Arc<Segment>> {
    let dropped = table.dropped.is_some_and(|dropped| dropped <= until);
    table.segments.values().filter(move |s| dropped || is_garbage(s, until))
}

/// Bytes of a segment and of the files of its deletions.
fn bytes(segment: &Segment) -> u64 {
    let deletions = segment.deletions.iter().map(|d| match &d.rows {
        DeletedRows::Inline(bytes) => bytes.len() as u64,
        DeletedRows::File { data, .. } => data.bytes,
    });
    segment.bytes() + deletions.sum::<u64>()
}

impl Coordinator {
    /// Forgets versions of one table, or of all, that are older than `retain_us`, or than the retention of
    /// their table. Files go from disk a while after, when no query can be reading them any more.
    pub(super) async fn vacuum(
        &self,
        scope: &Scope<'_>,
        table: Option<&ObjectName>,
        retain_us: Option<u64>,
        dry_run: bool,
    ) -> Result<Executed> {
        let tables: Vec<Arc<Table>> = match table {
            Some(name) => vec![self.tended(scope, name)?],
            None => scope.manifest.tables.values().cloned().collect(),
        };
        let manifest = &scope.manifest;
        let (mut names, mut untils, mut segments, mut sizes) = (vec![], vec![], vec![], vec![]);
        for table in &tables {
            let retain_us = retain_us.unwrap_or_else(|| table.retention_us());
            // Nothing is as old as that: everything is kept.
            let Ok(until) = manifest.version_at(manifest.time_us.saturating_sub(retain_us)) else {
                continue;
            };
            let gone: Vec<_> = garbage(table, until).collect();
            names.push(table.name.to_string());
            untils.push(until.max(table.oldest).0);
            segments.push(gone.len() as u64);
            sizes.push(gone.iter().map(|s| bytes(s)).sum::<u64>());
            if !dry_run && has_garbage(table, until) {
                self.meta().propose(Command::Vacuum { table: table.id, until }, COMMIT_TIMEOUT).await?;
            }
        }
        report(vec![
            ("table_name", Arc::new(StringArray::from(names))),
            ("oldest_version", Arc::new(UInt64Array::from(untils))),
            ("segments", Arc::new(UInt64Array::from(segments))),
            ("bytes", Arc::new(UInt64Array::from(sizes))),
        ])
    }
}
