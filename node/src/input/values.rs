//! Values of text files: from their text to columns, exactly or not at all.
//!
//! A value that would be rounded, cut or wrapped is a [`Misfit`], which names the row. The one exception is
//! the nearest float of a decimal number, as in every database.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal256Array, Float64Array, Int64Array, NullArray,
    PrimitiveArray, StringArray, Time64NanosecondArray, UInt64Array,
};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    ArrowTimestampType, Date32Type, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, i256,
};
use arrow_schema::{DataType, TimeUnit};
use chrono::Utc;

use super::{json, json_value};

/// A value that a column cannot hold.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// Index of the row in the batch.
    pub(crate) row: usize,
    /// What is wrong with the value.
    pub(crate) reason: String,
}

/// A column of type `to` from the texts of its values.
///
/// # Errors
/// The first value that the column cannot hold.
pub(crate) fn text_column(values: &[Option<&str>], to: &DataType) -> Result<ArrayRef, Misfit> {
    use DataType::*;
    Ok(match to {
        Utf8 | LargeUtf8 | Utf8View => convert(Arc::new(StringArray::from(values.to_vec())), to)?,
        Int8 | Int16 | Int32 | Int64 => {
            let parsed: Int64Array =
                parse(values, |text| integer(text)?.parse().map_err(out_of_range))?.into();
            convert(Arc::new(parsed), to)?
        }
        UInt8 | UInt16 | UInt32 | UInt64 => {
            let parsed: UInt64Array =
                parse(values, |text| integer(text)?.parse().map_err(out_of_range))?.into();
            convert(Arc::new(parsed), to)?
        }
        Float16 | Float32 | Float64 => {
            let parsed = parse(values, |text| float(text, to))?;
            convert(Arc::new(Float64Array::from(parsed)), to)?
        }
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale) => {
            let parsed = Decimal256Array::from(parse(values, |text| decimal(text, *precision, *scale))?);
            let parsed = parsed.with_precision_and_scale(76, *scale).map_err(|e| misfit(0, e))?;
            convert(Arc::new(parsed), to)?
        }
        Boolean => Arc::new(BooleanArray::from(parse(values, boolean)?)),
        Date32 | Date64 => convert(Arc::new(Date32Array::from(parse(values, date)?)), to)?,
        Timestamp(unit, zone) => {
            let zone = zone.clone();
            match unit {
                TimeUnit::Second => timestamps::<TimestampSecondType>(values, 1_000_000_000, zone)?,
                TimeUnit::Millisecond => timestamps::<TimestampMillisecondType>(values, 1_000_000, zone)?,
                TimeUnit::Microsecond => timestamps::<TimestampMicrosecondType>(values, 1_000, zone)?,
                TimeUnit::Nanosecond => timestamps::<TimestampNanosecondType>(values, 1, zone)?,
            }
        }
        Time32(_) | Time64(_) => {
            let parsed: Time64NanosecondArray = parse(values, |text| {
                Time64NanosecondType::parse(text).ok_or_else(|| "is not a time".to_owned())
            })?
            .into();
            exact(Arc::new(parsed), to)?
        }
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => {
            let bytes = parse(values, bytes)?;
            let bytes: BinaryArray = bytes.iter().map(|value| value.as_deref()).collect();
            convert(Arc::new(bytes), to)?
        }
        Dictionary(_, inner) => convert(text_column(values, inner)?, to)?,
        Null => match values.iter().position(Option::is_some) {
            Some(row) => return Err(misfit(row, "is not null")),
            None => Arc::new(NullArray::new(values.len())),
        },
        List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_) | Struct(_) | Map(..) => {
            let parsed = parse(values, |text| {
                json_value::parse(text.as_bytes()).map_err(|e| format!("is no JSON: {e}"))
            })?;
            json::column(&parsed.iter().map(Option::as_ref).collect::<Vec<_>>(), to)?
        }
        _ => convert(Arc::new(StringArray::from(values.to_vec())), to)?,
    })
}

fn misfit(row: usize, reason: impl ToString) -> Misfit {
    Misfit { row, reason: reason.to_string() }
}

fn out_of_range(_: impl std::fmt::Display) -> String {
    "is out of range".to_owned()
}

