//! `date_trunc` and `date_bin` of all timestamps. DataFusion computes both in nanoseconds: `date_trunc` fails
//! outside the years 1677 to 2262, `date_bin` is null there, and a constant before 1970 is truncated towards
//! zero (apache/datafusion#25425).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::{cast, try_binary};
use arrow::datatypes::Int64Type;
use arrow_schema::{ArrowError, DataType, TimeUnit};
use chrono::{Datelike, NaiveDate, TimeDelta};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, cast as cast_expr,
};

use crate::analysis::is_call;
use crate::time_zones::{clocks_of, instants_of};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    is_call(expr, &["date_trunc", "date_bin"])
}

/// The rule before types are coerced: dates have microseconds, which hold all of them, and what is binned in
/// nanoseconds has to fit.
pub(crate) fn widen(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else {
        return Ok(Transformed::no(expr));
    };
    let Some(value) = call.args.get(1) else {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    };
    let (name, data_type) = (call.name().to_owned(), value.get_type(schema).unwrap_or(DataType::Null));
    let with_unit = |unit, zone| DataType::Timestamp(unit, zone);
    match (name.as_str(), data_type) {
        ("date_trunc", DataType::Date32 | DataType::Date64) => {
            let date = std::mem::take(&mut call.args[1]);
            call.args[1] = cast_expr(date, with_unit(TimeUnit::Microsecond, None));
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        ("date_bin", DataType::Timestamp(unit, zone)) if unit != TimeUnit::Nanosecond => {
            let timestamp = std::mem::take(&mut call.args[1]);
            call.args[1] = cast_expr(timestamp, with_unit(TimeUnit::Nanosecond, zone.clone()));
            Ok(Transformed::yes(cast_expr(Expr::ScalarFunction(call), with_unit(unit, zone))))
        }
        _ => Ok(Transformed::no(Expr::ScalarFunction(call))),
    }
}

/// The rule when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else {
        return Ok(Transformed::no(expr));
    };
    let is_ours = match (call.name(), call.args.as_slice()) {
        ("date_trunc", [part, value]) => {
            let part = part.as_literal().and_then(|part| part.try_as_str().flatten()).and_then(Part::of);
            part.is_some() && matches!(value.get_type(schema)?, DataType::Timestamp(..))
        }
        _ => false,
    };
    if is_ours {
        call.func = Arc::new(ScalarUDF::from(DateTrunc::default()));
    }
    Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_ours))
}

/// To what a timestamp is truncated: so many nanoseconds, weeks from Monday, or so many months.
#[derive(Clone, Copy, Debug)]
enum Part {
    Nanos(i64),
    Week,
    Months(i32),
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const NANOS_PER_DAY: i64 = 24 * 60 * 60 * NANOS_PER_SECOND;

impl Part {
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "nanosecond" | "nanoseconds" => Self::Nanos(1),
            "microsecond" | "microseconds" => Self::Nanos(1_000),
            "millisecond" | "milliseconds" => Self::Nanos(1_000_000),
            "second" => Self::Nanos(NANOS_PER_SECOND),
            "minute" => Self::Nanos(60 * NANOS_PER_SECOND),
            "hour" => Self::Nanos(60 * 60 * NANOS_PER_SECOND),
            "day" => Self::Nanos(NANOS_PER_DAY),
            "week" => Self::Week,
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            "decade" => Self::Months(120),
            _ => return None,
        })
    }

    /// Truncates a clock, in units of which there are so many a second.
    fn truncate(self, clock: i64, per_second: i64) -> Option<i64> {
        let per_day = per_second * (NANOS_PER_DAY / NANOS_PER_SECOND);
        match self {
            Self::Nanos(nanos) => {
                let step = nanos / (NANOS_PER_SECOND / per_second);
                clock.checked_sub(clock.rem_euclid(step.max(1)))
            }
            Self::Week => {
                // The first of January 1970 was a Thursday.
                let days = clock.div_euclid(per_day);
                (days - (days + 3).rem_euclid(7)).checked_mul(per_day)
            }
            Self::Months(months) => {
                let epoch = NaiveDate::default();
                let date = epoch.checked_add_signed(TimeDelta::try_days(clock.div_euclid(per_day))?)?;
                let month = date.year() * 12 + date.month0() as i32;
                let month = month - month.rem_euclid(months);
                let first =
                    NaiveDate::from_ymd_opt(month.div_euclid(12), month.rem_euclid(12) as u32 + 1, 1)?;
                (first - epoch).num_days().checked_mul(per_day)
            }
        }
    }
}

