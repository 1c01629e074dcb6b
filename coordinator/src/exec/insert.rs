//! Fast paths of `INSERT ... VALUES`. A single statement is planned against the local manifest, without a
//! read index. A batch of parameters becomes the rows themselves, without a plan.

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement;
use plexus_model::{ErrorKind, Result};
use plexus_query::{ColumnDefaults, Relations};

use crate::exec::context::{Executed, StatementContext};
use crate::exec::dml::{DmlExecutor, plan_change};
use crate::exec::planner::configure;
use crate::exec::retry::until_no_conflict;
use crate::exec::session::Session;
use crate::sql::kind::{has_returning, is_literal_rows, is_row_of_parameters};
use crate::sql::parameters::bind;
use crate::sql::rewrite::{Rewritten, Shape};
use crate::write::arrange::arrange;
use crate::write::assign::assign;

impl DmlExecutor {
    /// Runs an `INSERT` of literal values against the local manifest. The commit checks the schema version,
    /// so a read index would add latency and no safety. `None` when the statement needs the general path: it
    /// reads tables, returns rows, does not plan against the local manifest, or conflicts with a newer
    /// schema.
    pub(crate) async fn insert_values(
        &self,
        session: &Session,
        statement: &Statement,
        values: &[ScalarValue],
        query_id: &str,
    ) -> Result<Option<Executed>> {
        if session.read_version().is_some() {
            return Ok(None);
        }
        let context = StatementContext { session, manifest: self.planner.meta.manifest(), values, query_id };
        // The local manifest may be stale: the general path plans at the newest version and reports errors.
        let Ok((table, rewritten)) = self.rewrite(&context, statement).await else {
            return Ok(None);
        };
        let Rewritten { query, shape: Shape::Rows { columns }, returning: None, .. } = &rewritten else {
            return Ok(None);
        };
        if !is_literal_rows(query) {
            return Ok(None);
        }
        let pin = self.planner.pinned(&context, Relations::default());
        let state = configure(self.planner.engine.table_free_session(pin), session)?;
        let Ok(plan) = plan_change(state.clone(), session, &table, &rewritten).await else {
            return Ok(None);
        };
        let plan = bind(plan, values)?;
        tracing::Span::current().record("table", tracing::field::display(&table.name));
        tracing::Span::current().record("version", context.manifest.version.0);
        let written = async {
            let rows = self.planner.run(&plan, &context.manifest, || Ok(state.clone())).await?;
            self.insert(session, table, &rewritten, columns, rows).await
        };
        match written.await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
            result => result.map(Some),
        }
    }

    /// Runs `INSERT INTO t VALUES ($1, ..., $n)` once for all rows of parameters: the parameter batch is what
    /// is inserted. `None` when the statement has another form.
    pub(crate) async fn insert_batch(
        &self,
        session: &Session,
        statement: &Statement,
        batch: &RecordBatch,
    ) -> Result<Option<u64>> {
        if session.transaction().is_some() || has_returning(statement) {
            return Ok(None);
        }
        let attempt = || async {
            let context = StatementContext {
                session,
                manifest: self.planner.pin().await?,
                values: &[],
                query_id: "executemany",
            };
            let (table, rewritten) = self.rewrite(&context, statement).await?;
            let columns = match &rewritten.shape {
                Shape::Rows { columns } if is_row_of_parameters(&rewritten.query, batch.num_columns()) => {
                    columns
                }
                _ => return Ok(None),
            };
            let columns: Vec<String> =
                columns.iter().map(|&c| table.schema.columns[c].name.clone()).collect();
            let mut ingest = self.writer.begin(table.clone(), rewritten.on_duplicate, "insert")?;
            ingest
                .write(assign(
                    arrange(batch, &columns, &ColumnDefaults::default(), &table)?,
                    ingest.schema(),
                    &table,
                    &session.time_zone(),
                )?)
                .await?;
            ingest.finish().await.map(|written| Some(written.rows))
        };
        until_no_conflict(attempt).await
    }
}
