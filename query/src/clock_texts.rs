//! Text of points in time without seconds: `2024-03-09 12:00`. The library takes only text with them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow_schema::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Bytes of `2024-03-09 12:00`.
const MINUTES: usize = 16;

/// Texts in which times have seconds. Other texts stay as they are, and so do values of other types.
pub fn with_seconds(texts: &ArrayRef) -> ArrayRef {
    if !matches!(texts.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return texts.clone();
    }
    let Ok(plain) = cast(texts, &DataType::Utf8) else {
        return texts.clone();
    };
    let plain = plain.as_string::<i32>();
    if !plain.iter().flatten().any(lacks_seconds) {
        return texts.clone();
    }
    let filled = plain.iter().map(|text| {
        text.map(|text| match lacks_seconds(text) {
            true => {
                let text = text.trim();
                format!("{}:00{}", &text[..MINUTES], &text[MINUTES..])
            }
            false => text.to_owned(),
        })
    });
    Arc::new(filled.collect::<StringArray>())
}

/// Whether a text is a date and a time that ends with minutes, perhaps before a zone.
pub(crate) fn lacks_seconds(text: &str) -> bool {
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

/// `$with_seconds(text)`: see [`with_seconds`].
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct WithSeconds(Signature);

impl Default for WithSeconds {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for WithSeconds {
    fn name(&self) -> &str {
        "$with_seconds"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [texts] = args.args.as_slice() else {
            return exec_err!("{} takes a text", self.name());
        };
        let filled = with_seconds(&texts.to_array(args.number_rows)?);
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
        let filled = with_seconds(&(Arc::new(StringArray::from(texts.to_vec())) as ArrayRef));
        let expected =
            ["2024-03-09 12:00:00", "2024-03-09T12:00:00Z", "2024-03-09 12:00:00+02", texts[3], "é"];
        assert_eq!(filled.as_string::<i32>(), &StringArray::from(expected.to_vec()));
    }
}
