//! Column statistics of segments, in a compact encoding: every node holds those of all segments in memory.

use rkyv::{Archive, Deserialize, Serialize};

/// Smallest or largest value of a column, for pruning. Only small ordered types have bounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// Signed integers, dates, times and timestamps, in the unit of the column.
    Int(i64),
    /// Unsigned integers.
    UInt(u64),
    /// Never NaN: a column that contains NaN has no bounds.
    Float(f64),
    /// Decimals of at most 128 bits, at the scale of the column.
    Decimal(i128),
}

/// Statistics of one column of one segment.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnStatistics {
    /// Id of the column.
    pub column: u32,
    /// Number of nulls.
    pub nulls: u64,
    /// Smallest and largest value that is not null. Exact.
    pub bounds: Option<(Bound, Bound)>,
    /// Estimated number of distinct values, within a few percent.
    pub distinct: Option<u64>,
    /// Size of the values in memory in bytes, for types of variable size and nested types. Rounded by the
    /// encoding to 11 significant bits.
    pub bytes: Option<u64>,
}

impl ColumnStatistics {
    /// Empty statistics of the column with this id.
    pub fn new(column: u32) -> Self {
        Self { column, nulls: 0, bounds: None, distinct: None, bytes: None }
    }
}

/// The encoded statistics of the columns of a segment.
///
/// Each column starts with a byte of flags. Then follow, as LEB128 variable-length integers and as far as the
/// flags announce them:
///
/// 1. the difference of the column id and the previous one (absent when it is 1);
/// 2. the number of nulls (absent when it is 0);
/// 3. the number of distinct values, rounded to a minifloat of 16 bits;
/// 4. the size in bytes, rounded in the same way;
/// 5. the lower bound, and the difference of the upper and the lower bound. Signed values use zigzag
///    encoding. Floats store both bounds.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics(Vec<u8>);

/// Bits of the flags that hold the type of the bounds; 0 when there are none.
const KIND_MASK: u8 = 0b111;
const KIND_INT: u8 = 1;
const KIND_UINT: u8 = 2;
const KIND_FLOAT: u8 = 3;
const KIND_DECIMAL: u8 = 4;
const HAS_NULLS: u8 = 1 << 3;
const HAS_DISTINCT: u8 = 1 << 4;
const HAS_BYTES: u8 = 1 << 5;
/// The column id does not directly follow the previous one.
const HAS_ID_STEP: u8 = 1 << 6;

impl Statistics {
    /// Encodes the statistics of all columns, in the order of their ids.
    ///
    /// # Panics
    /// When the two bounds of a column have different types.
    pub fn new(columns: &[ColumnStatistics]) -> Self {
        let mut bytes = Vec::new();
        let mut previous_id = 0;
        for column in columns {
            let step = column.column.wrapping_sub(previous_id);
            previous_id = column.column;
            let kind = match column.bounds {
                None => 0,
                Some((Bound::Int(_), _)) => KIND_INT,
                Some((Bound::UInt(_), _)) => KIND_UINT,
                Some((Bound::Float(_), _)) => KIND_FLOAT,
                Some((Bound::Decimal(_), _)) => KIND_DECIMAL,
            };
            let flag = |is_set, flag| if is_set { flag } else { 0 };
            let flags = flag(column.nulls > 0, HAS_NULLS)
                | flag(column.distinct.is_some(), HAS_DISTINCT)
                | flag(column.bytes.is_some(), HAS_BYTES)
                | flag(step != 1, HAS_ID_STEP);
            bytes.push(kind | flags);
            let exact = [(step != 1).then_some(u64::from(step)), (column.nulls > 0).then_some(column.nulls)];
            exact.into_iter().flatten().for_each(|number| put_varint(&mut bytes, u128::from(number)));
            let rounded = [column.distinct, column.bytes].into_iter().flatten().map(to_minifloat);
            rounded.for_each(|number| put_varint(&mut bytes, u128::from(number)));
            if let Some((min, max)) = column.bounds {
                put_bounds(&mut bytes, min, max);
            }
        }
        bytes.shrink_to_fit();
        Self(bytes)
    }

