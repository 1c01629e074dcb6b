//! What the manifest knows of the columns of a segment, in few bytes: every node holds that of all segments.

use rkyv::{Archive, Deserialize, Serialize};

/// Smallest or largest value of a column, for pruning. Only types that are ordered and small.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// Integers, dates, times, timestamps; the column's own unit.
    Int(i64),
    UInt(u64),
    /// Never NaN: a column that holds one has no bounds.
    Float(f64),
    /// Decimals that fit, at the column's scale.
    Decimal(i128),
}

/// Statistics of one column of one segment.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnStatistics {
    /// Id of the column.
    pub column: u32,
    pub nulls: u64,
    /// Smallest and largest value that is not null.
    pub bounds: Option<(Bound, Bound)>,
    /// How many different values there are, within a few percent.
    pub distinct: Option<u64>,
    /// Bytes of the values in memory, within a few percent, for types whose values differ in size or are nested.
    pub bytes: Option<u64>,
}

impl ColumnStatistics {
    pub fn new(column: u32) -> Self {
        Self { column, nulls: 0, bounds: None, distinct: None, bytes: None }
    }
}

/// The statistics of the columns of a segment, packed: small numbers take few bytes.
///
/// For each column: a byte that says what follows, and then, as variable-length integers of seven bits a byte: by
/// how much its id is above the one before, unless it is the next; nulls; different values and bytes, both
/// rounded; the lower bound, and the upper bound as a distance from it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics(Vec<u8>);

const KIND: u8 = 0b111;
const INT: u8 = 1;
const UINT: u8 = 2;
const FLOAT: u8 = 3;
const DECIMAL: u8 = 4;
const NULLS: u8 = 1 << 3;
const DISTINCT: u8 = 1 << 4;
const BYTES: u8 = 1 << 5;
/// The id is not the one after that of the column before.
const OTHER: u8 = 1 << 6;

impl Statistics {
    pub fn new(columns: &[ColumnStatistics]) -> Self {
        let mut bytes = Vec::new();
        let mut before = 0;
        for column in columns {
            let step = column.column.wrapping_sub(before);
            before = column.column;
            let kind = match column.bounds {
                None => 0,
                Some((Bound::Int(_), _)) => INT,
                Some((Bound::UInt(_), _)) => UINT,
                Some((Bound::Float(_), _)) => FLOAT,
                Some((Bound::Decimal(_), _)) => DECIMAL,
            };
            let flag = |there, flag| if there { flag } else { 0 };
            let nulls = flag(column.nulls > 0, NULLS);
            let rest = flag(column.distinct.is_some(), DISTINCT) | flag(column.bytes.is_some(), BYTES);
            bytes.push(kind | nulls | rest | flag(step != 1, OTHER));
            let exact = [(step != 1).then_some(u64::from(step)), (column.nulls > 0).then_some(column.nulls)];
            exact.into_iter().flatten().for_each(|number| put(&mut bytes, u128::from(number)));
            let rounded = [column.distinct, column.bytes].into_iter().flatten().map(round);
            rounded.for_each(|number| put(&mut bytes, u128::from(number)));
            if let Some((min, max)) = column.bounds {
                put_bounds(&mut bytes, min, max);
            }
        }
        bytes.shrink_to_fit();
        Self(bytes)
    }

    /// Each column in turn. What is not of this form ends it.
    pub fn iter(&self) -> impl Iterator<Item = ColumnStatistics> + '_ {
        let mut rest = self.0.as_slice();
        let mut before = 0;
        std::iter::from_fn(move || {
            let column = take_column(&mut rest, before)?;
            before = column.column;
            Some(column)
        })
    }

    /// Bytes that they take.
    pub fn weight(&self) -> usize {
        self.0.len()
    }
}

fn take_column(rest: &mut &[u8], before: u32) -> Option<ColumnStatistics> {
    let flags = take_byte(rest)?;
    let mut number = |flag: u8, absent: u64| match flags & flag {
        0 => Some(absent),
        _ => take(rest).map(|n| n as u64),
    };
    let column = before.wrapping_add(number(OTHER, 1)? as u32);
    let nulls = number(NULLS, 0)?;
    let mut rounded = |flag: u8| match flags & flag {
        0 => Some(None),
        _ => Some(Some(unround(take(rest)? as u16))),
    };
    let (distinct, bytes) = (rounded(DISTINCT)?, rounded(BYTES)?);
    let bounds = match flags & KIND {
        0 => None,
        kind => Some(take_bounds(rest, kind)?),
    };
    Some(ColumnStatistics { column, nulls, bounds, distinct, bytes })
}

