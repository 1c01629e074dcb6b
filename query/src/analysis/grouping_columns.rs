//! The keys of grouping sets are columns. The engine finds the key of a set by its expression, and loses it
//! when a rule rewrites that. So keys are computed below the aggregate, under the names that they had.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, Projection};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    match node {
        LogicalPlan::Aggregate(aggregate) => matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]),
        _ => false,
    }
}

/// The rule; runs before all others.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = plan else {
        return Ok(Transformed::no(plan));
    };
    let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let is_computed = |expr: &&&Expr| !matches!(expr, Expr::Column(_)) && !expr.is_volatile();
    let keys = sets.distinct_expr();
    let computed: Vec<Expr> = keys.iter().filter(is_computed).map(|key| (*key).clone()).collect();
    if computed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let column = |key: &Expr| Expr::Column(Column::new_unqualified(key.schema_name().to_string()));
    let named = |key: Expr| if computed.contains(&key) { column(&key) } else { key };
    let list = |keys: Vec<Expr>| keys.into_iter().map(named).collect();
    let sets = match sets.clone() {
        GroupingSet::Rollup(keys) => GroupingSet::Rollup(list(keys)),
        GroupingSet::Cube(keys) => GroupingSet::Cube(list(keys)),
        GroupingSet::GroupingSets(sets) => GroupingSet::GroupingSets(sets.into_iter().map(list).collect()),
    };
    let in_grouping_calls = |expr: Expr| {
        expr.transform(|expr| match expr {
            Expr::AggregateFunction(AggregateFunction { func, mut params }) if func.name() == "grouping" => {
                params.args = params.args.into_iter().map(named).collect();
                Ok(Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params })))
            }
            expr => Ok(Transformed::no(expr)),
        })
        .data()
    };
    let names: Vec<String> = aggregate.aggr_expr.iter().map(|e| e.schema_name().to_string()).collect();
    let aggregates = aggregate.aggr_expr.into_iter().zip(names).map(|(expr, name)| {
        let rewritten = in_grouping_calls(expr)?;
        Ok(if rewritten.schema_name().to_string() == name { rewritten } else { rewritten.alias(name) })
    });
    let aggregates = aggregates.collect::<Result<Vec<_>>>()?;
    let inputs = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let keys = computed.iter().map(|key| key.clone().alias(key.schema_name().to_string()));
    let input = Projection::try_new(inputs.chain(keys).collect(), aggregate.input)?;
    let input = Arc::new(LogicalPlan::Projection(input));
    let plan = Aggregate::try_new(input, vec![Expr::GroupingSet(sets)], aggregates)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(plan)))
}
