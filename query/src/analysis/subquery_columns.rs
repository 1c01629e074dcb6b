//! Scalar subqueries in `ORDER BY`, `GROUP BY`, join conditions, and arguments of aggregates and windows.
//!
//! Distributed plans have no scalar subqueries: DataFusion makes joins of them, but only of those in `WHERE`
//! and in select lists. Here the others become columns of a projection below, and conditions of inner joins
//! become filters above them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, not_impl_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, Join, LogicalPlan, LogicalPlanBuilder, Subquery, Union, Values as LiteralRows, binary_expr,
};

use super::{key_operator, select_columns};
use crate::analysis::has_expression;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| matches!(expr, Expr::ScalarSubquery(_)))
}

/// The rule; runs after those that make scalar subqueries.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let keeps_columns = match &plan {
        LogicalPlan::Aggregate(_) => false,
        LogicalPlan::Sort(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_) => true,
        LogicalPlan::Values(values) if values.values.iter().flatten().any(has_subquery) => {
            return rows_as_queries(values).map(Transformed::yes);
        }
        _ => return Ok(Transformed::no(plan)),
    };
    let plan = match plan {
        LogicalPlan::Join(join) => {
            let mut join = with_subqueries_in_filter(join);
            if join.join_type == JoinType::Inner
                && let Some(condition) = take_subqueries(&mut join)
            {
                let join = LogicalPlan::Join(join);
                return LogicalPlanBuilder::from(join).filter(condition)?.build().map(Transformed::yes);
            }
            LogicalPlan::Join(join)
        }
        plan => plan,
    };
    let mut values = Values::default();
    let names = NamePreserver::new(&plan);
    let schema = plan.schema().clone();
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(values.replace(expr)?.update_data(|expr| name.restore(expr)))
    })?;
    if values.0.is_empty() {
        return Ok(rewritten);
    }
    let plan = rewritten.data;
    let mut inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
    for value in values.0 {
        // A condition of a join is evaluated for pairs of rows, which have the columns of both sides.
        let Some(input) = inputs.iter_mut().find(|input| value.can_be_column_of(input)) else {
            return not_impl_err!(
                "a subquery here that refers to several tables, or to columns that are not selected: \
                 write a join"
            );
        };
        *input = value.add_to(input.clone())?;
    }
    let plan = plan.with_new_exprs(plan.expressions(), inputs)?;
    let plan = if keeps_columns { select_columns(plan, &schema)? } else { plan };
    Ok(Transformed::yes(plan))
}

/// Literal rows as a union of queries, each of which selects one row.
fn rows_as_queries(values: &LiteralRows) -> Result<LogicalPlan> {
    let rows = values.values.iter().map(|row| {
        let columns = row.iter().zip(values.schema.fields());
        let columns = columns.map(|(expr, field)| expr.clone().alias(field.name())).collect::<Vec<_>>();
        LogicalPlanBuilder::empty(true).project(columns)?.build().map(Arc::new)
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    match <[_; 1]>::try_from(rows) {
        Ok([row]) => Ok(Arc::unwrap_or_clone(row)),
        Err(rows) => Union::try_new(rows).map(LogicalPlan::Union),
    }
}

/// Takes the conditions with subqueries out of an inner join. They can as well be checked above it.
fn take_subqueries(join: &mut Join) -> Option<Expr> {
    let conjuncts = join.filter.take().map(split_conjunction_owned).unwrap_or_default();
    let (above, kept): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(has_subquery);
    join.filter = conjunction(kept);
    conjunction(above)
}

/// A join whose keys have no subqueries: each key has to belong to its own side.
fn with_subqueries_in_filter(mut join: Join) -> Join {
    let equals = key_operator(join.null_equality);
    let (moved, kept): (Vec<_>, Vec<_>) =
        join.on.into_iter().partition(|(left, right)| has_subquery(left) || has_subquery(right));
    join.on = kept;
    for (left, right) in moved {
        let condition = binary_expr(left, equals, right);
        join.filter = Some(match join.filter {
            Some(filter) => filter.and(condition),
            None => condition,
        });
    }
    join
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(matches!(expr, Expr::ScalarSubquery(_)))).unwrap_or(false)
}

/// The subqueries of the expressions of a node.
#[derive(Default)]
struct Values(Vec<Value>);

/// A subquery, and the column that takes its place.
struct Value {
    subquery: Subquery,
    column: Column,
}

impl Values {
    /// An expression with columns in the place of its scalar subqueries.
    fn replace(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| {
            let Expr::ScalarSubquery(subquery) = expr else {
                return Ok(Transformed::no(expr));
            };
            let known = self.0.iter().find(|value| value.subquery == subquery);
            let column = match known {
                Some(value) => value.column.clone(),
                None => {
                    // Of this node alone: a projection above, or the aggregate itself, drops it.
                    let column = Column::from_name(format!("$subquery_{}", self.0.len()));
                    self.0.push(Value { subquery, column: column.clone() });
                    column
                }
            };
            Ok(Transformed::new(Expr::Column(column), true, TreeNodeRecursion::Jump))
        })
    }
}

impl Value {
    /// Whether a plan has all columns that the subquery refers to.
    fn belongs_to(&self, plan: &LogicalPlan) -> bool {
        self.subquery.outer_ref_columns.iter().all(|outer| match outer {
            Expr::OuterReferenceColumn(_, column) => plan.schema().has_column(column),
            _ => true,
        })
    }

    /// Whether the value can be computed for the rows of a plan. A select list may leave out columns that the
    /// rows are sorted by.
    fn can_be_column_of(&self, plan: &LogicalPlan) -> bool {
        self.belongs_to(plan)
            || matches!(plan, LogicalPlan::Projection(projection) if self.belongs_to(&projection.input))
    }

    /// The plan with the value as a further column.
    fn add_to(self, plan: LogicalPlan) -> Result<LogicalPlan> {
        match plan {
            LogicalPlan::Projection(projection)
                if !self.belongs_to(&LogicalPlan::Projection(projection.clone())) =>
            {
                let column = Expr::Column(self.column.clone());
                let input = self.add_to(Arc::unwrap_or_clone(projection.input))?;
                let exprs: Vec<Expr> = projection.expr.into_iter().chain([column]).collect();
                LogicalPlanBuilder::from(input).project(exprs)?.build()
            }
            plan => {
                let own = plan.schema().columns().into_iter().map(Expr::Column);
                let value = Expr::ScalarSubquery(self.subquery).alias(self.column.name);
                let exprs: Vec<Expr> = own.chain([value]).collect();
                LogicalPlanBuilder::from(plan).project(exprs)?.build()
            }
        }
    }
}