    /// Decodes the statistics of each column. Ends early at bytes that are not a valid encoding.
    pub fn iter(&self) -> impl Iterator<Item = ColumnStatistics> + '_ {
        let mut rest = self.0.as_slice();
        let mut previous_id = 0;
        std::iter::from_fn(move || {
            let column = take_column(&mut rest, previous_id)?;
            previous_id = column.column;
            Some(column)
        })
    }

    /// Encoded size in bytes.
    pub fn encoded_len(&self) -> usize {
        self.0.len()
    }
}

fn take_column(rest: &mut &[u8], previous_id: u32) -> Option<ColumnStatistics> {
    let flags = take_byte(rest)?;
    let mut exact = |flag: u8, default: u64| match flags & flag {
        0 => Some(default),
        _ => take_varint(rest).map(|n| n as u64),
    };
    let column = previous_id.wrapping_add(exact(HAS_ID_STEP, 1)? as u32);
    let nulls = exact(HAS_NULLS, 0)?;
    let mut rounded = |flag: u8| match flags & flag {
        0 => Some(None),
        _ => Some(Some(from_minifloat(take_varint(rest)? as u16))),
    };
    let (distinct, bytes) = (rounded(HAS_DISTINCT)?, rounded(HAS_BYTES)?);
    let bounds = match flags & KIND_MASK {
        0 => None,
        kind => Some(take_bounds(rest, kind)?),
    };
    Some(ColumnStatistics { column, nulls, bounds, distinct, bytes })
}

fn put_bounds(bytes: &mut Vec<u8>, min: Bound, max: Bound) {
    match (min, max) {
        (Bound::Int(min), Bound::Int(max)) => {
            put_varint(bytes, zigzag(i128::from(min)));
            put_varint(bytes, u128::from(max.wrapping_sub(min) as u64));
        }
        (Bound::UInt(min), Bound::UInt(max)) => {
            put_varint(bytes, u128::from(min));
            put_varint(bytes, u128::from(max.wrapping_sub(min)));
        }
        (Bound::Decimal(min), Bound::Decimal(max)) => {
            put_varint(bytes, zigzag(min));
            put_varint(bytes, max.wrapping_sub(min) as u128);
        }
        (Bound::Float(min), Bound::Float(max)) => {
            // The low bits of a round number are zero. Swapped to the top, they take no bytes in a varint.
            put_varint(bytes, u128::from(min.to_bits().swap_bytes()));
            put_varint(bytes, u128::from(max.to_bits().swap_bytes()));
        }
        _ => unreachable!("bounds of one column have one type"),
    }
}

fn take_bounds(rest: &mut &[u8], kind: u8) -> Option<(Bound, Bound)> {
    let (first, second) = (take_varint(rest)?, take_varint(rest)?);
    let float = |bits: u128| Bound::Float(f64::from_bits((bits as u64).swap_bytes()));
    Some(match kind {
        KIND_INT => {
            let min = unzigzag(first) as i64;
            (Bound::Int(min), Bound::Int(min.wrapping_add(second as u64 as i64)))
        }
        KIND_UINT => (Bound::UInt(first as u64), Bound::UInt((first as u64).wrapping_add(second as u64))),
        KIND_FLOAT => (float(first), float(second)),
        KIND_DECIMAL => {
            let min = unzigzag(first);
            (Bound::Decimal(min), Bound::Decimal(min.wrapping_add(second as i128)))
        }
        _ => return None,
    })
}

/// Zigzag encoding: maps integers of small magnitude, of either sign, to small unsigned integers.
fn zigzag(value: i128) -> u128 {
    ((value << 1) ^ (value >> 127)) as u128
}

fn unzigzag(value: u128) -> i128 {
    (value >> 1) as i128 ^ -((value & 1) as i128)
}

/// Appends a LEB128 integer: seven bits per byte, the least significant first.
fn put_varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Mantissa bits of a minifloat, without the implicit leading one.
const MANTISSA_BITS: u32 = 10;

