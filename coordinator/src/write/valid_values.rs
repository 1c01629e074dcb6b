//! Values that an Arrow array can hold although its type has no such value: decimals with more digits, days
//! and times outside of the calendar. Clients may send them, and whatever reads them later may fail.

use std::fmt::Display;
use std::ops::RangeInclusive;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::compute::{max, min};
use arrow::datatypes::{
    ArrowNativeType, Date32Type, Date64Type, Decimal128Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_schema::{DataType, TimeUnit};
use plexus_model::{Error, Result};
use plexus_storage::sql_name;

/// Seconds since 1970 of the first instant of year -9999, and of the last of year 9999.
const SECONDS: RangeInclusive<i64> = -377_705_116_800..=253_402_300_799;
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
        DataType::Date32 => check_range::<Date32Type>(array, days(1)),
        DataType::Date64 => check_range::<Date64Type>(array, instants(1_000)),
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
    SECONDS.start() / SECONDS_PER_DAY * per_day..=SECONDS.end() / SECONDS_PER_DAY * per_day
}

fn instants(per_second: i64) -> RangeInclusive<i64> {
    SECONDS.start() * per_second..=(SECONDS.end() + 1) * per_second - 1
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
            return Err(Error::invalid(format!(
                "{value} is no {}: it is outside of {} to {}",
                sql_name(array.data_type()),
                range.start(),
                range.end()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
                Arc::new(TimestampSecondArray::from(vec![253_402_300_799])),
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
