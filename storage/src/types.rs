//! Conversions between the schemas of the manifest and Arrow's, in both directions.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit as ArrowTimeUnit};
use plexus_model::limits::VECTOR_DIMENSIONS_MAX;
use plexus_model::{Column, ColumnType, Error, Result, TableSchema, TimeUnit};

/// Seconds since 1970 of the first and the last instant that the segment format knows: the second day of year
/// -9999, and 22:00 on the last day but one of year 9999, so that both are in that year in all zones.
pub const INSTANT_SECONDS: RangeInclusive<i64> = -377_705_023_201..=253_402_207_200;

/// The Arrow schema of a table's rows.
pub fn to_arrow(schema: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.columns.iter().map(to_field).collect::<Fields>()))
}

/// The Arrow schema of stored rows. Columns are named by their ids, which do not change when a column is
/// renamed.
pub fn to_stored(schema: &TableSchema) -> SchemaRef {
    let stored = |column: &Column| to_field(column).with_name(column.id.to_string());
    Arc::new(Schema::new(schema.columns.iter().map(stored).collect::<Fields>()))
}

/// Converts an Arrow schema to a table schema without a primary key. Columns get the ids 1, 2, and so on.
///
/// # Errors
/// `Unsupported` or `InvalidArgument` names the column whose type segments cannot store.
pub fn from_arrow(schema: &Schema) -> Result<TableSchema> {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| from_field(field, i as u32 + 1))
        .collect::<Result<Vec<_>>>()?;
    let last_column = columns.len() as u32;
    Ok(TableSchema { columns, last_column, ..TableSchema::default() })
}

fn to_field(column: &Column) -> Field {
    Field::new(&column.name, to_data_type(&column.data_type), column.nullable)
}

fn from_field(field: &Field, id: u32) -> Result<Column> {
    let data_type =
        from_data_type(field.data_type()).map_err(|e| e.context(format!("column {:?}", field.name())))?;
    Ok(Column { id, name: field.name().clone(), data_type, nullable: field.is_nullable() })
}

/// The Arrow type of a column type.
pub fn to_data_type(t: &ColumnType) -> DataType {
    let item = |column: &Column| Arc::new(to_field(column));
    match t {
        ColumnType::Null => DataType::Null,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::Float16 => DataType::Float16,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Utf8 => DataType::Utf8,
        ColumnType::LargeUtf8 => DataType::LargeUtf8,
        ColumnType::Utf8View => DataType::Utf8View,
        ColumnType::Binary => DataType::Binary,
        ColumnType::LargeBinary => DataType::LargeBinary,
        ColumnType::BinaryView => DataType::BinaryView,
        ColumnType::Date32 => DataType::Date32,
        ColumnType::Date64 => DataType::Date64,
        ColumnType::Time32(unit) => DataType::Time32(to_unit(*unit)),
        ColumnType::Time64(unit) => DataType::Time64(to_unit(*unit)),
        ColumnType::Timestamp(unit, zone) => {
            DataType::Timestamp(to_unit(*unit), zone.as_deref().map(Into::into))
        }
        ColumnType::Decimal32 { precision, scale } => DataType::Decimal32(*precision, *scale),
        ColumnType::Decimal64 { precision, scale } => DataType::Decimal64(*precision, *scale),
        ColumnType::Decimal128 { precision, scale } => DataType::Decimal128(*precision, *scale),
        ColumnType::Decimal256 { precision, scale } => DataType::Decimal256(*precision, *scale),
        ColumnType::List(column) => DataType::List(item(column)),
        ColumnType::LargeList(column) => DataType::LargeList(item(column)),
        ColumnType::ListView(column) => DataType::ListView(item(column)),
        ColumnType::LargeListView(column) => DataType::LargeListView(item(column)),
        ColumnType::FixedSizeList(column, length) => DataType::FixedSizeList(item(column), *length as i32),
        ColumnType::Struct(columns) => DataType::Struct(columns.iter().map(to_field).collect()),
        ColumnType::Map { entries, keys_sorted } => DataType::Map(item(entries), *keys_sorted),
    }
}

