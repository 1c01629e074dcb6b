//! Columns of a query that a subquery two or more levels inside of it refers to.
//!
//! The query between them gets the column from outside, as a column of its own, and the subquery refers to
//! that: then each refers to the query around it only.

use std::sync::Arc;

use arrow_schema::FieldRef;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

use super::{Names, select_columns, subquery_of};

/// A column from outside.
struct Carried {
    field: FieldRef,
    /// What it is called outside.
    outside: Column,
    /// What the query between calls it.
    inside: Column,
}

/// Rewrites a node whose subqueries refer to columns that it does not have. Those that are further inside
/// have been rewritten before.
pub(super) fn carry(node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let (LogicalPlan::Filter(_) | LogicalPlan::Projection(_)) = &node else {
        return Ok(Transformed::no(node));
    };
    let [input] = node.inputs()[..] else {
        return Ok(Transformed::no(node));
    };
    let carried = carried_by(&node, input.schema(), names)?;
    if carried.is_empty() {
        return Ok(Transformed::no(node));
    }
    let own = input.schema().columns().into_iter().map(Expr::Column);
    let from_outside = carried.iter().map(|Carried { field, outside, inside }| {
        Expr::OuterReferenceColumn(field.clone(), outside.clone()).alias(&inside.name)
    });
    let input = LogicalPlanBuilder::from(input.clone()).project(own.chain(from_outside))?.build()?;
    let schema = node.schema().clone();
    let preserver = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let renamed = expr.transform_up(|expr| with_names_inside(expr, &carried))?;
        Ok(renamed.update_data(|expr| name.restore(expr)))
    })?;
    let exprs = node.data.expressions();
    let node = node.data.with_new_exprs(exprs, vec![input])?;
    select_columns(node, &schema).map(Transformed::yes)
}

/// The columns that the subqueries of a node refer to and that are not in its schema.
fn carried_by(node: &LogicalPlan, schema: &DFSchema, names: &Names) -> Result<Vec<Carried>> {
    let mut carried: Vec<Carried> = Vec::new();
    let mut add = |expr: &Expr| {
        if let Expr::OuterReferenceColumn(field, outside) = expr
            && !schema.has_column(outside)
            && carried.iter().all(|known| known.outside != *outside)
        {
            let (field, outside) = (field.clone(), outside.clone());
            carried.push(Carried { field, outside, inside: names.next("carried") });
        }
    };
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Some(subquery) = subquery_of(expr) {
                subquery.subquery.all_out_ref_exprs().iter().for_each(&mut add);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(carried)
}

/// An expression whose subquery, if it is one, calls columns as the query around it does.
fn with_names_inside(expr: Expr, carried: &[Carried]) -> Result<Transformed<Expr>> {
    let renamed = |subquery: Subquery| -> Result<Subquery> {
        let plan = subquery.subquery.as_ref().clone().transform_up(|node| {
            let preserver = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = preserver.save(&expr);
                let renamed = expr.transform_up(|expr| Ok(rename(expr, carried)))?;
                Ok(renamed.update_data(|expr| name.restore(expr)))
            })
        });
        let plan = plan.data()?;
        let outer_ref_columns = plan.all_out_ref_exprs();
        Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, ..subquery })
    };
    Ok(Transformed::yes(match expr {
        Expr::ScalarSubquery(subquery) => Expr::ScalarSubquery(renamed(subquery)?),
        Expr::Exists(Exists { subquery, negated }) => {
            Expr::Exists(Exists { subquery: renamed(subquery)?, negated })
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
            Expr::InSubquery(InSubquery { expr, subquery: renamed(subquery)?, negated })
        }
        other => return Ok(Transformed::no(other)),
    }))
}

fn rename(expr: Expr, carried: &[Carried]) -> Transformed<Expr> {
    let known = match &expr {
        Expr::OuterReferenceColumn(_, column) => carried.iter().find(|known| known.outside == *column),
        _ => None,
    };
    match known {
        Some(known) => {
            Transformed::yes(Expr::OuterReferenceColumn(known.field.clone(), known.inside.clone()))
        }
        None => Transformed::no(expr),
    }
}
