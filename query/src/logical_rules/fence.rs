//! Keeps the planner from believing of rows with nulls what held before the nulls were added.
//!
//! A filter `x = 1` makes `x` constant, and DataFusion leaves constants out of the keys of sorts, windows and
//! groups. It goes on to do so above an outer join that adds nulls for `x`, and above grouping sets, which
//! put nulls into their keys (apache/datafusion#11291). A fence below these forgets what is known of the
//! rows: which columns are constant or equal, and their order. A fence below a filter that draws random
//! numbers keeps it from windows, groups and joins below.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, JoinType, Result, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

/// Puts fences below the joins and groups of an optimized plan that add nulls, and below random filters.
///
/// # Errors
/// Those of building plans, which only a fault in the rule could cause.
pub(super) fn fence(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| {
        Ok(match plan {
            LogicalPlan::Join(mut join) => {
                let (left, right) = match join.join_type {
                    JoinType::Left => (false, true),
                    JoinType::Right => (true, false),
                    JoinType::Full => (true, true),
                    _ => return Ok(Transformed::no(LogicalPlan::Join(join))),
                };
                for (_, input) in
                    [(left, &mut join.left), (right, &mut join.right)].into_iter().filter(|(has, _)| *has)
                {
                    *input = Arc::new(Fence::around(input.as_ref().clone()));
                }
                Transformed::yes(LogicalPlan::Join(join))
            }
            // The engine evaluates filters as early as it can, also those that are not the same for each row.
            LogicalPlan::Filter(mut filter)
                if filter.predicate.is_volatile() && !matches!(*filter.input, LogicalPlan::TableScan(_)) =>
            {
                filter.input = Arc::new(Fence::below_filter(filter.input.as_ref().clone()));
                Transformed::yes(LogicalPlan::Filter(filter))
            }
            LogicalPlan::Aggregate(mut aggregate)
                if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) =>
            {
                aggregate.input = Arc::new(Fence::around(aggregate.input.as_ref().clone()));
                Transformed::yes(LogicalPlan::Aggregate(aggregate))
            }
            plan => Transformed::no(plan),
        })
    })?;
    Ok(plan.data)
}

/// A fence in a logical plan.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Fence {
    input: LogicalPlan,
    /// Whether filters stay above it.
    keeps_filters: bool,
}

impl Fence {
    fn around(input: LogicalPlan) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input, keeps_filters: false }) })
    }

    fn below_filter(input: LogicalPlan) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input, keeps_filters: true }) })
    }
}

impl PartialOrd for Fence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for Fence {
    fn name(&self) -> &str {
        "Fence"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Fence")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input]) = <[LogicalPlan; 1]>::try_from(inputs) else {
            return internal_err!("a fence has one input");
        };
        Ok(Self { input, keeps_filters: self.keeps_filters })
    }
}

/// Plans queries with fences.
#[derive(Debug)]
pub(crate) struct FencePlanner;

#[async_trait]
impl QueryPlanner for FencePlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Self)]);
        planner.create_physical_plan(plan, session).await
    }
}

#[async_trait]
impl ExtensionPlanner for FencePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(fence), [input]) = (node.as_any().downcast_ref::<Fence>(), inputs) else {
            return Ok(None);
        };
        if fence.keeps_filters {
            return Ok(Some(Arc::new(FenceExec::new(input.clone(), true))));
        }
        let known = input.equivalence_properties();
        let is_needed = !known.eq_group().is_empty() || !known.oeq_class().is_empty();
        Ok(Some(match is_needed {
            true => Arc::new(FenceExec::new(input.clone(), false)),
            false => input.clone(),
        }))
    }
}

/// A fence in a physical plan: its rows are those of its input. Other nodes run the input alone, since
/// nothing is planned there.
#[derive(Debug)]
pub(crate) struct FenceExec {
    pub(crate) input: Arc<dyn ExecutionPlan>,
    keeps_filters: bool,
    properties: Arc<PlanProperties>,
}

impl FenceExec {
    fn new(input: Arc<dyn ExecutionPlan>, keeps_filters: bool) -> Self {
        let of_input = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            of_input.partitioning.clone(),
            of_input.emission_type,
            of_input.boundedness,
        );
        Self { properties: Arc::new(properties), input, keeps_filters }
    }
}

impl DisplayAs for FenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "FenceExec")
    }
}

impl ExecutionPlan for FenceExec {
    fn name(&self) -> &str {
        "FenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("a fence has one input");
        };
        Ok(Arc::new(Self::new(input, self.keeps_filters)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        match self.keeps_filters {
            true => Ok(FilterDescription::all_unsupported(&filters, &self.children())),
            false => FilterDescription::from_children(filters, &self.children()),
        }
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }
}
