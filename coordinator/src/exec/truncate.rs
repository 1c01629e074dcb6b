//! `TRUNCATE`: every segment that the statement sees goes at once.

use std::time::Instant;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result};

use crate::exec::context::{StatementContext, find};
use crate::exec::dml::DmlExecutor;
use crate::sql::names::object_name;
use crate::write::row_changes::RowChanges;

impl DmlExecutor {
    /// Takes all rows that the statement sees out of a table; those that are written meanwhile stay. Returns
    /// the change and how many rows go; `None` when the table need not exist and does not.
    pub fn truncated(
        &self,
        scope: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<Option<(RowChanges, u64)>> {
        let Statement::Statement(statement) = statement else {
            return Err(Error::internal("not TRUNCATE"));
        };
        let ast::Statement::Truncate(truncate) = statement.as_ref() else {
            return Err(Error::internal(format!("{statement} is not TRUNCATE")));
        };
        scope.session.check_writable()?;
        let [target] = truncate.table_names.as_slice() else {
            return Err(Error::unsupported("TRUNCATE takes one table at a time"));
        };
        let name = object_name(&target.name, &scope.session.schema())?;
        if truncate.if_exists && scope.manifest.table(&name).is_none() {
            return Ok(None);
        }
        let table = find(&scope.manifest, &name)?;
        let mut changes = RowChanges::new(table.clone());
        changes.removed = table.visible(scope.manifest.version).map(|s| s.id).collect();
        Ok(Some((changes, table.rows(scope.manifest.version))))
    }

    pub async fn truncate(&self, scope: &StatementContext<'_>, statement: &Statement) -> Result<u64> {
        let Some((changes, rows)) = self.truncated(scope, statement)? else {
            return Ok(0);
        };
        if !changes.is_empty() {
            let table = changes.table.clone();
            let change = changes.into_change(&self.writer, &table, scope.manifest.version).await?;
            self.writer.commit(vec![change], "truncate", Instant::now()).await?;
        }
        Ok(rows)
    }
}
