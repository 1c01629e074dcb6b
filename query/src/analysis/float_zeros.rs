//! The two zeros of a float are one value, as SQL has it, where DataFusion compares bits: in the sets that it
//! makes of long lists, in the keys of windows, and in functions that compare values or items.
//!
//! Stored floats have one zero. See `canonical_floats` of the storage. The other one comes from computing, as
//! in `-x`. Comparisons, joins and groups of DataFusion take both for equal.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Functions that compare their arguments with each other or with items, and those that make items.
const COMPARING: [&str; 11] = [
    "nullif",
    "make_array",
    "array_append",
    "array_prepend",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_replace",
    "array_replace_all",
    "array_has",
];

/// Adds zero to floats that are compared, which makes the negative zero a positive one.
pub(crate) fn with_one_zero(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let compared: Vec<&mut Expr> = match &mut expr {
        Expr::WindowFunction(window) => {
            let params = &mut window.params;
            let orders = params.order_by.iter_mut().map(|sort| &mut sort.expr);
            params.partition_by.iter_mut().chain(orders).collect()
        }
        Expr::ScalarFunction(call) if COMPARING.contains(&call.name()) => call.args.iter_mut().collect(),
        _ => vec![],
    };
    let mut changed = false;
    for value in compared {
        let zero = match value.get_type(schema) {
            Ok(DataType::Float32) => lit(0_f32),
            Ok(DataType::Float64) => lit(0_f64),
            _ => continue,
        };
        *value = std::mem::take(value) + zero;
        changed = true;
    }
    Ok(Transformed::new_transformed(expr, changed))
}

/// The rule for lists; runs when constants are folded.
#[derive(Debug)]
pub(crate) struct ListZeros;

impl OptimizerRule for ListZeros {
    fn name(&self) -> &str {
        "list_zeros"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(both_zeros_in_list)?.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Adds the other zero to a list of constants that has one.
fn both_zeros_in_list(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::InList(mut in_list) = expr else {
        return Ok(Transformed::no(expr));
    };
    let constants = || in_list.list.iter().filter_map(Expr::as_literal);
    let others: Vec<ScalarValue> =
        constants().filter_map(other_zero).filter(|other| !constants().any(|c| c == other)).collect();
    let changed = !others.is_empty();
    in_list.list.extend(others.into_iter().map(lit));
    Ok(Transformed::new_transformed(Expr::InList(in_list), changed))
}

/// The other zero, if a value is one.
fn other_zero(value: &ScalarValue) -> Option<ScalarValue> {
    match value {
        ScalarValue::Float32(Some(zero)) if *zero == 0.0 => Some(ScalarValue::Float32(Some(-zero))),
        ScalarValue::Float64(Some(zero)) if *zero == 0.0 => Some(ScalarValue::Float64(Some(-zero))),
        _ => None,
    }
}
