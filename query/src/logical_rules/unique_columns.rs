//! Gives the columns of joins different names, just before a plan becomes physical.
//!
//! Physical plans know columns by position, and names without their relations. But filters find their columns
//! by name when they are pushed through a physical plan, and take the first of two that have one name: `WHERE
//! a.id IS NULL` above `a RIGHT JOIN b` then filters `b.id`.

use std::collections::{HashMap, HashSet};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

/// The new columns of a plan, by those that its parents refer to.
type Renamed = HashMap<Column, Column>;

/// Makes the names of columns unique in every join of an optimized plan. Its own columns keep their names.
///
/// # Errors
/// Those of building plans, which only a fault in the renaming could cause.
pub(super) fn make_unique(plan: LogicalPlan) -> Result<LogicalPlan> {
    let Renaming { plan, renamed, .. } = rename(plan)?;
    restore(plan, &renamed)
}

/// A plan whose joins have unique columns.
struct Renaming {
    plan: LogicalPlan,
    renamed: Renamed,
    /// Whether the plan differs from what it was.
    changed: bool,
}

#[recursive::recursive]
fn rename(plan: LogicalPlan) -> Result<Renaming> {
    let Transformed { data: plan, transformed: changed, .. } = plan.map_subqueries(|subquery| {
        let Renaming { plan, renamed, changed } = rename(subquery)?;
        Ok(Transformed::new_transformed(restore(plan, &renamed)?, changed))
    })?;
    let mut inputs: Vec<Renaming> =
        plan.inputs().into_iter().map(|input| rename(input.clone())).collect::<Result<_>>()?;
    if let (LogicalPlan::Join(join), [left, right]) = (&plan, inputs.as_mut_slice()) {
        match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                tell_apart(&names(&left.plan), right)?;
            }
            JoinType::LeftMark => tell_apart(&mark(), left)?,
            JoinType::RightMark => tell_apart(&mark(), right)?,
            // They have the columns of one side.
            JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti => {}
        }
    }
    if inputs.iter().all(|input| !input.changed) {
        return Ok(Renaming { plan, renamed: Renamed::new(), changed });
    }
    match &plan {
        LogicalPlan::Join(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Aggregate(_) => {}
        // What knows its input by position or by itself gets the names that it had.
        _ => {
            let restored = inputs.into_iter().map(|input| restore(input.plan, &input.renamed));
            let plan = plan.with_new_exprs(plan.expressions(), restored.collect::<Result<_>>()?)?;
            return Ok(Renaming { plan, renamed: Renamed::new(), changed: true });
        }
    }
    let (inputs, renamed): (Vec<LogicalPlan>, Vec<Renamed>) =
        inputs.into_iter().map(|input| (input.plan, input.renamed)).unzip();
    let mut renamed: Renamed = renamed.into_iter().flatten().collect();
    let preserver = NamePreserver::new(&plan);
    let mut exprs = Vec::new();
    for expr in plan.expressions() {
        let name = preserver.save(&expr);
        // Columns that are passed on stay apart.
        let is_passed_on = matches!(expr, Expr::Column(_) | Expr::GroupingSet(_));
        let expr = expr.transform(|expr| match expr {
            Expr::Column(column) => match renamed.get(&column) {
                Some(new) => Ok(Transformed::yes(Expr::Column(new.clone()))),
                None => Ok(Transformed::no(Expr::Column(column))),
            },
            expr => Ok(Transformed::no(expr)),
        })?;
        exprs.push(if is_passed_on { expr.data } else { name.restore(expr.data) });
    }
    let plan = plan.with_new_exprs(exprs, inputs)?;
    renamed.retain(|_, new| plan.schema().has_column(new));
    Ok(Renaming { plan, renamed, changed: true })
}

/// The names of the columns of a plan.
fn names(plan: &LogicalPlan) -> HashSet<String> {
    plan.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// The name of the column that a mark join adds.
fn mark() -> HashSet<String> {
    HashSet::from(["mark".to_owned()])
}

/// Renames the columns of a side of a join that have the name of one of the other side.
fn tell_apart(other: &HashSet<String>, side: &mut Renaming) -> Result<()> {
    let own = names(&side.plan);
    if own.is_disjoint(other) {
        return Ok(());
    }
    let Renaming { plan, renamed, changed } = side;
    let mut taken: HashSet<String> = own.union(other).cloned().collect();
    let mut exprs = Vec::new();
    for column in plan.schema().columns() {
        if !other.contains(&column.name) {
            exprs.push(Expr::Column(column));
            continue;
        }
        let mut fresh = (1..).map(|number| format!("{}#{number}", column.name));
        let name = fresh.find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(name.clone());
        let new = Column::new(column.relation.clone(), name.clone());
        match renamed.values_mut().find(|renamed| **renamed == column) {
            Some(renamed) => *renamed = new,
            None => {
                renamed.insert(column.clone(), new);
            }
        }
        exprs.push(Expr::Column(column.clone()).alias_qualified(column.relation, name));
    }
    *plan = LogicalPlanBuilder::from(plan.clone()).project(exprs)?.build()?;
    *changed = true;
    Ok(())
}

/// Gives the columns of a plan the names that they had.
fn restore(plan: LogicalPlan, renamed: &Renamed) -> Result<LogicalPlan> {
    if renamed.is_empty() {
        return Ok(plan);
    }
    let old: HashMap<&Column, &Column> = renamed.iter().map(|(old, new)| (new, old)).collect();
    let exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .map(|column| match old.get(&column) {
            Some(old) => Expr::Column(column).alias_qualified(old.relation.clone(), old.name.clone()),
            None => Expr::Column(column),
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
