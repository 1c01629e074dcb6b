//! Statements that return rows without changing any, and session settings.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, Statement as PlanStatement};
use plexus_model::{Error, Result};
use plexus_query::explain;

use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::{Executed, StatementContext};
use crate::exec::planner::Planner;
use crate::exec::retry::RowStream;
use crate::sql::parameters::bind;

/// Runs queries, `EXPLAIN`, `SET` and `RESET`.
pub struct QueryExecutor {
    planner: Planner,
}

impl QueryExecutor {
    /// An executor over `planner`.
    pub fn new(planner: Planner) -> Self {
        Self { planner }
    }

    pub async fn run_plan(&self, scope: &StatementContext<'_>, plan: LogicalPlan) -> Result<Executed> {
        tracing::Span::current().record("version", scope.manifest.version.0);
        let plan = bind(plan, scope.values)?;
        match plan {
            LogicalPlan::Explain(ref inner) => {
                self.explain(&self.planner.state(scope)?, &plan, &inner.plan).await
            }
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                scope.session.set(&set.variable, &set.value)?;
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(PlanStatement::ResetVariable(reset)) => {
                scope.session.unset(&reset.variable);
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(other) => Err(unsupported(&other.display().to_string())),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => {
                Err(unsupported(&plan.display().to_string()))
            }
            plan => self.planner.query(scope, &plan).await.map(Executed::Rows),
        }
    }

    async fn explain(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
        explained: &LogicalPlan,
    ) -> Result<Executed> {
        let physical = explain(state, explained).await.map_err(from_datafusion)?;
        let kinds = ["logical_plan", "physical_plan"];
        let texts = [explained.display_indent().to_string(), physical];
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let columns = vec![
            Arc::new(arrow::array::StringArray::from_iter_values(kinds)) as arrow::array::ArrayRef,
            Arc::new(arrow::array::StringArray::from_iter_values(texts)),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns)
            .map_err(|e| Error::internal(format!("explain: {e}")).with_source(e))?;
        Ok(Executed::Rows(RowStream::from_batches(schema, vec![batch])))
    }
}