/// The column type of an Arrow type. Dictionary and run-end encoded types become the type of their values,
/// binary values of one size become binary.
///
/// # Errors
/// `Unsupported` when segments cannot store the type. `InvalidArgument` for a fixed-size list whose length is
/// zero or above the limit.
pub fn from_data_type(t: &DataType) -> Result<ColumnType> {
    let item = |field: &Field| from_field(field, 0).map(Box::new);
    Ok(match t {
        // No value says what the type is. Text can become any other.
        DataType::Null => ColumnType::Utf8,
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int8 => ColumnType::Int8,
        DataType::Int16 => ColumnType::Int16,
        DataType::Int32 => ColumnType::Int32,
        DataType::Int64 => ColumnType::Int64,
        DataType::UInt8 => ColumnType::UInt8,
        DataType::UInt16 => ColumnType::UInt16,
        DataType::UInt32 => ColumnType::UInt32,
        DataType::UInt64 => ColumnType::UInt64,
        DataType::Float16 => ColumnType::Float16,
        DataType::Float32 => ColumnType::Float32,
        DataType::Float64 => ColumnType::Float64,
        DataType::Utf8 => ColumnType::Utf8,
        DataType::LargeUtf8 => ColumnType::LargeUtf8,
        DataType::Utf8View => ColumnType::Utf8View,
        DataType::Binary => ColumnType::Binary,
        DataType::LargeBinary => ColumnType::LargeBinary,
        DataType::BinaryView => ColumnType::BinaryView,
        DataType::Date32 => ColumnType::Date32,
        DataType::Date64 => ColumnType::Date64,
        DataType::Time32(unit) => ColumnType::Time32(from_unit(*unit)),
        DataType::Time64(unit) => ColumnType::Time64(from_unit(*unit)),
        DataType::Timestamp(unit, zone) => {
            if let Some(zone) = zone
                && Tz::from_str(zone).is_err()
            {
                return Err(Error::invalid(format!("{zone:?} is not the name of a time zone")));
            }
            ColumnType::Timestamp(from_unit(*unit), zone.as_deref().map(Into::into))
        }
        DataType::Decimal32(precision, scale) => {
            ColumnType::Decimal32 { precision: *precision, scale: *scale }
        }
        DataType::Decimal64(precision, scale) => {
            ColumnType::Decimal64 { precision: *precision, scale: *scale }
        }
        DataType::Decimal128(precision, scale) => {
            ColumnType::Decimal128 { precision: *precision, scale: *scale }
        }
        DataType::Decimal256(precision, scale) => {
            ColumnType::Decimal256 { precision: *precision, scale: *scale }
        }
        DataType::List(field) => ColumnType::List(item(field)?),
        DataType::LargeList(field) => ColumnType::LargeList(item(field)?),
        DataType::ListView(field) => ColumnType::ListView(item(field)?),
        DataType::LargeListView(field) => ColumnType::LargeListView(item(field)?),
        DataType::FixedSizeList(field, length) => {
            let length = u32::try_from(*length)
                .ok()
                .filter(|n| (1..=VECTOR_DIMENSIONS_MAX).contains(n))
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "a fixed-size list of {length}: must be from 1 to {VECTOR_DIMENSIONS_MAX}"
                    ))
                })?;
            ColumnType::FixedSizeList(item(field)?, length)
        }
        DataType::Struct(fields) if fields.is_empty() => {
            return Err(Error::invalid("a struct without fields holds no value"));
        }
        DataType::Struct(fields) => {
            let mut names = HashSet::new();
            if let Some(field) = fields.iter().find(|field| !names.insert(field.name())) {
                return Err(Error::invalid(format!("a struct has two fields {:?}", field.name())));
            }
            ColumnType::Struct(fields.iter().map(|f| from_field(f, 0)).collect::<Result<Vec<_>>>()?)
        }
        DataType::Map(entries, keys_sorted) => {
            ColumnType::Map { entries: item(entries)?, keys_sorted: *keys_sorted }
        }
        // These types are encodings, not logical types. Segments choose their own encodings.
        DataType::Dictionary(_, values) => from_data_type(values)?,
        DataType::RunEndEncoded(_, values) => from_data_type(values.data_type())?,
        DataType::FixedSizeBinary(_) => ColumnType::Binary,
        other => {
            return Err(Error::unsupported(format!("type {other} cannot be stored in a table")));
        }
    })
}

/// The type of vectors with `length` components: `VECTOR(n)` has `Float32` components, `HALFVEC(n)` has
/// `Float16` components.
pub fn vector_type(component: ColumnType, length: u32) -> ColumnType {
    let item = Column { id: 0, name: "item".into(), data_type: component, nullable: false };
    ColumnType::FixedSizeList(Box::new(item), length)
}

fn to_unit(unit: TimeUnit) -> ArrowTimeUnit {
    match unit {
        TimeUnit::Second => ArrowTimeUnit::Second,
        TimeUnit::Millisecond => ArrowTimeUnit::Millisecond,
        TimeUnit::Microsecond => ArrowTimeUnit::Microsecond,
        TimeUnit::Nanosecond => ArrowTimeUnit::Nanosecond,
    }
}

fn from_unit(unit: ArrowTimeUnit) -> TimeUnit {
    match unit {
        ArrowTimeUnit::Second => TimeUnit::Second,
        ArrowTimeUnit::Millisecond => TimeUnit::Millisecond,
        ArrowTimeUnit::Microsecond => TimeUnit::Microsecond,
        ArrowTimeUnit::Nanosecond => TimeUnit::Nanosecond,
    }
}
