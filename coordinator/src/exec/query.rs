//! Executes planned queries, `EXPLAIN`, and the session settings `SET` and `RESET`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, Statement as PlanStatement};
use plexus_model::{Error, Result};
use plexus_query::explain;
use plexus_storage::sql_name;

use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::{Executed, StatementContext};
use crate::exec::planner::Planner;
use crate::exec::row_stream::RowStream;
use crate::sql::parameters::bind;

/// Runs queries, `EXPLAIN`, `SET` and `RESET`.
pub(crate) struct QueryExecutor {
    planner: Planner,
}

impl QueryExecutor {
    /// An executor over `planner`.
    pub(crate) fn new(planner: Planner) -> Self {
        Self { planner }
    }

    /// Binds the parameters of a plan and runs it.
    ///
    /// # Errors
    /// `Unsupported` for plans that would write, `InvalidArgument` for wrong parameters, and the errors of
    /// the query.
    pub(crate) async fn run_plan(
        &self,
        context: &StatementContext<'_>,
        plan: LogicalPlan,
    ) -> Result<Executed> {
        tracing::Span::current().record("version", context.manifest.version.0);
        let plan = bind(plan, context.values)?;
        match plan {
            LogicalPlan::Explain(ref inner) => {
                self.explain(&self.planner.state(context)?, &plan, &inner.plan).await
            }
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                context.session.set(&set.variable, &set.value, &context.manifest)?;
                Ok(Executed::Affected(0))
            }
            LogicalPlan::Statement(PlanStatement::ResetVariable(reset)) => {
                context.session.unset(&reset.variable)?;
                Ok(Executed::Affected(0))
            }
            LogicalPlan::DescribeTable(ref described) => describe_table(&plan, &described.schema),
            LogicalPlan::Statement(other) => Err(unsupported(&other.display().to_string())),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => {
                Err(unsupported(&plan.display().to_string()))
            }
            plan => self.planner.query(context, &plan).await.map(Executed::Rows),
        }
    }

    /// The logical and the physical plan of a query, as rows.
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
            Arc::new(StringArray::from_iter_values(kinds)) as ArrayRef,
            Arc::new(StringArray::from_iter_values(texts)),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns)
            .map_err(|e| Error::internal(format!("explain: {e}")).with_source(e))?;
        Ok(Executed::Rows(RowStream::from_batches(schema, vec![batch])))
    }
}

/// The columns of a table, with the names of their types in SQL.
fn describe_table(plan: &LogicalPlan, table: &Schema) -> Result<Executed> {
    let fields = table.fields();
    let texts = |text: &dyn Fn(&Field) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(fields.iter().map(|field| text(field))))
    };
    let columns = vec![
        texts(&|field| field.name().clone()),
        texts(&|field| sql_name(field.data_type())),
        texts(&|field| if field.is_nullable() { "YES" } else { "NO" }.to_owned()),
    ];
    let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
    let batch = RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Error::internal(format!("describe: {e}")).with_source(e))?;
    Ok(Executed::Rows(RowStream::from_batches(schema, vec![batch])))
}
