//! Rules of DataFusion that pass over plans which they get wrong.
//!
//! A join whose keys may be null and equal keeps its other conditions apart. DataFusion makes such keys of
//! `a.x IS NOT DISTINCT FROM b.x`, and adds the columns of `a.y = b.y` to them when that condition arrives
//! later, from a `WHERE` or through an outer join. Rows with null in `y` then match. Reordering joins, it
//! takes the keys of several joins for keys of one kind.
//!
//! Conditions that draw random numbers are not pushed down, and the rows of joins below them are all counted.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{NullEquality, Result};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// A rule of DataFusion, made to pass over such joins.
pub(super) fn guarded(rule: Rule) -> Rule {
    match rule.name() {
        "extract_equijoin_predicate" => Arc::new(Guarded { rule, passes_over: has_null_safe_keys }),
        // What draws random numbers does so for each row of its own input.
        "push_down_filter" => Arc::new(Guarded { rule, passes_over: is_random_filter }),
        "eliminate_join" => Arc::new(Guarded { rule, passes_over: draws_random_numbers }),
        "eliminate_cross_join" => Arc::new(Guarded { rule, passes_over: joins_null_safely }),
        _ => rule,
    }
}

#[derive(Debug)]
struct Guarded {
    rule: Rule,
    passes_over: fn(&LogicalPlan) -> bool,
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match (self.passes_over)(&plan) {
            true => Ok(Transformed::no(plan)),
            false => self.rule.rewrite(plan, config),
        }
    }
}

fn is_random_filter(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Filter(filter) if filter.predicate.is_volatile())
}

/// Whether anything in a plan draws random numbers. Each row of a join then counts.
fn draws_random_numbers(plan: &LogicalPlan) -> bool {
    let is_random = |node: &LogicalPlan| Ok(node.expressions().iter().any(Expr::is_volatile));
    plan.exists(is_random).unwrap_or(true)
}

/// Whether a plan is a join whose keys are equal where both are null.
fn has_null_safe_keys(plan: &LogicalPlan) -> bool {
    matches!(
        plan,
        LogicalPlan::Join(Join { null_equality: NullEquality::NullEqualsNull, on, .. }) if !on.is_empty()
    )
}

/// Whether such a join is anywhere in a plan, of which the rule gets the root.
fn joins_null_safely(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let visited = plan.apply_with_subqueries(|node| {
        found |= has_null_safe_keys(node);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || visited.is_err()
}
