//! Aggregates whose result does not depend on an order ignore one: `avg(v ORDER BY k)`. DataFusion hands them
//! the key as a further argument, and panics. See apache/datafusion#25401.
//!
//! Those that would ignore `DISTINCT` refuse it (apache/datafusion#25288), and so does `bit_xor`,
//! which has no state for it in groups (apache/datafusion#24989).

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::analysis::nested_order::has_order;

const UNORDERED: [&str; 17] = [
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

const NEVER_DISTINCT: [&str; 16] = [
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "bit_xor",
    "corr",
    "covar_pop",
    "covar_samp",
    "nth_value",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
];

/// The name of a function that is called with `DISTINCT` and would ignore it.
fn ignores_distinct(expr: &Expr) -> Option<&str> {
    let (name, distinct) = match expr {
        Expr::AggregateFunction(call) => (call.func.name(), call.params.distinct),
        Expr::WindowFunction(call) => (call.fun.name(), call.params.distinct),
        _ => return None,
    };
    NEVER_DISTINCT.contains(&name).then_some(name).filter(|_| distinct)
}

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::AggregateFunction(call) if UNORDERED.contains(&call.func.name()))
        || ignores_distinct(expr).is_some()
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Some(name) = ignores_distinct(&expr) {
        return plan_err!("{name}: DISTINCT is not supported: call it over the rows of a SELECT DISTINCT");
    }
    // Those of lists and structs become the first of an order.
    let is_nested = |arg: &Expr| arg.get_type(schema).is_ok_and(|data_type| has_order(&data_type));
    Ok(match expr {
        Expr::AggregateFunction(mut call)
            if UNORDERED.contains(&call.func.name())
                && !call.params.order_by.is_empty()
                && !call.params.args.iter().any(is_nested) =>
        {
            call.params.order_by.clear();
            Transformed::yes(Expr::AggregateFunction(call))
        }
        expr => Transformed::no(expr),
    })
}
