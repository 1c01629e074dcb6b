//! Correlated subqueries of any shape become joins: with `LIMIT`, windows, unions, correlations by inequality
//! or in select lists, also behind `LATERAL`.
//!
//! DataFusion makes joins only of subqueries whose correlations it can lift out of them. The others are
//! unnested after Neumann and Kemper, "Unnesting Arbitrary Queries" (BTW 2015): a subquery is evaluated once
//! for each distinct combination of the outer values that it refers to, the *domain*, and the outer rows are
//! joined with its results by these values.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, Result, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, Filter, Join, JoinConstraint, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery, SubqueryAlias,
    binary_expr,
};

mod carried;
mod shape;
mod unnest;

pub(super) use shape::is_joinable;
use unnest::Unnesting;

use super::subquery_predicates::by_counts;
use super::{has_expression, key_operator, recompute_schemas, select_columns};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    // That of a LATERAL join, or one in an expression.
    matches!(node, LogicalPlan::Subquery(_)) || has_expression(node, |expr| subquery_of(expr).is_some())
}

/// The rule; runs when scalar subqueries stand in filters and projections only, and have at most one row.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let names = Names::default();
    let plan = plan.transform_up_with_subqueries(|node| carried::carry(node, &names))?.data;
    let joined = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) => join_values(node, &names),
        LogicalPlan::Join(join) => join_lateral(join, &names),
        node => Ok(Transformed::no(node)),
    })?;
    recompute_schemas(joined.data)
}

/// Names of columns that occur once in a statement.
#[derive(Default)]
struct Names {
    given: Cell<usize>,
    /// Nodes of the plans that were repeated so far.
    repeated: Cell<usize>,
}

/// Most columns that one statement gets. Each unnesting repeats the query around it, also in later ones.
const NAMES_MAX: usize = 300;

/// Most nodes of the queries that are repeated. Each level of a chain of subqueries doubles them.
const REPEATED_MAX: usize = 5_000;

impl Names {
    /// Refuses statements that would grow too large, when a plan is about to be repeated.
    fn check(&self, repeated: &LogicalPlan) -> Result<()> {
        repeated.apply_with_subqueries(|_| {
            self.repeated.set(self.repeated.get() + 1);
            let is_large = self.repeated.get() > REPEATED_MAX;
            Ok(if is_large { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if self.given.get() > NAMES_MAX || self.repeated.get() > REPEATED_MAX {
            return not_impl_err!("so many subqueries that refer to the queries around them: write joins");
        }
        Ok(())
    }

    fn next(&self, what: &str) -> Column {
        let number = self.given.get();
        self.given.set(number + 1);
        Column::from_name(format!("${what}_{number}"))
    }
}

/// Joins the input of a node with the subqueries in its expressions that DataFusion cannot make joins of.
fn join_values(plan: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let mut is_plain = true;
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Some(subquery) = subquery_of(expr) {
                is_plain &= is_joinable(subquery)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if is_plain {
        return Ok(Transformed::no(plan));
    }
    let plan = match plan {
        LogicalPlan::Filter(filter) => with_conditions_below(filter)?,
        plan => plan,
    };
    let [base] = plan.inputs()[..] else {
        return Ok(Transformed::no(plan));
    };
    let (base, schema) = (base.clone(), plan.schema().clone());
    let mut input = base.clone();
    let preserver = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let counted = expr.transform_up(|expr| match subquery_of(&expr) {
            Some(subquery) if !is_joinable(subquery)? => by_counts(expr, base.schema()).map(Transformed::yes),
            _ => Ok(Transformed::no(expr)),
        })?;
        let rewritten = counted.data.transform_down(|expr| {
            let Expr::ScalarSubquery(subquery) = &expr else {
                return Ok(Transformed::no(expr));
            };
            if is_joinable(subquery)? {
                return Ok(Transformed::new(expr, false, TreeNodeRecursion::Jump));
            }
            let value = names.next("value");
            input = with_value(&input, &base, subquery, &value, names)?;
            Ok(Transformed::new(Expr::Column(value), true, TreeNodeRecursion::Jump))
        })?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    let plan = rewritten.data;
    let plan = plan.with_new_exprs(plan.expressions(), vec![input])?;
    select_columns(plan, &schema).map(Transformed::yes)
}

/// The subquery of an expression that is one.
fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery)
        | Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. }) => Some(subquery),
        _ => None,
    }
}

/// A filter whose conditions without subqueries are below the others, so that the subqueries are evaluated
/// for the rows that are left.
fn with_conditions_below(filter: Filter) -> Result<LogicalPlan> {
    let has_subquery = |expr: &Expr| expr.exists(|expr| Ok(subquery_of(expr).is_some())).unwrap_or(true);
    let (above, below): (Vec<_>, Vec<_>) =
        split_conjunction_owned(filter.predicate).into_iter().partition(has_subquery);
    let mut plan = LogicalPlanBuilder::from(filter.input);
    for condition in [conjunction(below), conjunction(above)].into_iter().flatten() {
        plan = LogicalPlanBuilder::from(LogicalPlan::Filter(Filter::try_new(
            condition,
            Arc::new(plan.build()?),
        )?));
    }
    plan.build()
}

