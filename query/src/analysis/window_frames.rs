//! Windows in the order of any type. The frame of a window without one reaches from the first row of the
//! partition to the last peer of the current row, by `RANGE` in DataFusion, which wants keys that it can add
//! to, and fails for times, bytes and structs. `GROUPS` with the same bounds has the same rows.
//!
//! Distances are as large as they are written: DataFusion takes one that the type of the key does not hold
//! for `UNBOUNDED`, lets sums of key and distance overflow into the nulls, and wraps around numbers of rows.

use arrow_schema::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::{Expr, ExprSchemable, WindowFrame, WindowFrameBound, WindowFrameUnits, cast};
use plexus_storage::sql_name;

/// More rows than a partition has.
const ROWS_MAX: u64 = 1 << 40;

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
    if is_range && let Some(key) = window.params.order_by.first() {
        let data_type = key.expr.get_type(schema)?;
        distances(&mut window.params.window_frame.clone()).try_for_each(|d| check_distance(d, &data_type))?;
    }
    let rewrites =
        !has_ranges && is_range && has_no_distance(&frame.start_bound) && has_no_distance(&frame.end_bound);
    if rewrites {
        window.params.window_frame = WindowFrame::new_bounds(
            WindowFrameUnits::Groups,
            frame.start_bound.clone(),
            frame.end_bound.clone(),
        );
    }
    let widened = widen_key(&mut window.params, schema)?;
    let bounded = bound_rows(&mut window.params.window_frame);
    Ok(Transformed::new_transformed(Expr::WindowFunction(window), rewrites || widened || bounded))
}

/// The distances of a frame, as they are written.
fn distances(frame: &mut WindowFrame) -> impl Iterator<Item = &mut String> {
    [&mut frame.start_bound, &mut frame.end_bound].into_iter().filter_map(|bound| match bound {
        WindowFrameBound::Preceding(ScalarValue::Utf8(Some(distance)))
        | WindowFrameBound::Following(ScalarValue::Utf8(Some(distance))) => Some(distance),
        _ => None,
    })
}

/// Fails for a distance that keys do not have: DataFusion takes it for `UNBOUNDED`, or for months.
fn check_distance(distance: &str, key: &DataType) -> Result<()> {
    let is_number = !distance.contains(|c: char| c.is_ascii_alphabetic() && !c.eq_ignore_ascii_case(&'e'));
    match key {
        key if key.is_numeric() || key.is_null() => Ok(()),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) if !is_number => Ok(()),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => plan_err!(
            "RANGE {distance} in an order of times: an interval with a unit is needed, as INTERVAL '1 day'"
        ),
        _ => plan_err!(
            "RANGE {distance} in an order of {}: only numbers, dates and timestamps have distances; use \
             ROWS or GROUPS",
            sql_name(key)
        ),
    }
}

/// Gives the key of a range a type that holds the sum of each value and the distances.
///
/// # Errors
/// When no type does.
fn widen_key(params: &mut WindowFunctionParams, schema: &DFSchema) -> Result<bool> {
    let (Some(key), WindowFrameUnits::Range) = (params.order_by.first_mut(), params.window_frame.units)
    else {
        return Ok(false);
    };
    let data_type = key.expr.get_type(schema)?;
    let (mut digits, mut scale) = match &data_type {
        integer if integer.is_integer() => (digits_of(integer), 0),
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            (usize::from(*precision) - *scale as usize, *scale as usize)
        }
        DataType::Float16 | DataType::Float32 => (0, 0),
        _ => return Ok(false),
    };
    let mut has_distance = false;
    for distance in distances(&mut params.window_frame) {
        let (whole, fraction) = distance.split_once('.').unwrap_or((distance, ""));
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Ok(false);
        }
        (digits, scale) = (digits.max(whole.len()), scale.max(fraction.len()));
        has_distance = true;
    }
    if !has_distance {
        return Ok(false);
    }
    // A sum may have a digit more.
    let wide = match digits + 1 + scale {
        _ if data_type.is_floating() => DataType::Float64,
        0..=18 if scale == 0 && data_type.is_integer() => DataType::Int64,
        0..=38 => DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale as i8),
        39..=76 => DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale as i8),
        digits => {
            return plan_err!("RANGE: the sum of the key and a distance has {digits} digits, more than 76");
        }
    };
    if wide == data_type {
        return Ok(false);
    }
    key.expr = cast(key.expr.clone(), wide);
    Ok(true)
}

/// Most digits of an integer type.
fn digits_of(integer: &DataType) -> usize {
    match integer.primitive_width() {
        Some(1) => 3,
        Some(2) => 5,
        Some(4) => 10,
        _ => 20,
    }
}

/// Makes distances of rows and groups that are longer than any partition no longer than that.
fn bound_rows(frame: &mut WindowFrame) -> bool {
    let mut bounded = false;
    for bound in [&mut frame.start_bound, &mut frame.end_bound] {
        if let WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows)))
        | WindowFrameBound::Following(ScalarValue::UInt64(Some(rows))) = bound
            && *rows > ROWS_MAX
        {
            *rows = ROWS_MAX;
            bounded = true;
        }
    }
    bounded
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
