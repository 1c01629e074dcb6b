//! Decimals as doubles, each the nearest one. A division of the digits as a double by a power of ten rounds
//! twice, and takes 2805.000000000000000000 for 2804.9999999999995.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute;
use arrow::datatypes::{Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type};
use arrow_schema::{ArrowError, DataType};

/// Integers up to this one are doubles.
const EXACT_MAX: u128 = 1 << 53;

/// The powers of ten that are doubles.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Decimals as doubles or narrower floats; `None` for other types.
///
/// # Errors
/// Those of a cast to a narrower float.
pub fn decimals_as_floats(array: &ArrayRef, to: &DataType) -> Option<Result<ArrayRef, ArrowError>> {
    if !to.is_floating() {
        return None;
    }
    let doubles: Float64Array = match array.data_type() {
        DataType::Decimal32(_, scale) => {
            array.as_primitive::<Decimal32Type>().unary(|digits| double(i128::from(digits), *scale))
        }
        DataType::Decimal64(_, scale) => {
            array.as_primitive::<Decimal64Type>().unary(|digits| double(i128::from(digits), *scale))
        }
        DataType::Decimal128(_, scale) => {
            array.as_primitive::<Decimal128Type>().unary(|digits| double(digits, *scale))
        }
        DataType::Decimal256(_, scale) => {
            array.as_primitive::<Decimal256Type>().unary(|digits| match digits.to_i128() {
                Some(digits) => double(digits, *scale),
                None => parsed(&digits, *scale),
            })
        }
        _ => return None,
    };
    let doubles: ArrayRef = Arc::new(doubles);
    Some(if *to == DataType::Float64 { Ok(doubles) } else { compute::cast(&doubles, to) })
}

/// The double nearest to `digits` divided by a power of ten.
fn double(mut digits: i128, mut scale: i8) -> f64 {
    while digits.unsigned_abs() > EXACT_MAX && scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    if digits.unsigned_abs() <= EXACT_MAX
        && let Some(power) = POWERS.get(usize::from(scale.unsigned_abs()))
    {
        // Of two doubles, the result is rounded once.
        return if scale < 0 { digits as f64 * power } else { digits as f64 / power };
    }
    parsed(&digits, scale)
}

fn parsed(digits: &impl std::fmt::Display, scale: i8) -> f64 {
    // Digits with an exponent are a number.
    format!("{digits}e{}", -i16::from(scale)).parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use arrow::array::Decimal128Array;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_decimal_becomes_the_nearest_double(
            digits in any::<i128>(),
            shift in 0u32..127,
            scale in -10i8..39,
        ) {
            let digits = digits >> shift;
            prop_assert_eq!(double(digits, scale), parsed(&digits, scale));
        }

        #[test]
        fn whole_numbers_stay_whole(number in -1_000_000_000i128..1_000_000_000, scale in 0u32..20) {
            let digits = number * 10i128.pow(scale);
            prop_assert_eq!(double(digits, scale as i8), number as f64);
        }
    }

    #[test]
    fn nulls_stay_null() {
        let decimals = Decimal128Array::from(vec![Some(2805 * 10i128.pow(18)), None]);
        let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(38, 18).unwrap());
        let doubles = decimals_as_floats(&decimals, &DataType::Float64).unwrap().unwrap();
        assert_eq!(doubles.as_ref(), &Float64Array::from(vec![Some(2805.0), None]) as &dyn Array);
        assert!(decimals_as_floats(&doubles, &DataType::Float64).is_none());
    }
}
