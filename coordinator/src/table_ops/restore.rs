//! `RESTORE TABLE`: gives a table the schema and the rows that it had at an older version.
//!
//! Only differing rows are changed. Rows that were written since are deleted. Rows that were deleted since,
//! or were moved to other segments by a compaction, are written again. A restore is an ordinary commit, so
//! the versions in between stay readable.

use std::sync::Arc;
use std::time::Instant;

use datafusion::sql::sqlparser::ast::Expr;
use futures::TryStreamExt;
use plexus_model::{
    AlterTable, Commit, Error, Result, RowSelection, RowSet, Segment, Table, TableSchema, Version,
};

use crate::ddl::alter_table::is_wider;
use crate::exec::context::{Executed, StatementContext};
use crate::limits::READ_INDEX_TIMEOUT;
use crate::sql::time_travel;
use crate::table_ops::ProcedureExecutor;
use crate::write::keys::OnDuplicate;
use crate::write::row_changes::RowChanges;

impl ProcedureExecutor {
    /// Restores a table to the version or time `to`. Returns the number of rows that were written or deleted.
    ///
    /// # Errors
    /// `InvalidArgument` when the version is in the future or cannot be read any more. `Conflict` when the
    /// table changes concurrently.
    pub(super) async fn restore(
        &self,
        context: &StatementContext<'_>,
        table: &Arc<Table>,
        to: &Expr,
    ) -> Result<Executed> {
        let started = Instant::now();
        let manifest = &context.manifest;
        let version =
            time_travel::version_of(to, &self.writer.engine, manifest, &context.session.time_zone())?;
        if version > manifest.version {
            return Err(Error::invalid(format!(
                "version {version} is yet to come: the latest is {}",
                manifest.version
            )));
        }
        let old = table.as_of(version)?;
        let schema = restored_schema(table, &old);
        let altered = schema != *table.schema;
        let target = Arc::new(Table {
            schema_version: table.schema_version + u32::from(altered),
            schema: Arc::new(schema),
            ..(**table).clone()
        });
        let mut changes = RowChanges::new(target.clone());
        let mut ingest = self.writer.begin(target.clone(), OnDuplicate::Fail, "restore")?;
        let mut rows_deleted = 0;
        for segment in table.segments.values() {
            let old_rows = self.live_rows(&old, segment, version).await?;
            let current_rows = self.live_rows(table, segment, manifest.version).await?;
            let written_since = &current_rows - &old_rows;
            rows_deleted += written_since.len();
            if !written_since.is_empty() {
                changes.delete(segment.id, &written_since);
            }
            let removed_since = old_rows - current_rows;
            if !removed_since.is_empty() {
                let selection = RowSelection::Only(Arc::new(removed_since));
                let mut rows = self.writer.reader.scan(table, segment, &target.schema, selection).await?;
                while let Some(found) = rows.try_next().await? {
                    ingest.write(found.rows).await?;
                }
            }
        }
        let rows_written = ingest.rows();
        changes.add(ingest.stage().await?);
        if changes.is_empty() && !altered {
            return Ok(Executed::Affected(0));
        }
        let alter = AlterTable {
            table: table.id,
            schema_version: table.schema_version,
            schema: (*target.schema).clone(),
            base: None,
        };
        let commit = Commit {
            alter: if altered { vec![alter] } else { vec![] },
            changes: vec![changes.into_change(&self.writer, table, manifest.version).await?],
            // Rows of concurrent commits are not part of the restored version, so the commit must fail on
            // them.
            unchanged: vec![(table.id, manifest.version)],
            operation: "restore".to_owned(),
            duration_us: started.elapsed().as_micros() as u64,
        };
        let applied = self.writer.propose(commit).await?;
        self.planner.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        Ok(Executed::Affected(rows_written + rows_deleted))
    }

    /// Positions of the rows of a segment that `version` sees.
    async fn live_rows(&self, table: &Table, segment: &Segment, version: Version) -> Result<RowSet> {
        let mut rows = RowSet::new();
        if segment.is_visible_at(version) {
            rows.insert_range(0..segment.rows as u32);
            rows -= &*self.writer.reader.invisible_rows(table, segment, version).await?;
        }
        Ok(rows)
    }
}

/// The schema of the old version with the table properties of the current one, such as the retention. Widened
/// types stay wide, because the versions in between have values that do not fit the narrower type.
fn restored_schema(current: &Table, old: &Table) -> TableSchema {
    let mut schema = TableSchema {
        retention_us: current.schema.retention_us,
        last_column: current.schema.last_column,
        last_index: current.schema.last_index,
        ..(*old.schema).clone()
    };
    let has_column = |id: &u32| schema.columns.iter().any(|c| c.id == *id);
    let indexes =
        current.schema.indexes.iter().filter(|index| index.kind.columns().iter().all(has_column)).cloned();
    schema.indexes = indexes.collect();
    let schemas = current.history.iter().map(|f| &f.schema).chain([&*current.schema]);
    for other in schemas.flat_map(|s| &s.columns) {
        let column = schema.columns.iter_mut().find(|c| c.id == other.id);
        if let Some(column) = column.filter(|c| is_wider(&c.data_type, &other.data_type)) {
            column.data_type = other.data_type.clone();
        }
    }
    schema
}
