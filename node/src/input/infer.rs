//! The type of a text column, from all of its values: the narrowest that holds each of them exactly.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, TimeUnit};
use plexus_storage::types::INSTANT_SECONDS;

use super::values::{digits_of, instant};

/// Digits that every double holds.
const DOUBLE_DIGITS: usize = 15;

/// Digits that programs print of a double, so that it can be read back.
const PRINTED_DIGITS: usize = 17;

/// Digits of the widest decimal.
const DECIMAL_DIGITS: i64 = 38;

/// Seconds since 1970 of which nanoseconds fit into 64 bits.
const NANOSECOND_SECONDS: RangeInclusive<i64> = -9_223_372_036..=9_223_372_035;

/// What the values of a column seen so far have in common.
#[derive(Clone, Debug)]
pub(crate) struct Inferred {
    seen: bool,
    booleans: bool,
    integers: bool,
    /// Whether 64-bit integers hold all numbers.
    longs: bool,
    numbers: bool,
    /// Whether doubles hold all numbers.
    doubles: bool,
    /// Whether doubles hold all numbers, or fractions are what programs print of a double: all digits that
    /// tell it from others, and one more.
    computed_doubles: bool,
    /// Whether decimals hold all numbers.
    decimals: bool,
    digits_before_point: i64,
    digits_behind_point: i64,
    dates: bool,
    times: bool,
    zones: bool,
    no_zones: bool,
    nanoseconds: bool,
    /// Whether timestamps hold all times.
    instants: bool,
    /// Whether timestamps in nanoseconds do.
    nanosecond_instants: bool,
}

impl Default for Inferred {
    fn default() -> Self {
        Self {
            seen: false,
            booleans: true,
            integers: true,
            longs: true,
            numbers: true,
            doubles: true,
            computed_doubles: true,
            decimals: true,
            digits_before_point: 0,
            digits_behind_point: 0,
            dates: true,
            times: true,
            zones: false,
            no_zones: false,
            nanoseconds: false,
            instants: true,
            nanosecond_instants: true,
        }
    }
}

impl Inferred {
    /// Adds a value.
    pub(crate) fn add(&mut self, text: &str) {
        self.seen = true;
        self.booleans &= text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
        if self.numbers {
            self.add_number(text);
        }
        if self.times {
            self.add_time(text);
        }
    }

    fn add_number(&mut self, text: &str) {
        if ["nan", "inf", "-inf", "infinity", "-infinity"].contains(&text.to_ascii_lowercase().as_str()) {
            (self.integers, self.decimals) = (false, false);
            return;
        }
        // A plus, a leading zero or a missing digit would be lost.
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let whole = unsigned.split(['.', 'e', 'E']).next().unwrap_or_default();
        let is_canonical =
            !whole.is_empty() && (whole == "0" || !whole.starts_with('0')) && !whole.starts_with('+');
        let Some((_, digits, scale)) = digits_of(text).filter(|_| is_canonical && !text.ends_with('.'))
        else {
            (self.numbers, self.integers) = (false, false);
            return;
        };
        let has_exponent = text.contains(['e', 'E']);
        self.integers &= !text.contains('.') && !has_exponent && !text.starts_with("-0");
        self.longs &= text.parse::<i64>().is_ok();
        self.decimals &= !has_exponent;
        self.digits_before_point = self.digits_before_point.max(digits.len() as i64 - scale);
        self.digits_behind_point = self.digits_behind_point.max(scale);
        if digits.len() > DOUBLE_DIGITS {
            // The shortest text of the nearest double tells whether it is the same number.
            let nearest: f64 = text.parse().unwrap_or(f64::INFINITY);
            let is_double = [nearest.to_string(), format!("{nearest:e}")]
                .iter()
                .any(|shortest| digits_of(shortest) == digits_of(text));
            self.doubles &= is_double;
            let printed = || format!("{nearest:.*e}", PRINTED_DIGITS - 1);
            self.computed_doubles &= is_double || (scale > 0 && digits_of(&printed()) == digits_of(text));
        }
    }

    fn add_time(&mut self, text: &str) {
        let has_shape = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
        let Some((seconds, nanos)) = instant(text).filter(|_| has_shape) else {
            (self.times, self.dates) = (false, false);
            return;
        };
        // What no timestamp holds, such as the end of time as 9999-12-31 23:59:59, is text.
        self.instants &= INSTANT_SECONDS.contains(&seconds);
        self.nanosecond_instants &= NANOSECOND_SECONDS.contains(&seconds);
        self.nanoseconds |= nanos % 1_000 != 0;
        if text.len() == 10 {
            return;
        }
        self.dates = false;
        let time = &text[10..];
        let has_zone = time.ends_with(['Z', 'z']) || time.contains(['+', '-']);
        self.zones |= has_zone;
        self.no_zones |= !has_zone;
    }

    /// The type of a column of numbers that programs wrote: fractions may be printed doubles.
    pub(crate) fn computed_type(&self) -> DataType {
        match self.seen && self.numbers && !self.integers && self.computed_doubles {
            true => DataType::Float64,
            false => self.data_type(),
        }
    }

