//! Starts a query: in which lane it searches and runs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, internal_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use futures::{StreamExt, TryStreamExt, stream};
use plexus_memory::inherit;
use plexus_query::search::{run_fast_path, searches_long};
use plexus_query::{LongLane, WorkerSlots, is_long, physical_plan, task_context};
use plexus_storage::rows_bytes;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::errors::from_datafusion;
use crate::exec::row_stream::RowStream;
use crate::limits::{HOLD_BACK_BYTES, LANE_BATCHES};
use crate::running;

/// Starts one attempt and holds back the first [`HOLD_BACK_BYTES`] of its result.
pub(crate) async fn start(plan: &LogicalPlan, state: &SessionState) -> Result<RowStream, DataFusionError> {
    let physical = match plan_or_find(plan, state).await? {
        Planned::Found(rows) => return Ok(RowStream::from_batches(rows.schema(), vec![rows])),
        Planned::Plan(physical) => physical,
    };
    let schema = physical.schema();
    let mut stream = execute(physical, state).await?;
    let mut held = Vec::new();
    let mut bytes = 0;
    while bytes < HOLD_BACK_BYTES {
        match stream.try_next().await? {
            Some(batch) => {
                bytes += rows_bytes(&batch);
                held.push(batch);
            }
            None => return Ok(RowStream::from_batches(schema, held)),
        }
    }
    let rest = stream.map_err(from_datafusion);
    Ok(RowStream { schema, stream: stream::iter(held.into_iter().map(Ok)).chain(rest).boxed() })
}

/// What comes of a plan before it is executed.
enum Planned {
    /// The rows, of a plan that is a search.
    Found(RecordBatch),
    /// A physical plan. It can run only once, so every attempt creates its own.
    Plan(Arc<dyn ExecutionPlan>),
}

/// Plans physically, which also runs the searches of the plan: in the long lane if they may take long.
async fn plan_or_find(plan: &LogicalPlan, state: &SessionState) -> Result<Planned, DataFusionError> {
    let Some(lane) = LongLane::of(state).filter(|_| searches_long(plan)) else {
        return plan_here(plan, state).await;
    };
    running::admit_long().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
    let (plan, state) = (plan.clone(), state.clone());
    let planning = async move { plan_here(&plan, &state).await };
    // Dropping the set aborts the searches.
    let mut tasks = JoinSet::new();
    tasks.spawn_on(inherit(Box::pin(planning.in_current_span())), lane.runtime());
    match tasks.join_next().await {
        Some(Ok(planned)) => planned,
        Some(Err(e)) => internal_err!("a search was interrupted: {e}"),
        None => internal_err!("a search task returned nothing"),
    }
}

async fn plan_here(plan: &LogicalPlan, state: &SessionState) -> Result<Planned, DataFusionError> {
    match run_fast_path(plan, state).await? {
        Some(rows) => Ok(Planned::Found(rows)),
        None => physical_plan(state, plan).await.map(Planned::Plan),
    }
}

/// Executes a plan, in the long lane if it may take long.
async fn execute(
    plan: Arc<dyn ExecutionPlan>,
    state: &SessionState,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let context = task_context(state, &plan)?;
    let lane = LongLane::of(state);
    let Some(lane) = lane.filter(|_| is_long(&plan).unwrap_or(true)) else {
        return execute_stream(plan, context);
    };
    running::admit_long().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
    if let Some(slots) = state.config().get_extension::<WorkerSlots>() {
        running::runs_on(slots.workers.iter().map(|worker| worker.node));
    }
    let mut rows = RecordBatchReceiverStreamBuilder::new(plan.schema(), LANE_BATCHES);
    let sender = rows.tx();
    let run = async move {
        let mut stream = execute_stream(plan, context)?;
        while let Some(batch) = stream.next().await {
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    rows.spawn_on(run.in_current_span(), lane.runtime());
    Ok(rows.build())
}
