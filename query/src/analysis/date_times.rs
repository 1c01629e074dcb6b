//! Arithmetic of dates and times as in PostgreSQL and DuckDB.
//!
//! A date and an interval with a time make a timestamp: DataFusion drops the time (apache/datafusion#19527).
//! The difference of timestamps has days, and its fields and its `epoch` are those of an interval. The
//! present time has microseconds, so that they can be compared with all
//! years from 1 to 9999. So has `to_timestamp` of a double.

use std::sync::Arc;

use crate::analysis::is_call;
use crate::analysis::typed::typed;
use arrow::array::{AsArray, IntervalMonthDayNanoArray};
use arrow::compute::cast as cast_array;
use arrow::datatypes::{Int64Type, IntervalMonthDayNano};
use arrow_schema::{ArrowError, DataType, IntervalUnit, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::functions::math::round;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast, lit,
};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    let is_sum = |op| matches!(op, Operator::Plus | Operator::Minus);
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op, .. }) if is_sum(*op))
        || is_call(expr, &["date_part", "to_timestamp", "now"])
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let type_of = |expr: &Expr| expr.get_type(schema).unwrap_or(DataType::Null);
    match expr {
        Expr::BinaryExpr(BinaryExpr { mut left, op: op @ (Operator::Plus | Operator::Minus), mut right }) => {
            let is_date = |side: &Expr| type_of(side) == DataType::Date32;
            let has_time =
                |side: &Expr| matches!(type_of(side), DataType::Interval(_)) && !is_whole_days(side);
            let side = match (is_date(&left), is_date(&right)) {
                (true, false) if has_time(&right) => &mut left,
                (false, true) if has_time(&left) && op == Operator::Plus => &mut right,
                _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            };
            **side = cast(std::mem::take(side.as_mut()), microseconds(None));
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
        }
        Expr::ScalarFunction(mut call) if call.name() == "date_part" => match call.args.as_mut_slice() {
            [_, value] if matches!(type_of(value), DataType::Duration(_)) => {
                let duration = std::mem::take(value);
                *value = ScalarUDF::from(DurationInterval::default()).call(vec![duration]);
                Ok(Transformed::yes(Expr::ScalarFunction(call)))
            }
            // DataFusion makes ranges of timestamps of ranges of years, which miss those that the type does
            // not hold, and hours that a zone skips (apache/datafusion#25135).
            [_, value]
                if matches!(
                    type_of(value),
                    DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Timestamp(_, Some(_))
                ) =>
            {
                Ok(Transformed::yes(typed(Expr::ScalarFunction(call))))
            }
            _ => Ok(Transformed::no(Expr::ScalarFunction(call))),
        },
        // DataFusion counts nanoseconds, and takes the last one for all seconds beyond.
        Expr::ScalarFunction(call) if call.name() == "to_timestamp" && is_floating(&call.args, &type_of) => {
            let seconds = call.args[0].clone();
            let zone = match type_of(&Expr::ScalarFunction(call)) {
                DataType::Timestamp(_, zone) => zone,
                _ => None,
            };
            let count = round().call(vec![seconds * lit(1e6)]);
            Ok(Transformed::yes(cast(cast(count, DataType::Int64), microseconds(zone))))
        }
        Expr::ScalarFunction(call) if call.name() == "now" => {
            let expr = Expr::ScalarFunction(call);
            match type_of(&expr) {
                DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                    Ok(Transformed::yes(cast(expr, microseconds(zone))))
                }
                _ => Ok(Transformed::no(expr)),
            }
        }
        expr => Ok(Transformed::no(expr)),
    }
}

fn is_floating(args: &[Expr], type_of: &impl Fn(&Expr) -> DataType) -> bool {
    matches!(args, [arg] if type_of(arg).is_floating())
}

fn microseconds(zone: Option<Arc<str>>) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zone)
}

/// Whether an interval is a constant without a time.
fn is_whole_days(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalYearMonth(_), _) => true,
        Expr::Literal(ScalarValue::IntervalDayTime(interval), _) => {
            interval.is_none_or(|interval| interval.milliseconds == 0)
        }
        Expr::Literal(ScalarValue::IntervalMonthDayNano(interval), _) => {
            interval.is_none_or(|interval| interval.nanoseconds == 0)
        }
        Expr::Cast(Cast { expr, field }) => match expr.as_ref() {
            Expr::Literal(text @ ScalarValue::Utf8(_), metadata) => text
                .cast_to(field.data_type())
                .is_ok_and(|interval| is_whole_days(&Expr::Literal(interval, metadata.clone()))),
            inner => is_whole_days(inner),
        },
        Expr::Negative(inner) => is_whole_days(inner),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            is_whole_days(left) && is_whole_days(right)
        }
        _ => false,
    }
}

/// `$duration_interval(d)`: a duration as an interval of days and a time.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct DurationInterval(Signature);

impl Default for DurationInterval {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl ScalarUDFImpl for DurationInterval {
    fn name(&self) -> &str {
        "$duration_interval"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Interval(IntervalUnit::MonthDayNano))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [duration] = args.args.as_slice() else {
            return exec_err!("{} takes one duration", self.name());
        };
        let durations = duration.to_array(args.number_rows)?;
        let per_second = match durations.data_type() {
            DataType::Duration(TimeUnit::Second) => 1,
            DataType::Duration(TimeUnit::Millisecond) => 1_000,
            DataType::Duration(TimeUnit::Microsecond) => 1_000_000,
            _ => NANOS_PER_SECOND,
        };
        let (per_day, nanos) = (SECONDS_PER_DAY * per_second, NANOS_PER_SECOND / per_second);
        let counts = cast_array(&durations, &DataType::Int64)?;
        let intervals: IntervalMonthDayNanoArray = counts.as_primitive::<Int64Type>().try_unary(|count| {
            let days = i32::try_from(count / per_day);
            let days = days.map_err(|_| ArrowError::CastError(format!("{count} is too long a duration")))?;
            Ok::<_, ArrowError>(IntervalMonthDayNano::new(0, days, count % per_day * nanos))
        })?;
        Ok(ColumnarValue::Array(Arc::new(intervals)))
    }
}
