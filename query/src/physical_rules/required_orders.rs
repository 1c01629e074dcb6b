//! Rows arrive in the order that a node requires. Takes the place of DataFusion's check of plans.
//!
//! DataFusion infers the orders of a plan anew at each step, and its inferences differ: a function that fails
//! for the bounds of its argument (`acosh` of an unbounded column), or a key that equals a constant, has an
//! order when the sort is planned and none when the plan is checked. Its check then refuses plans that are
//! right. This rule sorts instead where it cannot see the order.

use datafusion::common::Result;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::{OrderingRequirements, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::InvariantLevel;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ChildSatisfactionOptions, ExecutionPlanProperties, displayable, replace_children_if_necessary,
};

use super::{Plan, sorted};

/// The rule; runs after all others.
#[derive(Debug)]
pub(super) struct RequiredOrders;

/// The name of the rule that this one replaces.
pub(super) const REPLACED: &str = "SanityCheckPlan";

impl PhysicalOptimizerRule for RequiredOrders {
    fn name(&self) -> &str {
        "required_orders"
    }

    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.transform_up(with_required_orders).data()?;
        plan.apply(|node| check(node).map(|()| TreeNodeRecursion::Continue))?;
        Ok(plan)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The node with sorts below it where its children may not have the order that it requires.
fn with_required_orders(plan: Plan) -> Result<Transformed<Plan>> {
    let mut children = Vec::new();
    let mut is_changed = false;
    for (child, required) in plan.children().into_iter().zip(plan.required_input_ordering()) {
        let required: Vec<_> = required.into_iter().flat_map(OrderingRequirements::into_single).collect();
        let keys: Vec<PhysicalSortExpr> = required.iter().cloned().map(Into::into).collect();
        let is_sorted = child.equivalence_properties().ordering_satisfy_requirement(required)?
            || is_sort_by(child, &keys);
        is_changed |= !is_sorted;
        children.push(if is_sorted { child.clone() } else { sorted(child.clone(), keys) });
    }
    if !is_changed {
        return Ok(Transformed::no(plan));
    }
    let order = plan.output_ordering().map(|ordering| ordering.to_vec()).unwrap_or_default();
    let sorted_below = replace_children_if_necessary(plan, children)?;
    let keeps_order = sorted_below.equivalence_properties().ordering_satisfy(order.clone())?;
    Ok(Transformed::yes(if keeps_order { sorted_below } else { sorted(sorted_below, order) }))
}

/// Whether a plan sorts by these keys, whatever is inferred about them.
fn is_sort_by(plan: &Plan, keys: &[PhysicalSortExpr]) -> bool {
    plan.downcast_ref::<SortExec>().is_some_and(|sort| sort.expr().starts_with(keys))
}

/// Checks that the partitions of each child are those that a node requires.
fn check(plan: &Plan) -> Result<()> {
    let required = plan.input_distribution_requirements();
    for (index, child) in plan.children().into_iter().enumerate() {
        let options = ChildSatisfactionOptions::new().with_allow_subset(true);
        if !required.child_satisfaction(index, child.as_ref(), options)?.is_satisfied() {
            return internal_err!(
                "input {index} is partitioned by {} in {}",
                child.output_partitioning(),
                displayable(plan.as_ref()).one_line()
            );
        }
    }
    plan.check_invariants(InvariantLevel::Executable)
}