/// Parses the values that are there.
fn parse<T>(
    values: &[Option<&str>],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<Option<T>>, Misfit> {
    let one = |(row, value): (usize, &Option<&str>)| match value {
        Some(text) => parse(text.trim()).map(Some).map_err(|reason| Misfit { row, reason }),
        None => Ok(None),
    };
    values.iter().enumerate().map(one).collect()
}

/// Casts an array; a value that does not fit is an error.
fn convert(array: ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    if array.data_type() == to {
        return Ok(array);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&array, to, &options).map_err(|error| {
        let fails = |row: &usize| cast_with_options(&array.slice(*row, 1), to, &options).is_err();
        match (0..array.len()).find(fails) {
            Some(row) => misfit(row, "is out of range"),
            None => misfit(0, error),
        }
    })
}

/// Casts an array; a value that another unit would cut is an error.
fn exact(array: ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let converted = convert(array.clone(), to)?;
    let back = convert(converted.clone(), array.data_type())?;
    match (0..array.len()).find(|&row| array.slice(row, 1) != back.slice(row, 1)) {
        Some(row) => Err(misfit(row, "has more digits than the column: it would be rounded")),
        None => Ok(converted),
    }
}

/// The digits of a whole number. A fraction of zeros does not change the number.
fn integer(text: &str) -> Result<&str, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.trim_start_matches(['+', '-']);
    let is_number = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if digits.is_empty() || !is_number(digits) || !is_number(fraction) {
        return Err("is not a whole number".to_owned());
    }
    match fraction.bytes().all(|b| b == b'0') {
        true => Ok(whole.strip_prefix('+').unwrap_or(whole)),
        false => Err("is not a whole number: it would be rounded".to_owned()),
    }
}

/// The nearest float. A finite number that is too large for `to` is an error, and so is a whole number that
/// would be another one.
fn float(text: &str, to: &DataType) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    let is_too_large = match to {
        DataType::Float16 => value.abs() > 65_504.0,
        // The largest is printed with fewer digits than it has, as a number that is a little larger.
        DataType::Float32 => text.parse::<f32>().is_ok_and(f32::is_infinite),
        _ => value.is_infinite(),
    };
    let is_infinity = text.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("inf");
    if is_too_large && !is_infinity {
        return Err(format!("is too large for {to}"));
    }
    let stored = match to {
        DataType::Float32 => f64::from(value as f32),
        _ => value,
    };
    let is_whole = text.trim_start_matches(['+', '-']).bytes().all(|b| b.is_ascii_digit());
    if is_whole && *to != DataType::Float16 && digits_of(&stored.to_string()) != digits_of(text) {
        return Err(format!("does not fit {to}: it would be rounded"));
    }
    Ok(value)
}

/// A decimal number as its digits: `(negative, digits without leading zeros, digits behind the point)`. There
/// are no trailing zeros behind the point.
pub(crate) fn digits_of(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok().filter(|e| e.abs() < 10_000)?),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let unsigned = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_number = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    let mut scale = fraction.len() as i64 - exponent;
    while scale > 0 && digits.ends_with('0') {
        digits.pop();
        scale -= 1;
    }
    let digits = digits.trim_start_matches('0').to_owned();
    match digits.is_empty() {
        true => Some((false, digits, 0)),
        false => Some((negative, digits, scale)),
    }
}

fn decimal(text: &str, precision: u8, scale: i8) -> Result<i256, String> {
    let (negative, mut digits, own_scale) =
        digits_of(text).ok_or_else(|| "is not a decimal number".to_owned())?;
    let zeros = i64::from(scale) - own_scale;
    if zeros < 0 && !digits.is_empty() {
        return Err(format!("has more than {scale} digits behind the point: it would be rounded"));
    }
    if !digits.is_empty() {
        if digits.len() as i64 + zeros > i64::from(precision) {
            return Err(format!("has more than {precision} digits"));
        }
        digits.extend(std::iter::repeat_n('0', zeros as usize));
    } else {
        digits.push('0');
    }
    let value = i256::from_string(&digits).ok_or_else(|| "is out of range".to_owned())?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "y" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "n" | "off" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

fn date(text: &str) -> Result<i32, String> {
    let shape = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let parsed = shape.then(|| Date32Type::parse(text)).flatten();
    parsed.ok_or_else(|| "is not a date: write YYYY-MM-DD".to_owned())
}

/// Seconds and nanoseconds since the Unix epoch. A text without a zone counts as UTC.
pub(crate) fn instant(text: &str) -> Option<(i64, u32)> {
    // Minutes are enough: the parser wants seconds.
    let bytes = text.as_bytes();
    let minutes = bytes.len() >= 16 && bytes[13] == b':' && bytes.get(16).is_none_or(|b| *b != b':');
    let with_seconds;
    let text = match minutes {
        true => {
            with_seconds = format!("{}:00{}", text.get(..16)?, text.get(16..)?);
            &with_seconds
        }
        false => text,
    };
    let time = string_to_datetime(&Utc, text).ok()?;
    Some((time.timestamp(), time.timestamp_subsec_nanos()))
}

fn timestamps<T: ArrowTimestampType>(
    values: &[Option<&str>],
    unit_nanos: i64,
    zone: Option<Arc<str>>,
) -> Result<ArrayRef, Misfit> {
    let parsed = parse(values, |text| {
        let (seconds, nanos) =
            instant(text).ok_or_else(|| "is not a time: write YYYY-MM-DD HH:MM:SS.ffffff".to_owned())?;
        let nanos = i64::from(nanos);
        if nanos % unit_nanos != 0 {
            return Err("has more digits than the column: it would be rounded".to_owned());
        }
        let units = seconds.checked_mul(1_000_000_000 / unit_nanos);
        units
            .and_then(|units| units.checked_add(nanos / unit_nanos))
            .ok_or_else(|| "is out of range".to_owned())
    })?;
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(parsed).with_timezone_opt(zone)))
}

