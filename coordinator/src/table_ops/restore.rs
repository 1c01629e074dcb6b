//! `RESTORE TABLE`: what a table was at an older version becomes what it is now.
//!
//! Only rows that differ are touched: those that were written since are deleted, and those that were deleted
//! since, or were moved to other segments, are written again. It is one commit like any other, so the
//! versions between stay readable.

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
    pub(super) async fn restore(
        &self,
        scope: &StatementContext<'_>,
        table: &Arc<Table>,
        to: &Expr,
    ) -> Result<Executed> {
        let started = Instant::now();
        let manifest = &scope.manifest;
        let version = time_travel::version_of(to, &self.writer.engine, manifest)?;
        if version > manifest.version {
            return Err(Error::invalid(format!(
                "version {version} is yet to come: the latest is {}",
                manifest.version
            )));
        }
        let then = table.as_of(version)?;
        let schema = restored_schema(table, &then);
        let altered = schema != *table.schema;
        let target = Arc::new(Table {
            schema_version: table.schema_version + u32::from(altered),
            schema: Arc::new(schema),
            ..(**table).clone()
        });
        let mut changes = RowChanges::new(target.clone());
        let mut ingest = self.writer.begin(target.clone(), OnDuplicate::Fail, "restore")?;
        let mut gone = 0;
        for segment in table.segments.values() {
            let was = self.live_rows(&then, segment, version).await?;
            let is = self.live_rows(table, segment, manifest.version).await?;
            let written_since = &is - &was;
            gone += written_since.len();
            if !written_since.is_empty() {
                changes.delete(segment.id, &written_since);
            }
            let missing = was - is;
            if !missing.is_empty() {
                let pick = RowSelection::Only(Arc::new(missing));
                let mut rows = self.writer.reader.scan(table, segment, &target.schema, pick).await?;
                while let Some(found) = rows.try_next().await? {
                    ingest.write(found.rows).await?;
                }
            }
        }
        let back = ingest.rows();
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
            // What others wrote meanwhile is not of that version.
            unchanged: vec![(table.id, manifest.version)],
            operation: "restore".to_owned(),
            duration_us: started.elapsed().as_micros() as u64,
        };
        let applied = self.writer.propose(commit).await?;
        self.planner.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        Ok(Executed::Affected(back + gone))
    }

    /// The rows of a segment that a version sees.
    async fn live_rows(&self, table: &Table, segment: &Segment, version: Version) -> Result<RowSet> {
        let mut rows = RowSet::new();
        if segment.is_visible_at(version) {
            rows.insert_range(0..segment.rows as u32);
            rows -= &*self.writer.reader.invisible_rows(table, segment, version).await?;
        }
        Ok(rows)
    }
}

/// The schema of then, with the properties of now: how long versions are kept is not of the rows. Types that were
/// widened stay wide, since versions between have values that a narrower one does not hold.
fn restored_schema(now: &Table, then: &Table) -> TableSchema {
    let mut schema = TableSchema {
        retention_us: now.schema.retention_us,
        last_column: now.schema.last_column,
        last_index: now.schema.last_index,
        ..(*then.schema).clone()
    };
    let there = |id: &u32| schema.columns.iter().any(|c| c.id == *id);
    let indexes = now.schema.indexes.iter().filter(|index| index.kind.columns().iter().all(there)).cloned();
    schema.indexes = indexes.collect();
    let later = now.history.iter().map(|f| &f.schema).chain([&*now.schema]);
    for other in later.flat_map(|s| &s.columns) {
        let column = schema.columns.iter_mut().find(|c| c.id == other.id);
        if let Some(column) = column.filter(|c| is_wider(&c.data_type, &other.data_type)) {
            column.data_type = other.data_type.clone();
        }
    }
    schema
}
