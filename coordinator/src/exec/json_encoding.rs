//! How values are written in JSON, where JSON has no form for them, so that `plexus load` reads them back:
//! bytes as hexadecimal digits after `\x`, and floats that are not numbers as texts.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{Float32Type, Float64Type};
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder};
use arrow_schema::{ArrowError, DataType, FieldRef};

/// Encoders for bytes and floats.
#[derive(Debug)]
pub struct ExactValues;

impl EncoderFactory for ExactValues {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder> = match array.data_type() {
            data_type if data_type.is_binary() => {
                Box::new(Bytes(cast(array, &DataType::Binary)?.as_binary::<i32>().clone()))
            }
            DataType::Float64 => Box::new(Floats(array.as_primitive::<Float64Type>().clone())),
            DataType::Float32 => Box::new(Floats(array.as_primitive::<Float32Type>().clone())),
            DataType::Float16 => {
                let wide: ArrayRef = cast(array, &DataType::Float32)?;
                Box::new(Floats(wide.as_primitive::<Float32Type>().clone()))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Options for JSON with such values, in which missing values are written.
pub(crate) fn options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactValues))
}

/// Bytes as PostgreSQL writes them: `\x6b6c`.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Bytes(BinaryArray);

impl Encoder for Bytes {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"\\");
        out.extend_from_slice(hexadecimal(self.0.value(row)).as_bytes());
        out.push(b'"');
    }
}

struct Floats<T: ArrowPrimitiveType>(PrimitiveArray<T>);

impl<T: ArrowPrimitiveType<Native: Into<f64> + std::fmt::Debug>> Encoder for Floats<T> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let wide: f64 = value.into();
        let text = match () {
            () if wide.is_finite() => format!("{value:?}"),
            () if wide.is_nan() => "\"NaN\"".to_owned(),
            () if wide > 0.0 => "\"inf\"".to_owned(),
            () => "\"-inf\"".to_owned(),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array};
    use arrow::json::writer::make_encoder;
    use arrow_schema::Field;

    use super::*;

    #[test]
    fn values_without_a_form_in_json_are_texts() {
        let written = |array: ArrayRef| {
            let field = Arc::new(Field::new("v", array.data_type().clone(), true));
            let options = options();
            let mut encoder = make_encoder(&field, &array, &options).unwrap();
            let mut out = Vec::new();
            for row in 0..array.len() {
                if row > 0 {
                    out.push(b' ');
                }
                encoder.encode(row, &mut out);
            }
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Arc::new(BinaryArray::from(vec![b"kl".as_slice(), b""]))), r#""\\x6b6c" "\\x""#);
        let floats = vec![0.1, -0.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(written(Arc::new(Float64Array::from(floats))), r#"0.1 -0.0 1e300 "NaN" "inf" "-inf""#);
        assert_eq!(written(Arc::new(Float32Array::from(vec![0.1, 1.5e20]))), "0.1 1.5e20");
    }
}
