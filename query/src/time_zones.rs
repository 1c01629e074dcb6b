//! `AT TIME ZONE` as in the SQL standard: an instant becomes the clock of the zone, a clock becomes an
//! instant. DataFusion makes an instant of both. See apache/datafusion#25166.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The zone of sessions that set none.
pub(crate) const DEFAULT_ZONE: &str = "UTC";

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
            | DataType::Null => instant(TimeUnit::Nanosecond, zone),
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
            return timestamp.cast_to(args.return_field.data_type(), None);
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
