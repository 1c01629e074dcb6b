//! Recursive terms of another type than the first rows: `WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT
//! n * 1.5 FROM t ...)`. DataFusion casts their values to the type of the first rows, and cuts off what does
//! not fit. As in PostgreSQL, this is an error.
//!
//! The values of recursive terms are marked by [`TYPED`]. A cast in front of a mark, or of a column, is one
//! that DataFusion added.

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, Projection, RecursiveQuery};
use plexus_storage::sql_name;

use crate::analysis::typed::TYPED;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::RecursiveQuery(_))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::RecursiveQuery(mut query) = node else {
        return Ok(Transformed::no(node));
    };
    let LogicalPlan::Projection(term) = query.recursive_term.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::RecursiveQuery(query)));
    };
    check_types(&query, term)?;
    let preserver = NamePreserver::new_for_projection();
    let exprs = term.expr.iter().map(|expr| {
        let saved = preserver.save(expr);
        unmarked(expr.clone()).map(|expr| saved.restore(expr))
    });
    let exprs = exprs.collect::<Result<_>>()?;
    let term = Projection::try_new_with_schema(exprs, term.input.clone(), term.schema.clone())?;
    query.recursive_term = LogicalPlan::Projection(term).into();
    Ok(Transformed::yes(LogicalPlan::RecursiveQuery(query)))
}

fn check_types(query: &RecursiveQuery, term: &Projection) -> Result<()> {
    for (expr, field) in term.expr.iter().zip(query.static_term.schema().fields()) {
        let Expr::Cast(Cast { expr: value, field: target }) = expr.clone().unalias() else {
            continue;
        };
        let (from, to) = (value.get_type(term.input.schema())?, target.data_type());
        if !keeps(&from, to) {
            return plan_err!(
                "column {:?} of recursive query {:?} is {} in its first rows and {} in those that follow: \
                 cast one of them",
                field.name(),
                query.name,
                sql_name(to),
                sql_name(&from)
            );
        }
    }
    Ok(())
}

/// A value without its mark, which would hide it from other rules.
fn unmarked(expr: Expr) -> Result<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::ScalarFunction(mut call) if call.name() == TYPED && call.args.len() == 1 => {
            Ok(Transformed::yes(call.args.remove(0)))
        }
        expr => Ok(Transformed::no(expr)),
    })
    .data()
}

/// Whether a cast keeps values, or fails.
fn keeps(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (from, to) if from == to => true,
        (Null, _) => true,
        (from, to) if from.is_integer() => to.is_numeric(),
        (Decimal128(_, a) | Decimal256(_, a), Decimal128(_, b) | Decimal256(_, b)) => a <= b,
        (from, to) if from.is_decimal() => to.is_floating(),
        (from, to) if from.is_floating() => {
            to.is_floating() && from.primitive_width() <= to.primitive_width()
        }
        (Date32, Timestamp(..)) => true,
        (Timestamp(from, a), Timestamp(to, b)) => a.is_some() == b.is_some() && digits(*from) <= digits(*to),
        (List(a) | LargeList(a), List(b) | LargeList(b)) => keeps(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| keeps(a.data_type(), b.data_type()))
        }
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (from, to) => from.is_string() && to.is_string(),
    }
}

fn digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}
