//! Aggregates whose result does not depend on an order ignore one: `avg(v ORDER BY k)`. DataFusion hands them
//! the key as a further argument, and panics. See apache/datafusion#25401.

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
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

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::AggregateFunction(call) if UNORDERED.contains(&call.func.name()))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
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
