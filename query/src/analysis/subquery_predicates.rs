//! `IN`, `NOT IN` and `EXISTS` with the null logic of the SQL standard, wherever an expression may stand.
//!
//! DataFusion makes joins of them. As conjuncts of a `WHERE` that is right, but for `NOT IN` with a constant,
//! a computed or a correlated side (apache/datafusion#25340, #25347, #25474). As values, null becomes false
//! there, and elsewhere they are not supported (#24960). Here `x NOT IN (...)` becomes `NOT EXISTS` of a
//! row for which `x = y` is not false, and values are computed from counts.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchema, DataFusionError, ExprSchema, Result, ScalarValue, Spans, not_impl_err,
};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, GroupingSet, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, ExprSchemable, FetchType, Filter, LogicalPlan, LogicalPlanBuilder, Operator,
    SkipType, Subquery, binary_expr, lit, when,
};

use super::dependent_joins::is_joinable;
use crate::analysis::has_expression;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, is_predicate)
}

/// The rule; runs before the one for scalar subqueries, since it makes some.
pub(crate) fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let has_predicate = plan.expressions().iter().any(|expr| contains(expr, is_predicate));
    if !has_predicate {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    match plan {
        LogicalPlan::Filter(Filter { predicate, input, .. }) => {
            let conjuncts = split_conjunction_owned(predicate);
            let conjuncts =
                conjuncts.into_iter().map(|c| condition(c, &schema)).collect::<Result<Vec<_>>>()?;
            let predicate = conjunction(conjuncts).unwrap_or_else(|| lit(true));
            Filter::try_new(predicate, input).map(LogicalPlan::Filter).map(Transformed::yes)
        }
        plan => {
            let preserver = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = preserver.save(&expr);
                Ok(Transformed::yes(name.restore(value(expr, &schema, true)?)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        }
    }
}

fn is_predicate(expr: &Expr) -> bool {
    matches!(expr, Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_))
}

fn contains(expr: &Expr, wanted: fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let _ = expr.apply(|expr| {
        found |= wanted(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Rewrites a condition of a `WHERE`, where null counts as false. Recursive,
/// since a condition may be a chain of thousands of alternatives.
#[recursive::recursive]
fn condition(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match as_membership(expr) {
        Expr::InSubquery(predicate) => {
            if let Some(comparison) = with_single_row(&predicate)? {
                return Ok(comparison);
            }
            if !is_joinable(&predicate.subquery)? {
                return in_by_counts(predicate, schema);
            }
            let is_plain = matches!(predicate.expr.as_ref(), Expr::Column(_));
            let is_correlated = !predicate.subquery.outer_ref_columns.is_empty();
            if !predicate.negated || (is_plain && !is_correlated) {
                return Ok(Expr::InSubquery(predicate));
            }
            not_exists(predicate, schema)
        }
        Expr::Exists(exists) => match exists_of_aggregate(&exists)? {
            Some(value) => Ok(value),
            None => exists_in_filter(without_limit(exists)?),
        },
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(predicate) => {
                condition(Expr::InSubquery(InSubquery { negated: !predicate.negated, ..predicate }), schema)
            }
            Expr::Exists(exists) => {
                condition(Expr::Exists(Exists { negated: !exists.negated, ..exists }), schema)
            }
            inner => value(Expr::Not(Box::new(inner)), schema, false),
        },
        // Null counts as false under AND and OR too, as long as nothing negates it.
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let in_alternative = |side: Expr| match as_membership(side) {
                Expr::InSubquery(predicate) if predicate.negated => {
                    value(Expr::InSubquery(predicate), schema, false)
                }
                Expr::Not(inner) if matches!(*inner, Expr::InSubquery(_)) => {
                    value(Expr::Not(inner), schema, false)
                }
                side => condition(side, schema),
            };
            let (left, right) = (in_alternative(*left)?, in_alternative(*right)?);
            Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
        }
        other => value(other, schema, false),
    }
}

/// `IN` or `EXISTS` as a value that is computed from counts. Other expressions stay.
pub(super) fn by_counts(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::InSubquery(predicate) => in_by_counts(predicate, schema),
        Expr::Exists(exists) => exists_by_count(exists),
        expr => Ok(expr),
    }
}

/// `x = ANY (q)` as `x IN (q)`, `x <> ALL (q)` as `x NOT IN (q)`.
fn as_membership(expr: Expr) -> Expr {
    match expr {
        Expr::SetComparison(SetComparison { expr, subquery, op, quantifier })
            if matches!(
                (op, &quantifier),
                (Operator::Eq, SetQuantifier::Any) | (Operator::NotEq, SetQuantifier::All)
            ) =>
        {
            let negated = op == Operator::NotEq;
            Expr::InSubquery(InSubquery { expr, subquery, negated })
        }
        other => other,
    }
}

/// Rewrites the predicates in an expression whose null differs from false. `exists` says whether `EXISTS`
/// must be rewritten as well, which filters need not.
fn value(expr: Expr, schema: &DFSchema, exists: bool) -> Result<Expr> {
    let rewritten = expr.transform_up(|expr| match as_membership(expr) {
        Expr::InSubquery(predicate) => match with_single_row(&predicate)? {
            Some(comparison) => Ok(Transformed::yes(comparison)),
            None => in_by_counts(predicate, schema).map(Transformed::yes),
        },
        Expr::SetComparison(comparison) => comparison_by_counts(comparison, schema).map(Transformed::yes),
        Expr::Exists(predicate) => match exists_of_aggregate(&predicate)? {
            Some(value) => Ok(Transformed::yes(value)),
            None if exists => exists_by_count(without_limit(predicate)?).map(Transformed::yes),
            None => exists_in_filter(without_limit(predicate)?).map(Transformed::yes),
        },
        other => Ok(Transformed::no(other)),
    });
    rewritten.map(|transformed| transformed.data)
}

/// `x IN (SELECT count(*) ...)`: a subquery that always has one row is a value. With `HAVING`, it has that
/// row or none.
fn with_single_row(predicate: &InSubquery) -> Result<Option<Expr>> {
    let op = if predicate.negated { Operator::NotEq } else { Operator::Eq };
    let compare = |subquery: Subquery| {
        let right = Box::new(Expr::ScalarSubquery(subquery));
        Expr::BinaryExpr(BinaryExpr { left: predicate.expr.clone(), op, right })
    };
    let plan = &predicate.subquery.subquery;
    let has_one_row =
        matches!(unwrapped(plan), LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty());
    if has_one_row {
        return Ok(Some(compare(predicate.subquery.clone())));
    }
    let Some(having) = having_of_all(plan) else {
        return Ok(None);
    };
    let unfiltered = plan.as_ref().clone().transform_down(|node| match node {
        LogicalPlan::Filter(filter) => {
            Ok(Transformed::new(filter.input.as_ref().clone(), true, TreeNodeRecursion::Stop))
        }
        node => Ok(Transformed::no(node)),
    })?;
    let has_row = Expr::IsTrue(Box::new(having_value(having)?));
    when(has_row, compare(subquery(unfiltered.data)?)).otherwise(lit(predicate.negated)).map(Some)
}

/// `EXISTS` of an aggregation over all rows, which has one row, unless there is a `HAVING` and it is not
/// true. Also as one of several grouping sets.
fn exists_of_aggregate(exists: &Exists) -> Result<Option<Expr>> {
    let plan = &exists.subquery.subquery;
    if aggregates_all(unwrapped(plan)) {
        return Ok(Some(lit(!exists.negated)));
    }
    let Some(having) = having_of_all(plan) else {
        return Ok(None);
    };
    let value = Box::new(having_value(having)?);
    Ok(Some(if exists.negated { Expr::IsNotTrue(value) } else { Expr::IsTrue(value) }))
}

/// Whether a plan is an aggregation that returns a row even if its input has none.
fn aggregates_all(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(Aggregate { group_expr, .. }) = plan else {
        return false;
    };
    match group_expr.as_slice() {
        [] => true,
        [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
        _ => false,
    }
}

/// The `HAVING` of a plan that aggregates all rows into one.
fn having_of_all(plan: &LogicalPlan) -> Option<&Filter> {
    match unwrapped(plan) {
        LogicalPlan::Filter(filter) => match filter.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => Some(filter),
            _ => None,
        },
        _ => None,
    }
}

/// The value of a `HAVING`. DataFusion knows what aggregates of no rows are in scalar subqueries only.
fn having_value(having: &Filter) -> Result<Expr> {
    let plan = LogicalPlanBuilder::from(having.input.as_ref().clone());
    subquery(plan.project([having.predicate.clone().alias("having")])?.build()?).map(Expr::ScalarSubquery)
}

/// `EXISTS` without a `LIMIT` that leaves at least one row.
fn without_limit(exists: Exists) -> Result<Exists> {
    let LogicalPlan::Limit(limit) = unwrapped(&exists.subquery.subquery) else {
        return Ok(exists);
    };
    let leaves_first = matches!(limit.get_skip_type()?, SkipType::Literal(0))
        && matches!(limit.get_fetch_type()?, FetchType::Literal(Some(1..) | None));
    match leaves_first {
        true => Ok(Exists { subquery: subquery(limit.input.as_ref().clone())?, ..exists }),
        false => Ok(exists),
    }
}

/// `EXISTS` as a part of a filter, of which DataFusion makes a join if it can.
fn exists_in_filter(exists: Exists) -> Result<Expr> {
    match is_joinable(&exists.subquery)? {
        true => Ok(Expr::Exists(exists)),
        false => exists_by_count(exists),
    }
}

/// A plan without the projections, aliases and sorts above it.
fn unwrapped(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(projection) => unwrapped(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => unwrapped(&alias.input),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => unwrapped(&sort.input),
        plan => plan,
    }
}

/// An expression of the outer query inside of a subquery.
pub(super) fn outer(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
    let rewritten = expr.clone().transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    });
    rewritten.map(|transformed| transformed.data)
}

