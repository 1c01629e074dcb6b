//! `INTERVAL '1 day' * 3`. DataFusion multiplies no intervals.

use std::sync::Arc;

use arrow::array::{Array, AsArray, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Name of the function.
pub const INTERVAL_TIMES: &str = "$interval_times";

/// As in PostgreSQL, a part of a month counts as days of 24 hours, of which a month has 30.
const DAYS_PER_MONTH: f64 = 30.0;
const NANOSECONDS_PER_DAY: f64 = 86_400e9;

/// `$interval_times(interval, number)`: the interval, as often as the number says.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct IntervalTimes(Signature);

impl Default for IntervalTimes {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &str {
        INTERVAL_TIMES
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Interval(IntervalUnit::MonthDayNano))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [intervals, numbers] = args.args.as_slice() else {
            return exec_err!("{INTERVAL_TIMES} takes an interval and a number");
        };
        let (intervals, numbers) =
            (intervals.to_array(args.number_rows)?, numbers.to_array(args.number_rows)?);
        let data_type = numbers.data_type().clone();
        if !data_type.is_numeric() && !data_type.is_null() {
            return exec_err!("an interval times {data_type}: a number is needed");
        }
        let intervals = cast(&intervals, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let is_whole = data_type.is_integer();
        let numbers = cast(&numbers, if is_whole { &DataType::Int64 } else { &DataType::Float64 })?;
        let product = |row: usize| -> Result<Option<IntervalMonthDayNano>> {
            if intervals.is_null(row) || numbers.is_null(row) {
                return Ok(None);
            }
            let interval = intervals.value(row);
            let product = match is_whole {
                true => times_whole(interval, numbers.as_primitive::<Int64Type>().value(row)),
                false => times(interval, numbers.as_primitive::<Float64Type>().value(row)),
            };
            match product {
                Some(product) => Ok(Some(product)),
                None => exec_err!("the product of an interval is out of range"),
            }
        };
        let products = (0..intervals.len()).map(product).collect::<Result<IntervalMonthDayNanoArray>>()?;
        Ok(ColumnarValue::Array(Arc::new(products)))
    }
}

fn times_whole(interval: IntervalMonthDayNano, number: i64) -> Option<IntervalMonthDayNano> {
    let IntervalMonthDayNano { months, days, nanoseconds } = interval;
    let narrow = |part: i32| i64::from(part).checked_mul(number).and_then(|part| i32::try_from(part).ok());
    Some(IntervalMonthDayNano::new(narrow(months)?, narrow(days)?, nanoseconds.checked_mul(number)?))
}

fn times(interval: IntervalMonthDayNano, number: f64) -> Option<IntervalMonthDayNano> {
    let IntervalMonthDayNano { months, days, nanoseconds } = interval;
    let months = f64::from(months) * number;
    let days = f64::from(days) * number + months.fract() * DAYS_PER_MONTH;
    let nanoseconds = (nanoseconds as f64 * number + days.fract() * NANOSECONDS_PER_DAY).round();
    let whole = |part: f64| (part.abs() < f64::from(i32::MAX)).then_some(part as i32);
    let nanoseconds = (nanoseconds.abs() < i64::MAX as f64).then_some(nanoseconds as i64)?;
    Some(IntervalMonthDayNano::new(whole(months.trunc())?, whole(days.trunc())?, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact_for_whole_numbers_and_cascade_for_others() {
        let interval = IntervalMonthDayNano::new(1, 2, 3);
        assert_eq!(times_whole(interval, -3), Some(IntervalMonthDayNano::new(-3, -6, -9)));
        assert_eq!(times_whole(interval, i64::MAX), None);
        let half = IntervalMonthDayNano::new(0, 16, 2);
        assert_eq!(times(interval, 0.5), Some(half));
        assert_eq!(times(interval, f64::NAN), None);
        let hours = IntervalMonthDayNano::new(0, 1, 43_200_000_000_000);
        assert_eq!(times(IntervalMonthDayNano::new(0, 1, 0), 1.5), Some(hours));
    }
}