fn put_bounds(bytes: &mut Vec<u8>, min: Bound, max: Bound) {
    match (min, max) {
        (Bound::Int(min), Bound::Int(max)) => {
            put(bytes, zigzag(i128::from(min)));
            put(bytes, u128::from(max.wrapping_sub(min) as u64));
        }
        (Bound::UInt(min), Bound::UInt(max)) => {
            put(bytes, u128::from(min));
            put(bytes, u128::from(max.wrapping_sub(min)));
        }
        (Bound::Decimal(min), Bound::Decimal(max)) => {
            put(bytes, zigzag(min));
            put(bytes, max.wrapping_sub(min) as u128);
        }
        (Bound::Float(min), Bound::Float(max)) => {
            // The bits at the end of a round number are zero: they come first here, and so cost nothing.
            put(bytes, u128::from(min.to_bits().swap_bytes()));
            put(bytes, u128::from(max.to_bits().swap_bytes()));
        }
        _ => unreachable!("bounds of one column have one type"),
    }
}

fn take_bounds(rest: &mut &[u8], kind: u8) -> Option<(Bound, Bound)> {
    let (first, second) = (take(rest)?, take(rest)?);
    let float = |bits: u128| Bound::Float(f64::from_bits((bits as u64).swap_bytes()));
    Some(match kind {
        INT => {
            let min = unzigzag(first) as i64;
            (Bound::Int(min), Bound::Int(min.wrapping_add(second as u64 as i64)))
        }
        UINT => (Bound::UInt(first as u64), Bound::UInt((first as u64).wrapping_add(second as u64))),
        FLOAT => (float(first), float(second)),
        DECIMAL => {
            let min = unzigzag(first);
            (Bound::Decimal(min), Bound::Decimal(min.wrapping_add(second as i128)))
        }
        _ => return None,
    })
}

/// Numbers near zero, of either sign, as small numbers.
fn zigzag(value: i128) -> u128 {
    ((value << 1) ^ (value >> 127)) as u128
}

fn unzigzag(value: u128) -> i128 {
    (value >> 1) as i128 ^ -((value & 1) as i128)
}

fn put(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Bits of a rounded number after its first.
const MANTISSA_BITS: u32 = 10;

/// A number as the place of its first bit, and the ten bits after it; small ones as they are.
fn round(number: u64) -> u16 {
    let place = number.max(1).ilog2();
    match place <= MANTISSA_BITS {
        true => number as u16,
        false => {
            let mantissa = (number >> (place - MANTISSA_BITS)) as u16;
            (((place - MANTISSA_BITS) << MANTISSA_BITS) as u16) + mantissa
        }
    }
}

fn unround(rounded: u16) -> u64 {
    let shift = u32::from(rounded >> MANTISSA_BITS).saturating_sub(1).min(u64::BITS - 1 - MANTISSA_BITS);
    (u64::from(rounded) - (u64::from(shift) << MANTISSA_BITS)) << shift
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

fn take(rest: &mut &[u8]) -> Option<u128> {
    let mut value = 0;
    for place in 0..19 {
        let byte = take_byte(rest)?;
        value |= u128::from(byte & 0x7f) << (7 * place);
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
        fn packing_keeps_everything(columns in proptest::collection::vec(column(), 0..20)) {
            let unpacked: Vec<_> = Statistics::new(&columns).iter().collect();
            let rounded = |c: ColumnStatistics| ColumnStatistics {
                distinct: c.distinct.map(|n| unround(round(n))),
                bytes: c.bytes.map(|n| unround(round(n))),
                ..c
            };
            prop_assert_eq!(unpacked, columns.into_iter().map(rounded).collect::<Vec<_>>());
        }

        #[test]
        fn rounding_is_a_thousandth_off_at_most(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let off = unround(round(number)).abs_diff(number);
            prop_assert!(off <= number / 1_000, "{number} became {}", unround(round(number)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Statistics(bytes).iter().count();
        }
    }

    #[test]
    fn small_numbers_take_few_bytes() {
        let known = |column, bounds| ColumnStatistics {
            bounds: Some(bounds),
            distinct: Some(500),
            ..ColumnStatistics::new(column)
        };
        let columns = [
            known(1, (Bound::Int(1), Bound::Int(100_000))),
            known(2, (Bound::Decimal(100), Bound::Decimal(5_000))),
            known(3, (Bound::Float(0.0), Bound::Float(0.5))),
        ];
        assert_eq!(Statistics::new(&columns).weight(), 3 * 3 + (1 + 3) + (2 + 2) + (1 + 3));
    }
}
