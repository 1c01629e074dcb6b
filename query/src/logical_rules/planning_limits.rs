//! Limits of planning: of the time, and of the size of plans. Rules may copy parts of a plan, and a few lines
//! of SQL can become a plan that no memory holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err, plan_err, resources_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use plexus_memory::inherit_in;

use crate::constants::while_planning;
use crate::context::QueryContext;
use crate::interrupts::Interrupts;
use crate::lane::{LongLane, is_long_function, is_long_operator};
use crate::logical_rules::repeated_visits::repeated_visits;
use crate::type_limits::check_type;

/// How long a large plan may be optimized. Looked at between the rules.
const PLANNING_MAX: Duration = Duration::from_secs(20);

/// Most nodes of a plan.
const NODES_MAX: usize = 50_000;

/// Most expressions of a plan.
const EXPRESSIONS_MAX: usize = 5_000_000;

/// Most visits beyond the first of each part of a plan. More take longer than a tenth of a second.
const VISITS_MAX: usize = 100_000;

/// Plans of more nodes are optimized beside the tasks of the thread, which wait otherwise.
const NODES_OF_LARGE: usize = 50;

/// Plans with more expressions, likewise.
const EXPRESSIONS_OF_LARGE: usize = 500;

/// When the planning that begins now must have ended, in milliseconds since the Unix epoch.
fn deadline() -> u64 {
    now().saturating_add(PLANNING_MAX.as_millis() as u64)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A rule that changes nothing. It fails for a plan that exceeds a limit, and for an interrupted query.
#[derive(Clone, Debug)]
pub(crate) struct PlanningLimits {
    /// Whether it counts the nodes of the plan, which takes longer.
    pub(crate) counts: bool,
    /// The queries whose planning shall end.
    pub(crate) interrupts: Arc<Interrupts>,
}

impl PlanningLimits {
    fn check(&self, plan: &LogicalPlan, options: &ConfigOptions) -> Result<()> {
        self.interrupts.check(options)?;
        let deadline =
            options.extensions.get::<QueryContext>().map_or(0, |context| context.planning_deadline);
        if deadline > 0 && now() > deadline {
            return resources_err!(
                "planning the statement took longer than {} s: write it in parts",
                PLANNING_MAX.as_secs()
            );
        }
        if self.counts && is_larger(plan, NODES_MAX, EXPRESSIONS_MAX)? {
            return resources_err!(
                "the plan of the statement has more than {NODES_MAX} nodes or {EXPRESSIONS_MAX} expressions: \
                 write it in parts"
            );
        }
        if self.counts {
            plan.apply_with_subqueries(|node| {
                let mut types = node.schema().fields().iter().map(|field| field.data_type());
                types.try_for_each(check_type)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        if self.counts && repeated_visits(plan)? > VISITS_MAX {
            return plan_err!(
                "subqueries, or expressions that convert types, are nested too deeply in other expressions: \
                 compute parts of them in subqueries of FROM"
            );
        }
        Ok(())
    }
}

impl OptimizerRule for PlanningLimits {
    fn name(&self) -> &str {
        "planning_limits"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        self.check(&plan, &config.options())?;
        Ok(Transformed::no(plan))
    }
}

impl AnalyzerRule for PlanningLimits {
    fn name(&self) -> &str {
        "planning_limits"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        self.check(&plan, config)?;
        Ok(plan)
    }
}

/// Whether a plan has more nodes or expressions.
fn is_larger(plan: &LogicalPlan, nodes_max: usize, expressions_max: usize) -> Result<bool> {
    let (mut nodes, mut expressions) = (0, 0);
    plan.apply_with_subqueries(|node| {
        nodes += 1;
        node.apply_expressions(|expr| {
            expr.apply(|_| {
                expressions += 1;
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        let is_larger = nodes > nodes_max || expressions > expressions_max;
        Ok(if is_larger { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(nodes > nodes_max || expressions > expressions_max)
}

/// Whether optimizing a plan may take long: it is large, or has functions that may take long for constants.
fn takes_long(plan: &LogicalPlan) -> Result<bool> {
    if is_larger(plan, NODES_OF_LARGE, EXPRESSIONS_OF_LARGE)? {
        return Ok(true);
    }
    let mut takes_long = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            takes_long |= expr.exists(|expr| {
                Ok(match expr {
                    Expr::ScalarFunction(function) => is_long_function(function.name()),
                    Expr::BinaryExpr(binary) => is_long_operator(binary.op),
                    Expr::SimilarTo(_) => true,
                    _ => false,
                })
            })?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(takes_long)
}

/// Optimizes a plan. One that may take long is optimized in the long lane.
///
/// # Errors
/// Those of the rules.
pub async fn optimize(state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan> {
    if !takes_long(plan)? {
        return while_planning(|| state.optimize(plan));
    }
    let (mut state, plan) = (state.clone(), plan.clone());
    // A session may plan again much later, when a node that ran a part of the plan has failed.
    if let Some(context) = state.config_mut().options_mut().extensions.get_mut::<QueryContext>() {
        context.planning_deadline = deadline();
    }
    let Some(lane) = LongLane::of(&state) else {
        return while_planning(|| state.optimize(&plan));
    };
    let optimized =
        lane.runtime().spawn_blocking(inherit_in(move || while_planning(|| state.optimize(&plan)))).await;
    optimized.map_err(|e| internal_datafusion_err!("planning: {e}"))?
}
