//! The partitions of windows are those of columns, just before a plan becomes physical.
//!
//! DataFusion infers from the rows below a window that they are sorted by its keys. The inference fails for
//! some keys that are computed, and such a window ends with "Expects PARTITION BY expression to be ordered".
//! Keys that are constants make no partitions; the others are computed below the window.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Window};

/// Makes the keys by which windows partition columns.
///
/// # Errors
/// Those of building plans, which only a fault in the rule could cause.
pub(super) fn partition_by_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Window(window) => with_columns(window),
        plan => Ok(Transformed::no(plan)),
    })?;
    Ok(plan.data)
}

fn with_columns(window: Window) -> Result<Transformed<LogicalPlan>> {
    let plan = LogicalPlan::Window(window);
    let columns = plan.schema().columns();
    let preserver = NamePreserver::new(&plan);
    let mut computed: Vec<Expr> = Vec::new();
    let mut is_changed = false;
    let plan = plan.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let expr = expr.transform_up(|expr| {
            let Expr::WindowFunction(mut window) = expr else {
                return Ok(Transformed::no(expr));
            };
            let keys = &mut window.params.partition_by;
            let before = keys.len();
            keys.retain(|key| !matches!(key, Expr::Literal(..)));
            let mut changed = keys.len() < before;
            for key in keys.iter_mut().filter(|key| !matches!(key, Expr::Column(_))) {
                let index = computed.iter().position(|known| known == key).unwrap_or(computed.len());
                let key = std::mem::replace(key, Expr::Column(key_column(index)));
                if index == computed.len() {
                    computed.push(key);
                }
                changed = true;
            }
            is_changed |= changed;
            Ok(Transformed::new_transformed(Expr::WindowFunction(window), changed))
        })?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    let LogicalPlan::Window(Window { input, window_expr, .. }) = plan.data else {
        return Ok(plan);
    };
    if !is_changed {
        return Ok(Transformed::no(LogicalPlan::Window(Window::try_new(window_expr, input)?)));
    }
    let mut builder = LogicalPlanBuilder::from(input);
    if !computed.is_empty() {
        let inputs = builder.schema().columns().into_iter().map(Expr::Column);
        let keys = computed.into_iter().enumerate().map(|(index, key)| key.alias(key_column(index).name));
        builder = builder.project(inputs.chain(keys).collect::<Vec<_>>())?;
    }
    let plan = builder.window(window_expr)?.project(columns.into_iter().map(Expr::Column))?.build()?;
    Ok(Transformed::yes(plan))
}

/// The column of a computed key.
fn key_column(index: usize) -> Column {
    Column::new_unqualified(format!("$partition_{index}"))
}