/// Rounds a number down to 11 significant bits: an unsigned floating-point number with 6 bits of exponent and
/// 10 bits of mantissa. Numbers below 2,048 are exact.
fn to_minifloat(number: u64) -> u16 {
    let exponent = number.max(1).ilog2();
    match exponent <= MANTISSA_BITS {
        true => number as u16,
        false => {
            // The leading one of the mantissa adds one to the exponent; `from_minifloat` subtracts it.
            let mantissa = (number >> (exponent - MANTISSA_BITS)) as u16;
            (((exponent - MANTISSA_BITS) << MANTISSA_BITS) as u16) + mantissa
        }
    }
}

fn from_minifloat(rounded: u16) -> u64 {
    let shift = u32::from(rounded >> MANTISSA_BITS).saturating_sub(1).min(u64::BITS - 1 - MANTISSA_BITS);
    (u64::from(rounded) - (u64::from(shift) << MANTISSA_BITS)) << shift
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

/// Reads a LEB128 integer of at most 19 bytes, enough for 128 bits.
fn take_varint(rest: &mut &[u8]) -> Option<u128> {
    let mut value = 0;
    for index in 0..19 {
        let byte = take_byte(rest)?;
        value |= u128::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds() -> impl Strategy<Value = Option<(Bound, Bound)>> {
        prop_oneof![
            Just(None),
            any::<(i64, i64)>().prop_map(|(a, b)| Some((Bound::Int(a.min(b)), Bound::Int(a.max(b))))),
            any::<(u64, u64)>().prop_map(|(a, b)| Some((Bound::UInt(a.min(b)), Bound::UInt(a.max(b))))),
            any::<(f64, f64)>().prop_map(|(a, b)| Some((Bound::Float(a), Bound::Float(b)))),
            any::<(i128, i128)>()
                .prop_map(|(a, b)| Some((Bound::Decimal(a.min(b)), Bound::Decimal(a.max(b))))),
        ]
    }

    fn column() -> impl Strategy<Value = ColumnStatistics> {
        (any::<u32>(), any::<u64>(), bounds(), any::<Option<u64>>(), any::<Option<u64>>()).prop_map(
            |(column, nulls, bounds, distinct, bytes)| ColumnStatistics {
                column,
                nulls,
                bounds,
                distinct,
                bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn decoding_restores_the_statistics(columns in proptest::collection::vec(column(), 0..20)) {
            let decoded: Vec<_> = Statistics::new(&columns).iter().collect();
            let rounded = |c: ColumnStatistics| ColumnStatistics {
                distinct: c.distinct.map(|n| from_minifloat(to_minifloat(n))),
                bytes: c.bytes.map(|n| from_minifloat(to_minifloat(n))),
                ..c
            };
            prop_assert_eq!(decoded, columns.into_iter().map(rounded).collect::<Vec<_>>());
        }

        #[test]
        fn minifloats_are_off_by_a_thousandth_at_most(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let error = from_minifloat(to_minifloat(number)).abs_diff(number);
            prop_assert!(error <= number / 1_000, "{number} became {}", from_minifloat(to_minifloat(number)));
        }

        #[test]
        fn decoding_arbitrary_bytes_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Statistics(bytes).iter().count();
        }
    }

    #[test]
    fn small_numbers_are_encoded_in_few_bytes() {
        let statistics = |column, bounds| ColumnStatistics {
            bounds: Some(bounds),
            distinct: Some(500),
            ..ColumnStatistics::new(column)
        };
        let columns = [
            statistics(1, (Bound::Int(1), Bound::Int(100_000))),
            statistics(2, (Bound::Decimal(100), Bound::Decimal(5_000))),
            statistics(3, (Bound::Float(0.0), Bound::Float(0.5))),
        ];
        assert_eq!(Statistics::new(&columns).encoded_len(), 3 * 3 + (1 + 3) + (2 + 2) + (1 + 3));
    }
}
