//! `TRUNCATE`: removes every segment that the statement sees, without reading rows.

use std::time::Instant;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result};

use crate::exec::context::{StatementContext, find};
use crate::exec::dml::DmlExecutor;
use crate::sql::names::object_name;
use crate::write::row_changes::RowChanges;

impl DmlExecutor {
    /// The change that removes all rows that the statement sees, and their number. Rows that are written
    /// concurrently stay. `None` when the table does not exist and the statement says `IF EXISTS`.
    pub(crate) fn truncate_changes(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<Option<(RowChanges, u64)>> {
        let Statement::Statement(statement) = statement else {
            return Err(Error::internal("not TRUNCATE"));
        };
        let ast::Statement::Truncate(truncate) = statement.as_ref() else {
            return Err(Error::internal(format!("{statement} is not TRUNCATE")));
        };
        context.session.check_writable()?;
        let [target] = truncate.table_names.as_slice() else {
            return Err(Error::unsupported("TRUNCATE takes one table at a time"));
        };
        let name = object_name(&target.name, &context.session.schema())?;
        if truncate.if_exists && context.manifest.table(&name).is_none() {
            return Ok(None);
        }
        let table = find(&context.manifest, &name)?;
        let mut changes = RowChanges::new(table.clone());
        changes.removed = table.visible(context.manifest.version).map(|s| s.id).collect();
        Ok(Some((changes, table.rows(context.manifest.version))))
    }

    /// Runs `TRUNCATE` and commits it. Returns the number of removed rows.
    pub(crate) async fn truncate(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<u64> {
        let Some((changes, rows)) = self.truncate_changes(context, statement)? else {
            return Ok(0);
        };
        if !changes.is_empty() {
            let table = changes.table.clone();
            let change = changes.into_change(&self.writer, &table, context.manifest.version).await?;
            self.writer.commit(vec![change], "truncate", Instant::now()).await?;
        }
        Ok(rows)
    }
}