/// `\x` and hexadecimal digits, or the bytes of the text.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let Some(digits) = text.strip_prefix("\\x") else {
        return Ok(text.as_bytes().to_vec());
    };
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes: Option<Vec<u8>> =
        digits.as_bytes().chunks(2).map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect();
    bytes.ok_or_else(|| "is not hexadecimal".to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, DecimalType, Int32Type, Int64Type, TimestampMillisecondType};
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str, to: DataType) -> Result<ArrayRef, String> {
        text_column(&[Some(text)], &to).map_err(|misfit| misfit.reason)
    }

    #[test]
    fn numbers_are_kept_or_refused() {
        assert_eq!(one("007", DataType::Int32).unwrap().as_primitive::<Int32Type>().value(0), 7);
        assert_eq!(one("5.00", DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0), 5);
        for text in ["1.5", "x", "", "1e3", "9223372036854775808"] {
            assert!(one(text, DataType::Int64).is_err(), "{text}");
        }
        assert!(one("300", DataType::Int8).is_err());
        assert!(one("1e300", DataType::Float32).is_err() && one("inf", DataType::Float32).is_ok());
        let cents = DataType::Decimal128(10, 2);
        let value = |text| one(text, cents.clone()).map(|a| a.as_primitive::<Decimal128Type>().value(0));
        assert_eq!(value("12345678.91"), Ok(1_234_567_891));
        assert_eq!(
            (value("1.500"), value("-0.01"), value("15e-1"), value("0.00")),
            (Ok(150), Ok(-1), Ok(150), Ok(0))
        );
        assert!(value("1.005").unwrap_err().contains("rounded"));
        assert!(value("123456789").is_err() && value("abc").is_err() && value("1e9999").is_err());
    }

    #[test]
    fn times_keep_their_digits() {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let value =
            |text| one(text, millis.clone()).map(|a| a.as_primitive::<TimestampMillisecondType>().value(0));
        assert_eq!(value("1970-01-01 00:00:01.250"), Ok(1_250));
        assert_eq!(value("1970-01-01 00:01"), Ok(60_000));
        assert_eq!(value("1970-01-01T02:00:00+02:00"), Ok(0));
        assert!(value("1970-01-01 00:00:00.0001").unwrap_err().contains("rounded"));
        assert!(value("9999-12-31 23:59:59").is_ok() && value("0001-01-01").is_ok());
        assert!(one("2024-02-30", DataType::Date32).is_err() && one("2024-02-29", DataType::Date32).is_ok());
    }

    #[test]
    fn a_misfit_names_its_row() {
        let misfit = text_column(&[Some("1"), None, Some("x")], &DataType::Int64).unwrap_err();
        assert_eq!(misfit.row, 2);
        let misfit = text_column(&[Some("1"), Some("300")], &DataType::Int8).unwrap_err();
        assert_eq!(misfit.row, 1);
    }

    proptest! {
        #[test]
        fn decimals_print_as_they_were_read(units in any::<i64>(), scale in 0i8..10) {
            let text = Decimal128Type::format_decimal(i128::from(units), 38, scale);
            let array = one(&text, DataType::Decimal128(38, scale)).unwrap();
            prop_assert_eq!(array.as_primitive::<Decimal128Type>().value(0), i128::from(units));
        }
    }
}