/// `$date_trunc(part, timestamp)`.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct DateTrunc(Signature);

impl Default for DateTrunc {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        "$date_trunc"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, timestamp] => Ok(timestamp.clone()),
            _ => exec_err!("{} takes a part and a timestamp", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<arrow_schema::FieldRef> {
        match args.arg_fields {
            [_, timestamp] => Ok(timestamp.clone()),
            _ => exec_err!("{} takes a part and a timestamp", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(part), value] = args.args.as_slice() else {
            return exec_err!("{} takes a constant part and a timestamp", self.name());
        };
        let part = part.try_as_str().flatten().and_then(Part::of);
        match (part, value) {
            (Some(part), ColumnarValue::Array(values)) => truncate(values, part).map(ColumnarValue::Array),
            (Some(part), ColumnarValue::Scalar(value)) => {
                let truncated = truncate(&value.to_array()?, part)?;
                ScalarValue::try_from_array(&truncated, 0).map(ColumnarValue::Scalar)
            }
            _ => exec_err!("{} takes a constant part and a timestamp", self.name()),
        }
    }
}

/// Timestamps truncated by the clocks of their zone.
fn truncate(values: &ArrayRef, part: Part) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, zone) = values.data_type() else {
        return exec_err!("{} is no timestamp", values.data_type());
    };
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NANOS_PER_SECOND,
    };
    let clocks = match zone {
        Some(zone) => clocks_of(values, zone)?,
        None => values.clone(),
    };
    let numbers = |array: &ArrayRef| -> Result<PrimitiveArray<Int64Type>> {
        Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    };
    let clock_numbers = numbers(&clocks)?;
    let out_of_range =
        |clock: i64| ArrowError::ComputeError(format!("{clock} is out of the range of timestamps"));
    let truncated: PrimitiveArray<Int64Type> = clock_numbers
        .try_unary(|clock| part.truncate(clock, per_second).ok_or_else(|| out_of_range(clock)))?;
    match (zone, part) {
        (None, _) => Ok(cast(&truncated, values.data_type())?),
        // An hour that a zone repeats stays the one that it is.
        (Some(_), Part::Nanos(nanos)) if nanos < NANOS_PER_DAY => {
            let cut: PrimitiveArray<Int64Type> =
                try_binary(&clock_numbers, &truncated, |clock, truncated| Ok(clock - truncated))?;
            let instants: PrimitiveArray<Int64Type> = try_binary(&numbers(values)?, &cut, |instant, cut| {
                instant.checked_sub(cut).ok_or_else(|| out_of_range(instant))
            })?;
            Ok(cast(&instants, values.data_type())?)
        }
        (Some(zone), _) => {
            let clocks = cast(&truncated, &DataType::Timestamp(*unit, None))?;
            instants_of(&clocks, zone)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_all_years() {
        let clock = |text: &str| chrono_clock(text);
        for (part, text, expected) in [
            ("millisecond", "1969-12-31T23:59:59.999001", "1969-12-31T23:59:59.999"),
            ("month", "2500-10-15T12:00:00", "2500-10-01T00:00:00"),
            ("week", "0001-01-04T01:00:00", "0001-01-01T00:00:00"),
            ("quarter", "9999-12-31T23:59:59", "9999-10-01T00:00:00"),
            ("decade", "1582-10-15T00:00:00", "1580-01-01T00:00:00"),
            ("hour", "1969-12-31T23:59:59.999001", "1969-12-31T23:00:00"),
        ] {
            let part = Part::of(part).unwrap();
            assert_eq!(part.truncate(clock(text), 1_000_000), Some(clock(expected)), "{part:?} of {text}");
        }
        assert_eq!(Part::Nanos(1_000).truncate(-7, 1), Some(-7));
        assert_eq!(Part::Months(1).truncate(i64::MIN, 1_000_000), None);
    }

    fn chrono_clock(text: &str) -> i64 {
        text.parse::<chrono::NaiveDateTime>().unwrap().and_utc().timestamp_micros()
    }
}
