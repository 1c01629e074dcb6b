//! Places of filters that DataFusion moves too far.
//!
//! A condition that may fail belongs to the rows of one side of a join. DataFusion infers it for the other
//! side, if that has the same key: `a JOIN b ON a.s = b.s WHERE CAST(b.s AS INT) > 5` fails for a text that
//! only `a` has (apache/datafusion#8927). Such a condition goes below the join before it can do so.
//!
//! A condition that draws random numbers stays where it is: below a window or a join it would choose among
//! other rows.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinType, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, lit};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::analysis::fallible::can_fail;

/// The rule; runs before DataFusion pushes filters down.
#[derive(Debug)]
pub(super) struct FilterPlaces;

impl OptimizerRule for FilterPlaces {
    fn name(&self) -> &str {
        "filter_places"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Filter(filter) if filter.predicate.is_volatile() => apart(filter),
            LogicalPlan::Filter(filter) => match Arc::unwrap_or_clone(filter.input) {
                LogicalPlan::Join(join) => filtered(join, filter.predicate),
                input => Filter::try_new(filter.predicate, Arc::new(input))
                    .map(|filter| Transformed::no(LogicalPlan::Filter(filter))),
            },
            LogicalPlan::Join(mut join) if join.join_type == JoinType::Inner => match join.filter.take() {
                Some(filter) => {
                    let (rest, changed) = push(&mut join, filter)?;
                    join.filter = rest;
                    Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
                }
                None => Ok(Transformed::no(LogicalPlan::Join(join))),
            },
            plan => Ok(Transformed::no(plan)),
        }
    }
}

/// Conditions that draw random numbers apart from the others, which may go further down.
fn apart(filter: Filter) -> Result<Transformed<LogicalPlan>> {
    let conditions = split_conjunction_owned(filter.predicate);
    let (random, others): (Vec<_>, Vec<_>) = conditions.into_iter().partition(Expr::is_volatile);
    let changed = !others.is_empty();
    let input = match conjunction(others) {
        Some(others) => Arc::new(LogicalPlan::Filter(Filter::try_new(others, filter.input)?)),
        None => filter.input,
    };
    let random = conjunction(random).unwrap_or_else(|| lit(true));
    let plan = LogicalPlan::Filter(Filter::try_new(random, input)?);
    Ok(Transformed::new_transformed(plan, changed))
}

/// A join below a filter.
fn filtered(mut join: Join, predicate: Expr) -> Result<Transformed<LogicalPlan>> {
    let (rest, changed) = push(&mut join, predicate)?;
    let join = LogicalPlan::Join(join);
    let plan = match rest {
        Some(rest) => LogicalPlan::Filter(Filter::try_new(rest, Arc::new(join))?),
        None => join,
    };
    Ok(Transformed::new_transformed(plan, changed))
}

/// Puts the conditions of one side that may fail below a join. Returns the others, and whether there were
/// any.
fn push(join: &mut Join, predicate: Expr) -> Result<(Option<Expr>, bool)> {
    let (keeps_left, keeps_right) = match join.join_type {
        JoinType::Inner => (true, true),
        JoinType::Left => (true, false),
        JoinType::Right => (false, true),
        _ => return Ok((Some(predicate), false)),
    };
    let (mut left, mut right, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for condition in split_conjunction_owned(predicate) {
        let is_of = |side: &LogicalPlan| {
            let columns = condition.column_refs();
            !columns.is_empty() && columns.into_iter().all(|column| side.schema().has_column(column))
        };
        let may_move = !condition.is_volatile() && can_fail(&condition, &join.schema);
        match () {
            () if may_move && keeps_left && is_of(&join.left) => left.push(condition),
            () if may_move && keeps_right && is_of(&join.right) => right.push(condition),
            () => rest.push(condition),
        }
    }
    let changed = !left.is_empty() || !right.is_empty();
    for (side, conditions) in [(&mut join.left, left), (&mut join.right, right)] {
        if let Some(predicate) = conjunction(conditions) {
            *side = Arc::new(LogicalPlan::Filter(Filter::try_new(predicate, side.clone())?));
        }
    }
    Ok((conjunction(rest), changed))
}
