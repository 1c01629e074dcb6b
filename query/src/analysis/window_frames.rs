//! Windows in the order of any type. The frame of a window without one reaches from the first row of the
//! partition to the last peer of the current row, by `RANGE` in DataFusion, which wants keys that it can add
//! to, and fails for times, bytes and structs. `GROUPS` with the same bounds has the same rows.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{Expr, ExprSchemable, WindowFrame, WindowFrameBound, WindowFrameUnits};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::WindowFunction(_))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expr else {
        return Ok(Transformed::no(expr));
    };
    let frame = &window.params.window_frame;
    let has_ranges = match window.params.order_by.first() {
        Some(key) => has_ranges(&key.expr.get_type(schema)?),
        None => true,
    };
    let is_range = frame.units == WindowFrameUnits::Range;
    let rewrites =
        !has_ranges && is_range && has_no_distance(&frame.start_bound) && has_no_distance(&frame.end_bound);
    if rewrites {
        window.params.window_frame = WindowFrame::new_bounds(
            WindowFrameUnits::Groups,
            frame.start_bound.clone(),
            frame.end_bound.clone(),
        );
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(window), rewrites))
}

/// Whether DataFusion has ranges of a type.
fn has_ranges(data_type: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, FixedSizeList, LargeList, LargeUtf8, List, Null, Timestamp, Utf8, Utf8View,
    };
    let is_known = matches!(
        data_type,
        Boolean
            | Null
            | Utf8
            | LargeUtf8
            | Utf8View
            | List(_)
            | FixedSizeList(..)
            | LargeList(_)
            | Date32
            | Date64
            | Timestamp(..)
    );
    is_known || data_type.is_numeric()
}

/// Whether a bound is that of the partition or of the current row.
fn has_no_distance(bound: &WindowFrameBound) -> bool {
    match bound {
        WindowFrameBound::Preceding(rows) | WindowFrameBound::Following(rows) => rows.is_null(),
        WindowFrameBound::CurrentRow => true,
    }
}
