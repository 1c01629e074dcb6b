//! Text of points in time that the library does not take: without seconds, `2024-03-09 12:00`, and of clocks
//! that a time zone skips in spring or repeats in autumn.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow_schema::DataType;
use chrono::{LocalResult, NaiveDateTime, TimeZone};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::time_zones::{DEFAULT_ZONE, offset_of_clock};

/// Bytes of `2024-03-09 12:00`.
const MINUTES: usize = 16;

/// Texts in which times have seconds, and an offset where clocks of the zone do not tell the instant. Other
/// texts stay as they are, and so do values of other types.
pub fn completed(texts: &ArrayRef, zone: Option<&str>) -> ArrayRef {
    if !matches!(texts.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return texts.clone();
    }
    let Ok(plain) = cast(texts, &DataType::Utf8) else {
        return texts.clone();
    };
    let plain = plain.as_string::<i32>();
    let zone = zone.filter(|zone| *zone != DEFAULT_ZONE).and_then(|zone| Tz::from_str(zone).ok());
    let completed: Vec<Option<Cow<'_, str>>> =
        plain.iter().map(|text| text.map(|text| complete(text, zone.as_ref()))).collect();
    match completed.iter().flatten().any(|text| matches!(text, Cow::Owned(_))) {
        true => Arc::new(completed.iter().map(Option::as_deref).collect::<StringArray>()),
        false => texts.clone(),
    }
}

fn complete<'a>(text: &'a str, zone: Option<&Tz>) -> Cow<'a, str> {
    let text = match lacks_seconds(text) {
        true => {
            let text = text.trim();
            Cow::Owned(format!("{}:00{}", &text[..MINUTES], &text[MINUTES..]))
        }
        false => Cow::Borrowed(text),
    };
    match zone.and_then(|zone| instant_in_change(&text, zone)) {
        Some(instant) => Cow::Owned(format!("{}Z", instant.format(CLOCK))),
        None => text,
    }
}

const CLOCK: &str = "%Y-%m-%d %H:%M:%S%.f";

/// The clock of UTC for a clock without an offset that the zone skips or repeats. Not the offset, which may
/// have seconds.
fn instant_in_change(text: &str, zone: &Tz) -> Option<NaiveDateTime> {
    let clock = text.trim().replacen(['T', 't'], " ", 1);
    let clock = NaiveDateTime::parse_from_str(&clock, CLOCK).ok()?;
    let is_certain = matches!(zone.offset_from_local_datetime(&clock), LocalResult::Single(_));
    (!is_certain).then(|| clock - offset_of_clock(zone, clock))
}

/// Whether a text is taken by the library as it is.
pub(crate) fn is_complete(text: &str, zone: Option<&str>) -> bool {
    let zone = zone.and_then(|zone| Tz::from_str(zone).ok());
    matches!(complete(text, zone.as_ref()), Cow::Borrowed(_))
}

/// Whether a text is a date and a time that ends with minutes, perhaps before a zone.
fn lacks_seconds(text: &str) -> bool {
    let text = text.trim();
    let Some((clock, zone)) = text.as_bytes().split_at_checked(MINUTES) else {
        return false;
    };
    let fits = clock.iter().zip(b"dddd-dd-dd dd:dd").all(|(byte, wanted)| match wanted {
        b'd' => byte.is_ascii_digit(),
        b' ' => matches!(byte, b' ' | b'T' | b't'),
        other => byte == other,
    });
    fits && zone.first().is_none_or(|byte| matches!(byte, b' ' | b'+' | b'-' | b'Z' | b'z'))
}

/// `$completed(text, zone)`: see [`completed`]. The zone is a constant, or null.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Completed(Signature);

impl Completed {
    /// The name of the function.
    pub(crate) const NAME: &str = "$completed";
}

impl Default for Completed {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Completed {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [texts, ColumnarValue::Scalar(zone)] = args.args.as_slice() else {
            return exec_err!("{} takes a text and a constant zone", self.name());
        };
        let filled = completed(&texts.to_array(args.number_rows)?, zone.try_as_str().flatten());
        Ok(ColumnarValue::Array(cast(&filled, &DataType::Utf8)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_get_seconds() {
        let texts =
            ["2024-03-09 12:00", " 2024-03-09T12:00Z", "2024-03-09 12:00+02", "2024-03-09 12:00:01", "é"];
        let filled = completed(&(Arc::new(StringArray::from(texts.to_vec())) as ArrayRef), None);
        let expected =
            ["2024-03-09 12:00:00", "2024-03-09T12:00:00Z", "2024-03-09 12:00:00+02", texts[3], "é"];
        assert_eq!(filled.as_string::<i32>(), &StringArray::from(expected.to_vec()));
    }

    #[test]
    fn clocks_that_a_zone_skips_or_repeats_get_an_offset() {
        let texts = [
            "2025-03-30 02:30:00",
            "2025-10-26T02:30",
            "2025-10-26 02:30:00.5",
            "2025-10-26 02:30:00+02:00",
            "2025-07-01 02:30:00",
            "2025-10-26",
            "1893-04-01 00:00:16",
        ];
        let filled =
            completed(&(Arc::new(StringArray::from(texts.to_vec())) as ArrayRef), Some("Europe/Berlin"));
        let expected = [
            "2025-03-30 01:30:00Z",
            "2025-10-26 01:30:00Z",
            "2025-10-26 01:30:00.500Z",
            texts[3],
            texts[4],
            texts[5],
            "1893-03-31 23:06:48Z",
        ];
        assert_eq!(filled.as_string::<i32>(), &StringArray::from(expected.to_vec()));
    }
}
