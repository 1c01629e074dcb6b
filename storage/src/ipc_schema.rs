//! What the schema in an Arrow IPC message announces, checked before the decoder turns it into types: it
//! panics for what it does not know.

use arrow_ipc::{DateUnit, Endianness, Field, IntervalUnit, Precision, Schema, TimeUnit, Type};
use plexus_model::{Error, Result};

/// Levels of types within types.
const DEPTH_MAX: usize = 64;

/// Checks the fields of a schema.
///
/// # Errors
/// `InvalidArgument` names the first field that cannot be decoded.
pub(crate) fn check_schema(schema: Schema<'_>) -> Result<()> {
    if schema.endianness() != Endianness::Little {
        return Err(Error::invalid("a schema whose numbers are not little-endian is not supported"));
    }
    let fields = schema.fields().ok_or_else(|| Error::invalid("a schema without a list of fields"))?;
    fields.iter().try_for_each(|field| check_field(field, 0))
}

fn check_field(field: Field<'_>, depth: usize) -> Result<()> {
    let children = field.children();
    let count = children.map_or(0, |children| children.len());
    let is_known =
        depth < DEPTH_MAX && has_known_type(field) && has_known_index(field) && is_count_right(field, count);
    if !is_known {
        return Err(Error::invalid(format!(
            "field {:?} has type {:?}, which is not supported, or not with its properties",
            field.name().unwrap_or_default(),
            field.type_type()
        )));
    }
    children.into_iter().flatten().try_for_each(|child| check_field(child, depth + 1))
}

/// Whether a type has as many parts as it must have.
fn is_count_right(field: Field<'_>, count: usize) -> bool {
    match field.type_type() {
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView | Type::FixedSizeList => {
            count == 1
        }
        // Its entries are a struct of keys and values.
        Type::Map => {
            let entries = field.children().filter(|_| count == 1).map(|children| children.get(0));
            entries.is_some_and(|entries| {
                entries.type_type() == Type::Struct_
                    && entries.children().is_some_and(|parts| parts.len() == 2)
            })
        }
        Type::RunEndEncoded => {
            let ends = field.children().filter(|_| count == 2).map(|children| children.get(0));
            let ends = ends.and_then(|ends| ends.type_as_int());
            ends.is_some_and(|ends| ends.is_signed() && matches!(ends.bitWidth(), 16 | 32 | 64))
        }
        Type::Struct_ => field.children().is_some(),
        _ => count == 0,
    }
}

/// Whether the numbers of a dictionary have a type that the decoder knows.
fn has_known_index(field: Field<'_>) -> bool {
    field.dictionary().is_none_or(|dictionary| {
        dictionary.indexType().is_some_and(|index| matches!(index.bitWidth(), 8 | 16 | 32 | 64))
    })
}

fn has_known_type(field: Field<'_>) -> bool {
    match field.type_type() {
        Type::Null
        | Type::Bool
        | Type::Binary
        | Type::BinaryView
        | Type::LargeBinary
        | Type::Utf8
        | Type::Utf8View
        | Type::LargeUtf8
        | Type::List
        | Type::LargeList
        | Type::ListView
        | Type::LargeListView
        | Type::Struct_
        | Type::RunEndEncoded => true,
        Type::Map => field.type_as_map().is_some(),
        Type::Int => field.type_as_int().is_some_and(|int| matches!(int.bitWidth(), 8 | 16 | 32 | 64)),
        Type::FixedSizeBinary => {
            field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() >= 0)
        }
        Type::FixedSizeList => field.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0),
        Type::FloatingPoint => field.type_as_floating_point().is_some_and(|float| {
            matches!(float.precision(), Precision::HALF | Precision::SINGLE | Precision::DOUBLE)
        }),
        Type::Date => field
            .type_as_date()
            .is_some_and(|date| matches!(date.unit(), DateUnit::DAY | DateUnit::MILLISECOND)),
        Type::Time => field.type_as_time().is_some_and(|time| {
            matches!(
                (time.bitWidth(), time.unit()),
                (32, TimeUnit::SECOND | TimeUnit::MILLISECOND)
                    | (64, TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
            )
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|timestamp| is_known_unit(timestamp.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|duration| is_known_unit(duration.unit())),
        Type::Interval => field.type_as_interval().is_some_and(|interval| {
            matches!(
                interval.unit(),
                IntervalUnit::YEAR_MONTH | IntervalUnit::DAY_TIME | IntervalUnit::MONTH_DAY_NANO
            )
        }),
        Type::Decimal => field.type_as_decimal().is_some_and(|decimal| {
            let digits = match decimal.bitWidth() {
                32 => 9,
                64 => 18,
                128 => 38,
                256 => 76,
                _ => 0,
            };
            (1..=digits).contains(&decimal.precision()) && (-digits..=digits).contains(&decimal.scale())
        }),
        _ => false,
    }
}

fn is_known_unit(unit: TimeUnit) -> bool {
    matches!(unit, TimeUnit::SECOND | TimeUnit::MILLISECOND | TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_ipc::convert::IpcSchemaEncoder;
    use arrow_ipc::root_as_schema;
    use arrow_ipc::writer::DictionaryTracker;
    use arrow_schema as arrow;
    use arrow_schema::DataType;

    use super::*;

    fn encoded(schema: &arrow::Schema) -> Vec<u8> {
        let mut dictionaries = DictionaryTracker::new(false);
        let mut encoder = IpcSchemaEncoder::new().with_dictionary_tracker(&mut dictionaries);
        encoder.schema_to_fb(schema).finished_data().to_vec()
    }

    #[test]
    fn types_that_can_be_decoded_are_taken() {
        let item = |t| Arc::new(arrow::Field::new("item", t, true));
        let pair = DataType::Struct(vec![item(DataType::Utf8), item(DataType::Int8)].into());
        let types = [
            DataType::Null,
            DataType::UInt16,
            DataType::Float16,
            DataType::Utf8View,
            DataType::FixedSizeBinary(16),
            DataType::Date64,
            DataType::Time32(arrow::TimeUnit::Second),
            DataType::Timestamp(arrow::TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Duration(arrow::TimeUnit::Microsecond),
            DataType::Interval(arrow::IntervalUnit::MonthDayNano),
            DataType::Decimal128(38, 10),
            DataType::Decimal256(76, -5),
            DataType::List(item(DataType::LargeList(item(pair.clone())))),
            DataType::FixedSizeList(item(DataType::Float32), 3),
            DataType::Map(item(pair), false),
            DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8)),
            DataType::RunEndEncoded(item(DataType::Int32), item(DataType::Utf8)),
        ];
        for data_type in types {
            let schema = arrow::Schema::new(vec![arrow::Field::new("a", data_type.clone(), true)]);
            let bytes = encoded(&schema);
            let schema = root_as_schema(&bytes).unwrap();
            check_schema(schema).unwrap_or_else(|e| panic!("{data_type}: {e}"));
        }
        let empty = encoded(&arrow::Schema::empty());
        check_schema(root_as_schema(&empty).unwrap()).unwrap();
    }
}
