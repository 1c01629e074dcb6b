//! The two zeros of a float are one value, as SQL has it, where DataFusion compares bits: in the sets that it
//! makes of long lists, and in the keys of windows.
//!
//! Stored floats have one zero. See `canonical_floats` of the storage. The other one comes from computing, as
//! in `-x`. Comparisons, joins and groups of DataFusion take both for equal.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};

use crate::analysis::rewrite_expressions;

/// The rule for windows; runs before DataFusion optimizes.
#[derive(Debug)]
pub(crate) struct WindowZeros;

impl AnalyzerRule for WindowZeros {
    fn name(&self) -> &str {
        "window_zeros"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_expressions(plan, &one_zero_in_keys, &|plan| Ok(Transformed::no(plan)))
    }
}

/// Adds zero to the float keys of a window, which makes the negative zero a positive one.
fn one_zero_in_keys(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expr else {
        return Ok(Transformed::no(expr));
    };
    let mut changed = false;
    let params = &mut window.params;
    let keys = params.partition_by.iter_mut().chain(params.order_by.iter_mut().map(|sort| &mut sort.expr));
    for key in keys {
        let zero = match key.get_type(schema) {
            Ok(DataType::Float32) => lit(0_f32),
            Ok(DataType::Float64) => lit(0_f64),
            _ => continue,
        };
        *key = std::mem::take(key) + zero;
        changed = true;
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(window), changed))
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
