//! Short paths of `INSERT ... VALUES`: planned against what this node knows, or from the parameters alone.

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use plexus_model::{ErrorKind, Result};
use plexus_query::Relations;

use crate::exec::context::{Executed, StatementContext};
use crate::exec::dml::{DmlExecutor, name_null};
use crate::exec::planner::configure;
use crate::exec::retry::until_no_conflict;
use crate::exec::session::Session;
use crate::sql::kind::{gives_back, is_insert_values, plain_insert};
use crate::sql::parameters::bind;
use crate::sql::rewrite::{Rewritten, Shape};
use crate::write::coerce::{arrange, assign, column_names};

impl DmlExecutor {
    /// `INSERT ... VALUES`, planned against what this node knows: the commit checks that the schema is
    /// still that one, so a read index would only cost time.
    pub async fn insert_values(
        &self,
        session: &Session,
        statement: &Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Option<Executed>> {
        if session.read_version().is_some() {
            return Ok(None);
        }
        let scope = StatementContext { session, manifest: self.planner.meta.manifest(), values, query_id };
        // What does not plan here may plan at the newest version; that decides, and words the error.
        let Ok((table, rewritten)) = self.rewrite(&scope, statement).await else {
            return Ok(None);
        };
        let Rewritten { statement, shape: Shape::Rows, returning: None, .. } = &rewritten else {
            return Ok(None);
        };
        if !is_insert_values(statement) {
            return Ok(None);
        }
        let statement = Statement::Statement(Box::new(statement.clone()));
        let pin = self.planner.pinned(&scope, Relations::default());
        let state = configure(self.planner.engine.table_free_session(pin), session)?;
        let Ok(plan) = state.statement_to_plan(statement).await else {
            return Ok(None);
        };
        let LogicalPlan::Dml(dml) = bind(plan, values)? else {
            return Ok(None);
        };
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        tracing::Span::current().record("version", scope.manifest.version.0);
        let insert_into = table.clone();
        let written = async {
            let rows = self.planner.run(&dml.input, &scope.manifest, || Ok(state.clone())).await?;
            self.insert(table, &rewritten, rows).await
        };
        match written.await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
            result => result.map(Some).map_err(|e| name_null(e, &rewritten, &insert_into)),
        }
    }

    /// `executemany` of `INSERT INTO t VALUES ($1, ..., $n)`: the parameters are the rows.
    pub async fn insert_batch(
        &self,
        session: &Session,
        statement: &Statement,
        batch: &RecordBatch,
    ) -> Result<Option<u64>> {
        if session.transaction().is_some() || gives_back(statement) {
            return Ok(None);
        }
        let attempt = || async {
            let scope = StatementContext {
                session,
                manifest: self.planner.pin().await?,
                values: &[],
                query_id: "executemany",
            };
            let (table, rewritten) = self.rewrite(&scope, statement).await?;
            let columns = match rewritten.shape {
                Shape::Rows => plain_insert(&rewritten.statement, batch.num_columns()),
                Shape::Actions { .. } => None,
            };
            let Some(columns) = columns else {
                return Ok(None);
            };
            let columns = if columns.is_empty() { column_names(&table) } else { columns };
            let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, "insert")?;
            ingest.write(assign(arrange(batch, &columns, &table)?, ingest.schema(), &table)?).await?;
            ingest.finish().await.map(|written| Some(written.rows))
        };
        until_no_conflict(attempt).await
    }
}
