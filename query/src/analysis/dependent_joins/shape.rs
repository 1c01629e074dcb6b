//! Which correlated subqueries DataFusion makes joins of.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::{merge_schema, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, JoinType, LogicalPlan, Operator, Subquery};

/// Whether a subquery is left to DataFusion: it makes joins of simple correlated ones, and reports those that
/// refer to columns two levels outside. True if the subquery refers to nothing outside.
///
/// DataFusion drops a limit, and computes a window over the rows of all outer rows (apache/datafusion#25283).
pub(crate) fn is_joinable(subquery: &Subquery) -> Result<bool> {
    let plan = &subquery.subquery;
    Ok(is_plain(plan, 0)? || plan.exists(refers_two_levels_out)?)
}

/// The same for a subquery on the right side of a join.
pub(super) fn is_joinable_laterally(subquery: &Subquery, join_type: JoinType) -> Result<bool> {
    let plan = &subquery.subquery;
    let unnests_lists = plan.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))?;
    let is_simple = join_type == JoinType::Inner && !has_aggregate(plan)?;
    Ok(unnests_lists || outer_columns(plan)?.is_empty() || (is_simple && is_joinable(subquery)?))
}

/// Whether a plan aggregates rows.
fn has_aggregate(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_))))
}

/// Whether all correlations of a plan, which has a number of aggregates above it, can be lifted out of it.
fn is_plain(plan: &LogicalPlan, aggregates: usize) -> Result<bool> {
    if outer_columns(plan)?.is_empty() {
        return Ok(true);
    }
    let own = own_outer_columns(plan)?;
    match plan {
        LogicalPlan::Filter(filter) => {
            let conjuncts = split_conjunction(&filter.predicate);
            let mut outer = conjuncts.into_iter().filter(|expr| expr.contains_outer());
            let are_keys = outer.all(|expr| is_key(expr, filter.input.schema()));
            let is_having = has_aggregate(&filter.input)?;
            Ok((aggregates == 0 || are_keys) && !is_having && is_plain(&filter.input, aggregates)?)
        }
        LogicalPlan::Aggregate(aggregate) => {
            Ok(own.is_empty() && aggregates == 0 && is_plain(&aggregate.input, aggregates + 1)?)
        }
        LogicalPlan::Join(join) => {
            let is_inner = join.join_type == JoinType::Inner && own.is_empty();
            Ok(is_inner && is_plain(&join.left, aggregates)? && is_plain(&join.right, aggregates)?)
        }
        // DataFusion forgets the names that the alias gives.
        LogicalPlan::SubqueryAlias(alias) if has_aggregate(&alias.input)? => Ok(false),
        LogicalPlan::Projection(projection) => Ok(own.is_empty() && is_plain(&projection.input, aggregates)?),
        LogicalPlan::SubqueryAlias(alias) => is_plain(&alias.input, aggregates),
        LogicalPlan::Unnest(unnest) => is_plain(&unnest.input, aggregates),
        _ => Ok(false),
    }
}

/// `inner = outer` with a column inside, possibly cast: DataFusion lifts nothing else over an aggregate. A
/// column that only the comparison casts may be rounded by a function of ours, which it does not know.
fn is_key(conjunct: &Expr, schema: &DFSchema) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = conjunct else {
        return false;
    };
    let is_inner = |expr: &Expr| match expr {
        Expr::Column(_) => true,
        Expr::Cast(cast) => matches!(cast.expr.as_ref(), Expr::Column(_)),
        _ => false,
    };
    let is_outer = |expr: &Expr| expr.contains_outer() && expr.column_refs().is_empty();
    let is_kept = |inner: &Expr, outer: &Expr| match (inner.get_type(schema), outer.get_type(schema)) {
        (Ok(inner), Ok(outer)) => {
            (inner.is_integer() && outer.is_integer()) || comparison_coercion(&inner, &outer) == Some(inner)
        }
        _ => false,
    };
    (is_inner(left) && is_outer(right) && is_kept(left, right))
        || (is_outer(left) && is_inner(right) && is_kept(right, left))
}

/// The outer columns that a plan refers to, each once; without those of subqueries in the plan.
pub(super) fn outer_columns(plan: &LogicalPlan) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    plan.apply(|node| {
        if matches!(node, LogicalPlan::Subquery(_)) {
            return Ok(TreeNodeRecursion::Jump);
        }
        for column in own_outer_columns(node)? {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

/// The outer columns in the expressions of a node.
fn own_outer_columns(node: &LogicalPlan) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Expr::OuterReferenceColumn(_, column) = expr {
                columns.push(column.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(columns)
}

/// Whether a subquery in the expressions of a node refers to columns that the node does not have.
fn refers_two_levels_out(node: &LogicalPlan) -> Result<bool> {
    let schema = merge_schema(&node.inputs());
    let mut found = false;
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Expr::ScalarSubquery(subquery)
            | Expr::Exists(Exists { subquery, .. })
            | Expr::InSubquery(InSubquery { subquery, .. }) = expr
            {
                let columns = outer_columns(&subquery.subquery)?;
                found |= columns.iter().any(|column| !schema.has_column(column));
            }
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    Ok(found)
}
