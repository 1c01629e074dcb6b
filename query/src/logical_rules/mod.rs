//! Rules for logical plans: those of DataFusion where they are wrong, and steps between an optimized plan and
//! a physical one.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion_distributed::{DistributedExt, NetworkBoundaryExt};

use crate::constants::{Constant, watch};
use crate::context::QueryContext;
use crate::interrupts::Interrupts;
use crate::logical_rules::planning_limits::PlanningLimits;
use crate::scan::distribution::WorkerSlots;
use crate::search::{SearchRule, carry_bindings};

mod balanced_conditions;
pub(crate) mod fence;
mod filter_places;
mod guarded_rules;
mod guards;
mod join_conditions;
pub(crate) mod planning_limits;
mod projection_names;
mod repeated_visits;
mod unique_columns;
mod window_partitions;

pub use planning_limits::optimize;

/// The rules of a session.
pub(crate) fn optimizer_rules(interrupts: &Arc<Interrupts>) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules: Vec<_> = Optimizer::new().rules.into_iter().map(guarded_rules::guarded).collect();
    let push_down = rules.iter().position(|rule| rule.name() == "push_down_filter").unwrap_or_default();
    rules.insert(push_down + 1, Arc::new(balanced_conditions::BalancedConditions));
    rules.insert(push_down, Arc::new(filter_places::FilterPlaces));
    let merge = rules.iter().position(|rule| rule.name() == "optimize_projections").unwrap_or_default();
    rules.insert(merge, Arc::new(projection_names::ProjectionNames));
    rules.push(Arc::new(SearchRule));
    // Those that copy parts of a plan come first and last.
    let counts = |index: usize| [0, push_down, rules.len() - 1].contains(&index);
    let limited = rules.iter().enumerate().flat_map(|(index, rule)| {
        let limits = PlanningLimits { counts: counts(index), interrupts: interrupts.clone() };
        [rule.clone(), Arc::new(limits) as Arc<dyn OptimizerRule + Send + Sync>]
    });
    limited.collect()
}

/// Optimizes a plan and makes it physical.
///
/// # Errors
/// What planning fails with.
pub async fn physical_plan(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = window_partitions::partition_by_columns(planning_limits::optimize(state, plan).await?)?;
    let plan = join_conditions::without_nulls(unique_columns::make_unique(plan)?)?;
    let plan = match state.scalar_functions().get(Constant::NAME) {
        Some(function) => watch(plan, function)?,
        None => plan,
    };
    let mut plan = fence::fence(guards::guard(plan)?)?;
    let mut state = state.clone();
    // The filter of one aggregate drops rows that another one wants, while that has seen nulls only or if it
    // has an expression as its argument (apache/datafusion#24816).
    state.config_mut().options_mut().optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    if !travels(&plan)? {
        run_locally(&mut state);
    }
    if has_nested_keys(&plan)? {
        state.config_mut().options_mut().optimizer.enable_join_dynamic_filter_pushdown = false;
    }
    if state.config_options().extensions.get::<QueryContext>().is_some_and(|context| context.distributed) {
        plan = carry_bindings(plan).await?;
    }
    let physical = state.query_planner().create_physical_plan(&plan, &state).await?;
    if !has_shuffled_joins(&physical)? {
        return Ok(physical);
    }
    state.config_mut().options_mut().optimizer.enable_join_dynamic_filter_pushdown = false;
    state.query_planner().create_physical_plan(&plan, &state).await
}

/// Whether tasks on several nodes join partitions. The filter that DataFusion derives from the rows of one
/// side chooses their partition by a hash of the key among the partitions of one task, and loses rows of the
/// other side.
fn has_shuffled_joins(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let is_boundary = |node: &Arc<dyn ExecutionPlan>| Ok(node.as_network_boundary().is_some());
    let is_partitioned = |node: &Arc<dyn ExecutionPlan>| {
        let join = node.downcast_ref::<HashJoinExec>();
        Ok(join.is_some_and(|join| *join.partition_mode() == PartitionMode::Partitioned))
    };
    Ok(plan.exists(is_boundary)? && plan.exists(is_partitioned)?)
}

/// Whether all of a plan can be sent to another node. Window functions lose `FILTER` and `IGNORE NULLS`
/// there.
fn travels(plan: &LogicalPlan) -> Result<bool> {
    let mut travels = true;
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::Window(window) = node else {
            return Ok(TreeNodeRecursion::Continue);
        };
        for expr in &window.window_expr {
            expr.apply(|expr| {
                if let Expr::WindowFunction(window) = expr {
                    let params = &window.params;
                    let ignores_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
                    travels &= params.filter.is_none() && !ignores_nulls;
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(if travels { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(travels)
}

/// Makes plans of a session run on this node alone.
fn run_locally(state: &mut SessionState) {
    let nowhere = WorkerSlots { workers: vec![], task_bytes: 0 };
    state.set_distributed_worker_resolver(nowhere.clone());
    state.config_mut().set_extension(Arc::new(nowhere));
    let context = state.config_options().extensions.get::<QueryContext>().cloned().unwrap_or_default();
    state.set_distributed_option_extension(QueryContext { distributed: false, ..context });
}

/// Whether a join has keys that are lists, structs or maps. The filter that DataFusion derives from the rows
/// of one side loses rows of the other if such a key holds a null.
fn has_nested_keys(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = node {
            let is_nested = |(left, _): &(Expr, Expr)| {
                let data_type = left.get_type(join.left.schema()).unwrap_or(DataType::Null);
                data_type.is_nested()
            };
            found |= join.on.iter().any(is_nested);
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