/// A subquery with other contents. What it refers to outside is found anew.
pub(super) fn subquery(plan: LogicalPlan) -> Result<Subquery> {
    let mut outer_ref_columns = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if matches!(expr, Expr::OuterReferenceColumn(..)) && !outer_ref_columns.contains(expr) {
                    outer_ref_columns.push(expr.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: Spans::new() })
}

/// The column of a subquery of one column.
fn column_of(plan: &LogicalPlan) -> Expr {
    let (qualifier, field) = plan.schema().qualified_field(0);
    Expr::Column(Column::from((qualifier, field)))
}

/// A subquery whose relation has another name than those of an expression outside of it, since DataFusion
/// would take columns of one name for one column.
fn apart_from(expr: &Expr, plan: LogicalPlan) -> Result<LogicalPlan> {
    let relations: Vec<_> = plan.schema().iter().filter_map(|(relation, _)| relation).collect();
    let is_inside = |column: &Column| column.relation.as_ref().is_some_and(|name| relations.contains(&name));
    match expr.column_refs().into_iter().any(is_inside) {
        true => LogicalPlanBuilder::from(plan).alias("$subquery")?.build(),
        false => Ok(plan),
    }
}

/// `x NOT IN (q)` as a condition: no row of `q` is equal to `x`, or might be.
fn not_exists(predicate: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery: inner, .. } = predicate;
    let plan = apart_from(&expr, inner.subquery.as_ref().clone())?;
    let column = column_of(&plan);
    let may_be_null = expr.nullable(schema)? || column.nullable(plan.schema())?;
    let equal = column.eq(outer(&expr, schema)?);
    // A join by equal values does not compare each row with each.
    let condition = if may_be_null { Expr::IsNotFalse(Box::new(equal)) } else { equal };
    let plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
    Ok(Expr::Exists(Exists { subquery: subquery(plan)?, negated: true }))
}