/// The rows of `input` with the value of a subquery as a further column. The subquery refers to columns of
/// `base`, which are among those of `input`.
fn with_value(
    input: &LogicalPlan,
    base: &LogicalPlan,
    subquery: &Subquery,
    value: &Column,
    names: &Names,
) -> Result<LogicalPlan> {
    let plan = &subquery.subquery;
    let unnesting = Unnesting::new(plan, base, names)?;
    let (relation, field) = plan.schema().qualified_field(0);
    let result = Expr::Column(Column::from((relation, field))).alias(&value.name);
    let values = LogicalPlanBuilder::from(unnesting.unnest(plan)?)
        .project(std::iter::once(result).chain(unnesting.keys()))?
        .build()?;
    unnesting.join(input.clone(), values, JoinType::Left, None)
}

/// Joins the left side of a join with the subquery on its right that refers to it.
fn join_lateral(join: Join, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let (subquery, alias) = match join.right.as_ref() {
        LogicalPlan::Subquery(subquery) => (subquery, None),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::Subquery(subquery) => (subquery, Some(&alias.alias)),
            _ => return Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        _ => return Ok(Transformed::no(LogicalPlan::Join(join))),
    };
    if shape::is_joinable_laterally(subquery, join.join_type)? {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return not_impl_err!("a {} JOIN with LATERAL: use INNER or LEFT", join.join_type);
    }
    let plan = match alias {
        Some(alias) => {
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(subquery.subquery.clone(), alias.clone())?)
        }
        None => subquery.subquery.as_ref().clone(),
    };
    if let Some(computed) = computed_columns(&plan, join.left.schema())
        && join.filter.is_none()
        && join.on.is_empty()
    {
        let own = join.left.schema().columns().into_iter().map(Expr::Column);
        let exprs = own.map(Ok).chain(computed).collect::<Result<Vec<_>>>()?;
        return LogicalPlanBuilder::from(join.left.as_ref().clone())
            .project(exprs)?
            .build()
            .map(Transformed::yes);
    }
    let unnesting = Unnesting::new(&plan, &join.left, names)?;
    let right = unnesting.unnest(&plan)?;
    let filter = whole_condition(&join);
    let joined = unnesting.join(join.left.as_ref().clone(), right, join.join_type, filter)?;
    select_columns(joined, &join.schema).map(Transformed::yes)
}

/// The columns of a plan that computes one row of values from outside, for the query around it: of `LATERAL
/// (SELECT t.a + 1 AS b)`. `None` for a plan that reads rows, or refers to columns that are not in `outer`.
fn computed_columns(
    plan: &LogicalPlan,
    outer: &DFSchema,
) -> Option<impl Iterator<Item = Result<Expr>> + use<>> {
    let projection = match plan {
        LogicalPlan::SubqueryAlias(alias) => alias.input.as_ref(),
        plan => plan,
    };
    let LogicalPlan::Projection(projection) = projection else {
        return None;
    };
    let is_row = matches!(projection.input.as_ref(),
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row);
    // A column of a query further out is none of the left side.
    let is_own = |column: &Column| outer.has_column(column);
    if !is_row || !shape::outer_columns(plan).ok()?.iter().all(is_own) {
        return None;
    }
    let columns = projection.expr.clone().into_iter().zip(plan.schema().columns());
    Some(columns.map(|(expr, column)| {
        let computed = expr.unalias().transform(|expr| match expr {
            Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
            expr => Ok(Transformed::no(expr)),
        })?;
        Ok(computed.data.alias_qualified(column.relation, column.name))
    }))
}

/// The condition of a join, with its keys.
fn whole_condition(join: &Join) -> Option<Expr> {
    let equals = key_operator(join.null_equality);
    let keys = join.on.iter().map(|(left, right)| binary_expr(left.clone(), equals, right.clone()));
    conjunction(keys.chain(join.filter.clone()))
}

/// A join by columns whose nulls are equal, if there are any.
fn join_by(
    left: LogicalPlan,
    right: LogicalPlan,
    keys: impl IntoIterator<Item = (Column, Column)>,
    filter: Option<Expr>,
    join_type: JoinType,
) -> Result<LogicalPlan> {
    let on: Vec<(Expr, Expr)> =
        keys.into_iter().map(|(left, right)| (Expr::Column(left), Expr::Column(right))).collect();
    // What else is equal in the condition becomes a key, and nulls in it are not equal.
    let null_equality = match on.is_empty() {
        true => NullEquality::NullEqualsNothing,
        false => NullEquality::NullEqualsNull,
    };
    Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        filter,
        join_type,
        JoinConstraint::On,
        null_equality,
        false,
    )
    .map(LogicalPlan::Join)
}
