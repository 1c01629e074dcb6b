//! `IN`, `NOT IN` and `EXISTS` with the null logic of the SQL standard, wherever an expression may stand.
//!
//! The engine makes joins of them. As conjuncts of a `WHERE` that is right, but for `NOT IN` with a constant,
//! a computed or a correlated side (apache/datafusion#25340, #25347, #25474). As values, null becomes false
//! there, and elsewhere they are not supported (#24960). Here `NOT IN` becomes `NOT EXISTS` of a row that is
//! not unequal, and values are computed from counts.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, Spans};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, GroupingSet, InSubquery};
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

/// The rule; runs first, since it makes scalar subqueries.
#[derive(Debug)]
pub(crate) struct SubqueryPredicates;

impl AnalyzerRule for SubqueryPredicates {
    fn name(&self) -> &str {
        "subquery_predicates"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite_node).map(|transformed| transformed.data)
    }
}

fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
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
    matches!(expr, Expr::InSubquery(_) | Expr::Exists(_))
}

fn contains(expr: &Expr, wanted: fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let _ = expr.apply(|expr| {
        found |= wanted(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Rewrites a condition of a `WHERE`, where null counts as false. As deep as the condition, which may be a
/// chain of thousands of alternatives.
#[recursive::recursive]
fn condition(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::InSubquery(predicate) => {
            if let Some(comparison) = with_single_row(&predicate) {
                return Ok(comparison);
            }
            let is_plain = matches!(predicate.expr.as_ref(), Expr::Column(_));
            let is_correlated = !predicate.subquery.outer_ref_columns.is_empty();
            if !predicate.negated || (is_plain && !is_correlated) {
                return Ok(Expr::InSubquery(predicate));
            }
            not_exists(predicate, schema)
        }
        Expr::Exists(exists) => Ok(constant_exists(&exists).unwrap_or(Expr::Exists(exists))),
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(predicate) => {
                condition(Expr::InSubquery(InSubquery { negated: !predicate.negated, ..predicate }), schema)
            }
            Expr::Exists(exists) => {
                condition(Expr::Exists(Exists { negated: !exists.negated, ..exists }), schema)
            }
            inner => value(Expr::Not(Box::new(inner)), schema, false),
        },
        // Of an alternative, too, null is as good as false, as long as nothing negates it.
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let in_alternative = |side: Expr| match side {
                Expr::InSubquery(predicate) if predicate.negated => {
                    value(Expr::InSubquery(predicate), schema, false)
                }
                side => condition(side, schema),
            };
            let (left, right) = (in_alternative(*left)?, in_alternative(*right)?);
            Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
        }
        other => value(other, schema, false),
    }
}

/// Rewrites the predicates in an expression whose null differs from false. `exists` says whether `EXISTS`
/// must be rewritten as well, which filters need not.
fn value(expr: Expr, schema: &DFSchema, exists: bool) -> Result<Expr> {
    let rewritten = expr.transform_up(|expr| match expr {
        Expr::InSubquery(predicate) => match with_single_row(&predicate) {
            Some(comparison) => Ok(Transformed::yes(comparison)),
            None => in_by_counts(predicate, schema).map(Transformed::yes),
        },
        Expr::Exists(predicate) => match constant_exists(&predicate) {
            Some(constant) => Ok(Transformed::yes(constant)),
            None if exists => exists_by_count(predicate).map(Transformed::yes),
            None => Ok(Transformed::no(Expr::Exists(predicate))),
        },
        other => Ok(Transformed::no(other)),
    });
    rewritten.map(|transformed| transformed.data)
}

/// `x IN (SELECT count(*) ...)`: a subquery that always has one row is a value.
fn with_single_row(predicate: &InSubquery) -> Option<Expr> {
    let aggregates_all = match unwrapped(&predicate.subquery.subquery) {
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => group_expr.is_empty(),
        _ => false,
    };
    aggregates_all.then(|| {
        let op = if predicate.negated { Operator::NotEq } else { Operator::Eq };
        Expr::BinaryExpr(BinaryExpr {
            left: predicate.expr.clone(),
            op,
            right: Box::new(Expr::ScalarSubquery(predicate.subquery.clone())),
        })
    })
}

/// `EXISTS` of a subquery that has a row for all rows of the outer query: an aggregation over everything,
/// also as one of several grouping sets.
fn constant_exists(exists: &Exists) -> Option<Expr> {
    let LogicalPlan::Aggregate(Aggregate { group_expr, .. }) = unwrapped(&exists.subquery.subquery) else {
        return None;
    };
    let always = match group_expr.as_slice() {
        [] => true,
        [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
        _ => false,
    };
    always.then(|| lit(!exists.negated))
}

/// A plan without what changes columns and their order only.
fn unwrapped(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(projection) => unwrapped(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => unwrapped(&alias.input),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => unwrapped(&sort.input),
        plan => plan,
    }
}

/// An expression of the outer query inside of a subquery.
fn outer(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
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
fn subquery(plan: LogicalPlan) -> Result<Subquery> {
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

/// `x NOT IN (q)` as a condition: no row of `q` is equal to `x`, or might be.
fn not_exists(predicate: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery: inner, .. } = predicate;
    let plan = inner.subquery.as_ref().clone();
    let equal = column_of(&plan).eq(outer(&expr, schema)?);
    let plan = LogicalPlanBuilder::from(plan).filter(Expr::IsNotFalse(Box::new(equal)))?.build()?;
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

/// `x IN (q)` as a value: true if a row is equal, null if one might be, otherwise false.
fn in_by_counts(predicate: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery: inner, negated } = predicate;
    let plan = inner.subquery.as_ref().clone();
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