/// The number of values in a plan as a subquery. `expr` may be a literal, to count rows.
fn counted(plan: LogicalPlan, expr: Expr) -> Result<Expr> {
    let plan = LogicalPlanBuilder::from(plan).aggregate(Vec::<Expr>::new(), vec![count(expr)])?.build()?;
    subquery(plan).map(Expr::ScalarSubquery)
}

/// `EXISTS (q)` as a value.
fn exists_by_count(exists: Exists) -> Result<Expr> {
    let plan = exists.subquery.subquery.as_ref().clone();
    let rows = counted(plan, lit(1))?;
    Ok(if exists.negated { rows.eq(lit(0_i64)) } else { rows.gt(lit(0_i64)) })
}

/// `x > ANY (q)` as a value: true if the comparison is true for a row, null if it is null for one, otherwise
/// false. `x > ALL (q)` is true unless `x <= ANY (q)`.
fn comparison_by_counts(comparison: SetComparison, schema: &DFSchema) -> Result<Expr> {
    let SetComparison { expr, subquery: inner, op, quantifier } = comparison;
    let (op, found) = match quantifier {
        SetQuantifier::Any => (op, true),
        SetQuantifier::All => match op.negate() {
            Some(negated) => (negated, false),
            None => return not_impl_err!("{op} ALL of a subquery"),
        },
    };
    let plan = apart_from(&expr, inner.subquery.as_ref().clone())?;
    let compared = binary_expr(outer(&expr, schema)?, op, column_of(&plan));
    let rows = |condition: Expr| {
        let matching = LogicalPlanBuilder::from(plan.clone()).filter(condition)?.build()?;
        Ok::<_, DataFusionError>(counted(matching, lit(1))?.gt(lit(0_i64)))
    };
    when(rows(compared.clone())?, lit(found))
        .when(rows(compared.is_null())?, lit(ScalarValue::Boolean(None)))
        .otherwise(lit(!found))
}

/// `x IN (q)` as a value: true if a row is equal, null if one might be, otherwise false.
fn in_by_counts(predicate: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery: inner, negated } = predicate;
    let plan = apart_from(&expr, inner.subquery.as_ref().clone())?;
    let column = column_of(&plan);
    let unknown = || lit(ScalarValue::Boolean(None));
    let equal = LogicalPlanBuilder::from(plan.clone()).filter(column.clone().eq(outer(&expr, schema)?))?;
    let some_equal = counted(equal.build()?, lit(1))?.gt(lit(0_i64));
    let some_row = counted(plan.clone(), lit(1))?.gt(lit(0_i64));
    let nulls = LogicalPlanBuilder::from(plan).filter(column.is_null())?.build()?;
    let some_null = counted(nulls, lit(1))?.gt(lit(0_i64));
    when(some_equal, lit(!negated))
        .when(expr.is_null().and(some_row), unknown())
        .when(some_null, unknown())
        .otherwise(lit(negated))
}
