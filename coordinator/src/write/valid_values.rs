//! Values that an Arrow array can hold although its type has no such value: decimals with more digits, days
//! and times outside of the calendar. Clients may send them, and whatever reads them later may fail.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{
    ArrowNativeType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::array_value_to_string;
use arrow_schema::{DataType, TimeUnit};
use plexus_model::{Error, Result};
use plexus_storage::sql_name;
use plexus_storage::types::INSTANT_SECONDS as SECONDS;

/// Days since 1970 of the first day of year -9999, and of the last of year 9999.
const DAYS: RangeInclusive<i64> = -4_371_587..=2_932_896;
const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// Rejects values that the type of an array does not have.
///
/// # Errors
/// `InvalidArgument` names the first such value.
pub(crate) fn check_values(array: &ArrayRef) -> Result<()> {
    match array.data_type() {
        DataType::Decimal128(precision, _) => {
            let decimals = array.as_primitive::<Decimal128Type>();
            decimals
                .validate_decimal_precision(*precision)
                .map_err(|e| Error::invalid(format!("{}: {e}", sql_name(array.data_type()))))
        }
        DataType::Decimal256(precision, _) => {
            let decimals = array.as_primitive::<Decimal256Type>();
            decimals
                .validate_decimal_precision(*precision)
                .map_err(|e| Error::invalid(format!("{}: {e}", sql_name(array.data_type()))))
        }
        DataType::Date32 => check_range::<Date32Type>(array, days(1)),
        DataType::Date64 => check_range::<Date64Type>(array, days(SECONDS_PER_DAY * 1_000)),
        DataType::Timestamp(TimeUnit::Second, _) => check_range::<TimestampSecondType>(array, SECONDS),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            check_range::<TimestampMillisecondType>(array, instants(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            check_range::<TimestampMicrosecondType>(array, instants(1_000_000))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            check_range::<TimestampNanosecondType>(array, i64::MIN..=i64::MAX)
        }
        DataType::Time32(TimeUnit::Second) => check_range::<Time32SecondType>(array, clock(1)),
        DataType::Time32(_) => check_range::<Time32MillisecondType>(array, clock(1_000)),
        DataType::Time64(TimeUnit::Nanosecond) => {
            check_range::<Time64NanosecondType>(array, clock(1_000_000_000))
        }
        DataType::Time64(_) => check_range::<Time64MicrosecondType>(array, clock(1_000_000)),
        DataType::Struct(_) => array.as_struct().columns().iter().try_for_each(check_values),
        DataType::List(_) => check_values(array.as_list::<i32>().values()),
        DataType::LargeList(_) => check_values(array.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => check_values(array.as_fixed_size_list().values()),
        DataType::Map(..) => array.as_map().entries().columns().iter().try_for_each(check_values),
        _ => Ok(()),
    }
}

fn days(per_day: i64) -> RangeInclusive<i64> {
    DAYS.start() * per_day..=(DAYS.end() + 1) * per_day - 1
}

fn instants(per_second: i64) -> RangeInclusive<i64> {
    SECONDS.start() * per_second..=SECONDS.end() * per_second
}

fn clock(per_second: i64) -> RangeInclusive<i64> {
    0..=SECONDS_PER_DAY * per_second - 1
}

fn check_range<T>(array: &ArrayRef, range: RangeInclusive<i64>) -> Result<()>
where
    T: ArrowPrimitiveType,
    T::Native: ArrowNativeType + Display + Into<i64>,
{
    let values = array.as_primitive::<T>();
    for value in [min(values), max(values)].into_iter().flatten() {
        if !range.contains(&value.into()) {
            let shown = |value: i64| {
                let number: ArrayRef = Arc::new(Int64Array::from(vec![value]));
                let number = cast(&number, array.data_type()).or_else(|_| {
                    cast(&number, &DataType::Int32).and_then(|days| cast(&days, array.data_type()))
                });
                number
                    .and_then(|value| array_value_to_string(&value, 0))
                    .unwrap_or_else(|_| value.to_string())
            };
            return Err(Error::invalid(format!(
                "{value} is no {}: it is outside of {} to {}",
                sql_name(array.data_type()),
                shown(*range.start()),
                shown(*range.end())
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, Time64MicrosecondArray, TimestampSecondArray};

    use super::*;

    #[test]
    fn values_that_types_do_not_have_are_refused() {
        let decimals = |value| Decimal128Array::from(vec![value]).with_precision_and_scale(10, 2).unwrap();
        let cases: Vec<(ArrayRef, ArrayRef)> = vec![
            (Arc::new(decimals(9_999_999_999)), Arc::new(decimals(10_000_000_000))),
            (
                Arc::new(Date32Array::from(vec![2_932_896, -4_371_587])),
                Arc::new(Date32Array::from(vec![i32::MAX])),
            ),
            (
                Arc::new(TimestampSecondArray::from(vec![253_402_207_200])),
                Arc::new(TimestampSecondArray::from(vec![i64::MIN])),
            ),
            (
                Arc::new(Time64MicrosecondArray::from(vec![86_399_999_999])),
                Arc::new(Time64MicrosecondArray::from(vec![86_400_000_000])),
            ),
        ];
        for (valid, invalid) in cases {
            check_values(&valid).unwrap();
            assert!(check_values(&invalid).is_err(), "{invalid:?}");
        }
    }
}
