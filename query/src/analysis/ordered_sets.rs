//! Aggregates with `ORDER BY` beside others in another order.
//!
//! DataFusion computes all of them over rows in one order, reverses it for some, and forgets `DISTINCT` when
//! it does (apache/datafusion#22597), or refuses `string_agg` in two orders. Here the values of a set are
//! sorted after they are collected, and texts are joined after that.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_nested::expr_fn::{array_sort, array_to_string};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, lit};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(_))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = plan else {
        return Ok(Transformed::no(plan));
    };
    let orders: Vec<&Vec<Sort>> =
        aggregate.aggr_expr.iter().filter_map(order_of).filter(|order| !order.is_empty()).collect();
    match orders.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        false => collect_lists(aggregate, |expr, index, _| as_list(expr, index)).map(Transformed::yes),
    }
}

/// Makes two steps of the aggregates for which `as_list` returns an aggregate that collects a list, and what
/// is made of that list. It gets an aggregate, its index, and the type of its value.
pub(crate) fn collect_lists(
    aggregate: Aggregate,
    as_list: impl Fn(&Expr, usize, &DataType) -> Option<(Expr, Expr)>,
) -> Result<LogicalPlan> {
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
    let groups = schema.fields().len() - aggr_expr.len();
    let (mut collected, mut finished) = (Vec::new(), Vec::new());
    for (index, expr) in aggr_expr.into_iter().enumerate() {
        let name = expr.schema_name().to_string();
        match as_list(&expr, index, schema.field(groups + index).data_type()) {
            Some((list, value)) => {
                collected.push(list);
                finished.push(value.alias(name));
            }
            None => {
                collected.push(expr);
                finished.push(Expr::Column(Column::new_unqualified(name)));
            }
        }
    }
    // The engine replaces `grouping(...)` by the number of the set, which nothing above then has to know.
    let has_grouping = collected.iter().any(is_grouping);
    let is_shown = |column: &Column| !has_grouping || column.name != Aggregate::INTERNAL_GROUPING_ID;
    let groups = schema.columns().into_iter().take(groups).filter(is_shown);
    let groups: Vec<Expr> = groups.map(Expr::Column).collect();
    let plan = LogicalPlanBuilder::from(input).aggregate(group_expr, collected)?;
    plan.project(groups.into_iter().chain(finished))?.build()
}

fn is_grouping(expr: &Expr) -> bool {
    match expr {
        Expr::AggregateFunction(function) => function.func.name() == "grouping",
        Expr::Alias(alias) => is_grouping(&alias.expr),
        _ => false,
    }
}

fn order_of(expr: &Expr) -> Option<&Vec<Sort>> {
    match expr {
        Expr::AggregateFunction(function) => Some(&function.params.order_by),
        Expr::Alias(alias) => order_of(&alias.expr),
        _ => None,
    }
}

/// An aggregate of a set, or of texts, as an aggregate that collects a list, and the value of that list.
fn as_list(expr: &Expr, index: usize) -> Option<(Expr, Expr)> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return None;
    };
    let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
    let (is_text, value, separator) = match (func.name(), args.as_slice()) {
        ("array_agg", [value]) if *distinct => (false, value, None),
        ("string_agg", [value, separator]) => (true, value, Some(separator)),
        _ => return None,
    };
    if order_by.is_empty() {
        return None;
    }
    let has_value = value.clone().is_not_null();
    let filter = match (is_text, filter) {
        (true, Some(filter)) => Some(Box::new(filter.as_ref().clone().and(has_value))),
        (true, None) => Some(Box::new(has_value)),
        (false, filter) => filter.clone(),
    };
    let name = format!("$list_{index}");
    let params = AggregateFunctionParams {
        args: vec![value.clone()],
        distinct: *distinct,
        filter,
        order_by: if *distinct { vec![] } else { order_by.clone() },
        null_treatment: *null_treatment,
    };
    let list = Expr::AggregateFunction(AggregateFunction { func: array_agg_udaf(), params }).alias(&name);
    let mut collected = Expr::Column(Column::new_unqualified(name));
    if *distinct {
        // The order of a set is that of its values; another one is not known for them.
        let [Sort { expr, asc, nulls_first }] = order_by.as_slice() else {
            return None;
        };
        if expr != value {
            return None;
        }
        let direction = if *asc { "ASC" } else { "DESC" };
        let nulls = if *nulls_first { "NULLS FIRST" } else { "NULLS LAST" };
        collected = array_sort(collected, lit(direction), lit(nulls));
    }
    Some((
        list,
        match separator {
            Some(separator) => array_to_string(collected, separator.clone()),
            None => collected,
        },
    ))
}
