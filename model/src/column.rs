//! Columns and their types. They are independent of Arrow's types, so that the encoding of the log does not
//! change with the version of a library.

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{COLUMNS_MAX, NAME_BYTES_MAX, NESTING_MAX};
use crate::{Error, Result};

/// The resolution of times and timestamps.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimeUnit {
    /// Seconds.
    Second,
    /// Milliseconds.
    Millisecond,
    /// Microseconds.
    Microsecond,
    /// Nanoseconds.
    Nanosecond,
}

/// The type of a column: the Arrow types that segments store without conversion.
///
/// The meaning of each variant is that of Arrow's `DataType` of the same name
/// (<https://arrow.apache.org/docs/format/Columnar.html>).
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum ColumnType {
    /// Only nulls.
    Null,
    /// True or false.
    Boolean,
    /// Signed 8-bit integer.
    Int8,
    /// Signed 16-bit integer.
    Int16,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// Unsigned 8-bit integer.
    UInt8,
    /// Unsigned 16-bit integer.
    UInt16,
    /// Unsigned 32-bit integer.
    UInt32,
    /// Unsigned 64-bit integer.
    UInt64,
    /// IEEE 754 half precision.
    Float16,
    /// IEEE 754 single precision.
    Float32,
    /// IEEE 754 double precision.
    Float64,
    /// Text with 32-bit offsets.
    Utf8,
    /// Text with 64-bit offsets.
    LargeUtf8,
    /// Text as views.
    Utf8View,
    /// Bytes with 32-bit offsets.
    Binary,
    /// Bytes with 64-bit offsets.
    LargeBinary,
    /// Bytes as views.
    BinaryView,
    /// Days since 1970.
    Date32,
    /// Milliseconds since 1970, of whole days.
    Date64,
    /// Time of day in 32 bits: seconds or milliseconds.
    Time32(TimeUnit),
    /// Time of day in 64 bits: microseconds or nanoseconds.
    Time64(TimeUnit),
    /// Time since 1970, with an optional time zone.
    Timestamp(TimeUnit, Option<String>),
    /// Fixed-point decimal in 32 bits.
    Decimal32 {
        /// Number of digits, at most 9.
        precision: u8,
        /// Number of digits after the decimal point; negative for a multiple of a power of ten.
        scale: i8,
    },
    /// Fixed-point decimal in 64 bits.
    Decimal64 {
        /// Number of digits, at most 18.
        precision: u8,
        /// Number of digits after the decimal point; negative for a multiple of a power of ten.
        scale: i8,
    },
    /// Fixed-point decimal in 128 bits.
    Decimal128 {
        /// Number of digits, at most 38.
        precision: u8,
        /// Number of digits after the decimal point; negative for a multiple of a power of ten.
        scale: i8,
    },
    /// Fixed-point decimal in 256 bits.
    Decimal256 {
        /// Number of digits, at most 76.
        precision: u8,
        /// Number of digits after the decimal point; negative for a multiple of a power of ten.
        scale: i8,
    },
    /// List with 32-bit offsets. The column describes the items.
    List(#[rkyv(omit_bounds)] Box<Column>),
    /// List with 64-bit offsets. The column describes the items.
    LargeList(#[rkyv(omit_bounds)] Box<Column>),
    /// List with 32-bit offsets and sizes. The column describes the items.
    ListView(#[rkyv(omit_bounds)] Box<Column>),
    /// List with 64-bit offsets and sizes. The column describes the items.
    LargeListView(#[rkyv(omit_bounds)] Box<Column>),
    /// Lists of one length. `VECTOR(n)` is a list of `n` `Float32` items that are not null, and `HALFVEC(n)`
    /// one of `Float16` items.
    FixedSizeList(#[rkyv(omit_bounds)] Box<Column>, u32),
    /// Record of named fields.
    Struct(#[rkyv(omit_bounds)] Vec<Column>),
    /// List of key-value pairs.
    Map {
        /// A struct with two fields: the key and the value.
        #[rkyv(omit_bounds)]
        entries: Box<Column>,
        /// Whether the keys of each value are sorted.
        keys_sorted: bool,
    },
}

/// A column of a table, or a field of a nested type. Segments refer to a column by its id, so that
/// renaming it does not rewrite them.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Column {
    /// Unique within the table and never reused. 0 inside nested types.
    pub id: u32,
    /// The name in SQL.
    pub name: String,
    /// The type of its values.
    pub data_type: ColumnType,
    /// Whether values may be null.
    pub nullable: bool,
}

impl ColumnType {
    /// Whether equal values have equal bytes, which the hash of a primary key requires.
    pub(crate) fn is_hashable_key(&self) -> bool {
        !matches!(
            self,
            Self::Float16
                | Self::Float32
                | Self::Float64
                | Self::List(_)
                | Self::LargeList(_)
                | Self::ListView(_)
                | Self::LargeListView(_)
                | Self::FixedSizeList(..)
                | Self::Struct(_)
                | Self::Map { .. }
                | Self::Null
        )
    }

    /// Whether values are text.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Utf8 | Self::LargeUtf8 | Self::Utf8View)
    }

    /// Number of components of a vector type; `None` for other types.
    pub fn vector_dimensions(&self) -> Option<u32> {
        match self {
            Self::FixedSizeList(item, length)
                if matches!(item.data_type, Self::Float16 | Self::Float32 | Self::Float64) =>
            {
                Some(*length)
            }
            _ => None,
        }
    }

    /// Bounds the nested fields of a type, because every node keeps the type in memory. `fields` counts the
    /// fields of the whole column.
    pub(crate) fn validate(&self, depth: usize, fields: &mut usize) -> Result<()> {
        if depth > NESTING_MAX {
            return Err(Error::invalid(format!("the type is nested more than {NESTING_MAX} times")));
        }
        let nested: &[Column] = match self {
            Self::Timestamp(_, Some(zone)) if zone.len() > NAME_BYTES_MAX => {
                return Err(Error::invalid(format!(
                    "a time zone of {} bytes is longer than {NAME_BYTES_MAX}",
                    zone.len()
                )));
            }
            Self::List(item)
            | Self::LargeList(item)
            | Self::ListView(item)
            | Self::LargeListView(item)
            | Self::FixedSizeList(item, _)
            | Self::Map { entries: item, .. } => std::slice::from_ref(item),
            Self::Struct(columns) => columns,
            _ => &[],
        };
        *fields += nested.len();
        if *fields > COLUMNS_MAX {
            return Err(Error::invalid(format!("the type has more than {COLUMNS_MAX} fields")));
        }
        for column in nested {
            if column.name.len() > NAME_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "a field name of {} bytes is longer than {NAME_BYTES_MAX}",
                    column.name.len()
                )));
            }
            column.data_type.validate(depth + 1, fields)?;
        }
        Ok(())
    }
}