    /// The type of the column. That of nulls if it has no value: those of other files may have one.
    pub(crate) fn data_type(&self) -> DataType {
        if !self.seen {
            return DataType::Null;
        }
        if self.booleans {
            return DataType::Boolean;
        }
        if self.integers && self.longs {
            return DataType::Int64;
        }
        if self.numbers && self.doubles && !self.integers {
            return DataType::Float64;
        }
        let digits = self.digits_before_point.max(0) + self.digits_behind_point;
        if self.numbers && self.decimals && digits <= DECIMAL_DIGITS {
            return DataType::Decimal128(DECIMAL_DIGITS as u8, self.digits_behind_point as i8);
        }
        if self.dates {
            return DataType::Date32;
        }
        let holds_all = self.instants && (self.nanosecond_instants || !self.nanoseconds);
        if self.times && holds_all && !(self.zones && self.no_zones) {
            let unit = if self.nanoseconds { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
            return DataType::Timestamp(unit, self.zones.then(|| "UTC".into()));
        }
        DataType::Utf8
    }
}

/// The type that holds the values of two columns of text files that were inferred apart.
pub(crate) fn common_type(a: &DataType, b: &DataType) -> DataType {
    use DataType::*;
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Int64, Decimal128(p, s)) | (Decimal128(p, s), Int64) if i16::from(*p) - i16::from(*s) >= 18 => {
            Decimal128(*p, *s)
        }
        (Decimal128(p, a), Decimal128(_, b)) => Decimal128(*p, *a.max(b)),
        (Date32, Timestamp(unit, None)) | (Timestamp(unit, None), Date32) => Timestamp(*unit, None),
        (Timestamp(a, x), Timestamp(b, y)) if x == y => Timestamp(*a.max(b), x.clone()),
        (List(a), List(b)) => {
            let item = common_type(a.data_type(), b.data_type());
            List(Arc::new(a.as_ref().clone().with_data_type(item)))
        }
        (Struct(a), Struct(b)) => {
            let both = a.iter().map(|field| match b.iter().find(|other| other.name() == field.name()) {
                Some(other) => {
                    let common = common_type(field.data_type(), other.data_type());
                    Arc::new(field.as_ref().clone().with_data_type(common))
                }
                None => field.clone(),
            });
            let others = b.iter().filter(|other| !a.iter().any(|field| field.name() == other.name()));
            Struct(both.chain(others.cloned()).collect())
        }
        _ => Utf8,
    }
}

/// A type with text for what had no value in any file: nulls, and objects without fields.
pub(crate) fn with_texts(data_type: &DataType) -> DataType {
    let inner =
        |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(with_texts(field.data_type())));
    match data_type {
        DataType::Null => DataType::Utf8,
        DataType::Struct(fields) if fields.is_empty() => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    fn infer(values: &[&str]) -> DataType {
        let mut inferred = Inferred::default();
        values.iter().for_each(|value| inferred.add(value));
        inferred.data_type()
    }

    #[test]
    fn fractions_of_seventeen_digits_may_be_doubles() {
        for (values, expected) in [
            (&["0.10000000000000001", "1.0000000000000001e-05", "3"][..], DataType::Float64),
            (&["9007199254740993", "0.5"][..], DataType::Decimal128(38, 1)),
            (&["1234567890123.4567"][..], DataType::Decimal128(38, 4)),
            (&["0.1234567890123456789"][..], DataType::Decimal128(38, 19)),
            (&["18446744073709551616", "5"][..], DataType::Decimal128(38, 0)),
        ] {
            let mut inferred = Inferred::default();
            values.iter().for_each(|value| inferred.add(value));
            assert_eq!(inferred.computed_type(), expected, "{values:?}");
        }
    }

    #[test]
    fn the_type_holds_every_value_exactly() {
        use DataType::*;
        for (values, expected) in [
            (&[][..], Null),
            (&["1", "-20", "0", "9223372036854775807"][..], Int64),
            (&["00501", "10001"][..], Utf8),
            (&["+49", "1"][..], Utf8),
            (&["18446744073709551616", "5"][..], Decimal128(38, 0)),
            (&["1.10", "2"][..], Float64),
            (&["9007199254740993", "0.5"][..], Decimal128(38, 1)),
            (&["0.30000000000000004", "1e300", "NaN"][..], Float64),
            (&["true", "FALSE"][..], Boolean),
            (&["1", "NA"][..], Utf8),
            (&["2024-01-31", "1969-12-31"][..], Date32),
            (&["2024-01-31", "2024-01-31 12:00:00.5"][..], Timestamp(TimeUnit::Microsecond, None)),
            (&["2024-01-31T12:00:00Z"][..], Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            (&["2024-01-31 12:00:00.123456789"][..], Timestamp(TimeUnit::Nanosecond, None)),
            (&["2024-13-31"][..], Utf8),
            (&["2024-01-31 12:00:00", "9999-12-31 23:59:59"][..], Utf8),
            (&["9999-12-31"][..], Date32),
            (&["2024-01-31 12:00:00.123456789", "2500-01-01 00:00:00"][..], Utf8),
            (&["1.", "2"][..], Utf8),
            (&["0.5", "1.2345678901234568e17", "1.7976931348623157e308"][..], Float64),
        ] {
            assert_eq!(infer(values), expected, "{values:?}");
        }
    }

    #[test]
    fn nested_types_of_several_files_have_the_fields_of_all() {
        use DataType::*;
        let list = |item: DataType| List(Arc::new(Field::new("item", item, true)));
        let of = |fields: &[(&str, DataType)]| {
            let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
            Struct(fields.iter().map(field).collect())
        };
        let first = of(&[("x", Int64), ("n", Null), ("l", list(Null))]);
        let second = of(&[("l", list(Int64)), ("x", Float64), ("o", of(&[]))]);
        let both = of(&[("x", Float64), ("n", Null), ("l", list(Int64)), ("o", of(&[]))]);
        assert_eq!(common_type(&first, &second), both);
        let texts = of(&[("x", Float64), ("n", Utf8), ("l", list(Int64)), ("o", Utf8)]);
        assert_eq!(with_texts(&both), texts);
        assert_eq!(common_type(&list(Int64), &Int64), Utf8);
    }
}
