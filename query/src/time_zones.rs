//! `AT TIME ZONE` as in the SQL standard: an instant becomes the clock of the zone, a clock becomes an
//! instant. DataFusion makes an instant of both. See apache/datafusion#25166.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, TimeUnit};
use chrono::{DateTime, FixedOffset, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The zone of sessions that set none.
pub const DEFAULT_ZONE: &str = "UTC";

/// Lets functions such as `now` and `to_timestamp` follow the settings of a session, which they read when
/// they are registered.
///
/// # Errors
/// When a function cannot be registered.
pub fn follow_settings(state: &mut SessionState) -> Result<()> {
    let options = state.config_options().clone();
    if options.execution.time_zone.as_deref() == Some(DEFAULT_ZONE) {
        return Ok(());
    }
    let functions = state.scalar_functions().values();
    let updated: Vec<ScalarUDF> =
        functions.filter_map(|function| function.inner().with_updated_config(&options)).collect();
    for function in updated {
        state.register_udf(Arc::new(function))?;
    }
    Ok(())
}

/// The instants at which clocks of a zone show timestamps without one, in that zone.
///
/// As in PostgreSQL, a time that a zone skips in spring is one after the change, and of the two instants of a
/// time that it repeats in autumn, the second counts.
///
/// # Errors
/// When there is no such zone, or an instant is out of range.
pub fn instants_of(clocks: &ArrayRef, zone: &str) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, None) = clocks.data_type() else {
        return exec_err!("{} is no timestamp without a zone", clocks.data_type());
    };
    let offset = |tz: &Tz, local: NaiveDateTime| -offset_of_clock(tz, local).local_minus_utc();
    Ok(cast(&shifted(clocks, *unit, zone, offset)?, &instant(*unit, zone))?)
}

/// What clocks of a zone show at instants, as timestamps without a zone.
///
/// # Errors
/// When there is no such zone, or a clock is out of range.
pub fn clocks_of(instants: &ArrayRef, zone: &str) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, Some(_)) = instants.data_type() else {
        return exec_err!("{} is no timestamp with a zone", instants.data_type());
    };
    let clocks = shifted(instants, *unit, zone, offset_at)?;
    Ok(cast(&clocks, &DataType::Timestamp(*unit, None))?)
}

/// How far a clock of a zone is ahead of UTC: see [`instants_of`].
pub(crate) fn offset_of_clock(zone: &Tz, clock: NaiveDateTime) -> FixedOffset {
    match zone.offset_from_local_datetime(&clock) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(_, offset) => offset.fix(),
        LocalResult::None => zone.offset_from_utc_datetime(&(clock - TimeDelta::days(1))).fix(),
    }
}

/// Seconds that clocks of a zone are ahead of UTC.
fn offset_at(zone: &Tz, utc: NaiveDateTime) -> i32 {
    zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
}

/// Timestamps as numbers, each moved by as many seconds as `offset` says for it.
fn shifted(
    timestamps: &ArrayRef,
    unit: TimeUnit,
    zone: &str,
    offset: impl Fn(&Tz, NaiveDateTime) -> i32,
) -> Result<ArrayRef> {
    let tz = Tz::from_str(zone)?;
    let per_second: i64 = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let values = cast(timestamps, &DataType::Int64)?;
    let moved: Int64Array = values.as_primitive::<Int64Type>().try_unary(|value| {
        let time = DateTime::from_timestamp(value.div_euclid(per_second), 0).map(|at| at.naive_utc());
        let seconds = time.map(|time| i64::from(offset(&tz, time)));
        let moved = seconds.and_then(|seconds| value.checked_add(seconds.checked_mul(per_second)?));
        moved.ok_or_else(|| ArrowError::CastError(format!("timestamp {value} is out of range")))
    })?;
    Ok(Arc::new(moved))
}

/// The name of [`AtTimeZone`].
pub const AT_TIME_ZONE: &str = "$at_time_zone";

/// A timestamp, and a zone as text that is constant.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct AtTimeZone {
    signature: Signature,
}

impl Default for AtTimeZone {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

/// The type of an instant in a zone.
fn instant(unit: TimeUnit, zone: &str) -> DataType {
    DataType::Timestamp(unit, Some(zone.into()))
}

/// The zone that an argument names.
fn zone_of(argument: Option<&ScalarValue>) -> Result<&str> {
    let Some(Some(zone)) = argument.and_then(|argument| argument.try_as_str()) else {
        return plan_err!("AT TIME ZONE takes the name of a zone as text, for example 'Europe/Berlin'");
    };
    match Tz::from_str(zone) {
        Ok(_) => Ok(zone),
        Err(_) => plan_err!("{zone:?} is not the name of a time zone"),
    }
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        AT_TIME_ZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        exec_err!("the type of AT TIME ZONE depends on the zone")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let zone = zone_of(args.scalar_arguments.get(1).copied().flatten())?;
        let Some(timestamp) = args.arg_fields.first() else {
            return plan_err!("AT TIME ZONE takes a timestamp");
        };
        let data_type = match timestamp.data_type() {
            DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, None),
            DataType::Timestamp(unit, None) => instant(*unit, zone),
            DataType::Date32
            | DataType::Date64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Null => instant(TimeUnit::Microsecond, zone),
            other => return plan_err!("AT TIME ZONE takes a timestamp, not {other}"),
        };
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [timestamp, ColumnarValue::Scalar(zone)] = args.args.as_slice() else {
            return exec_err!("AT TIME ZONE takes a timestamp and a constant zone");
        };
        let zone = zone_of(Some(zone))?;
        let DataType::Timestamp(unit, None) = args.return_field.data_type() else {
            let DataType::Timestamp(unit, _) = args.return_field.data_type() else {
                return exec_err!("AT TIME ZONE returns a timestamp");
            };
            let clocks = timestamp.cast_to(&DataType::Timestamp(*unit, None), None)?;
            return Ok(match clocks {
                ColumnarValue::Array(clocks) => ColumnarValue::Array(instants_of(&clocks, zone)?),
                ColumnarValue::Scalar(clock) => {
                    let instants = instants_of(&clock.to_array()?, zone)?;
                    ColumnarValue::Scalar(ScalarValue::try_from_array(&instants, 0)?)
                }
            });
        };
        let zoned = instant(*unit, zone);
        let timestamp = timestamp.cast_to(&zoned, None)?;
        let field = Arc::new(Field::new("timestamp", zoned, true));
        to_local_time().invoke_with_args(ScalarFunctionArgs {
            args: vec![timestamp],
            arg_fields: vec![field],
            ..args
        })
    }
}
