//! Names of types in SQL, for people.

use arrow_schema::{DataType, TimeUnit};

/// The name of a type as `CREATE TABLE` takes it, or Arrow's where SQL has none.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 => "HALF".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BYTEA".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("TIME{}", digits(*unit)),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP{}", digits(*unit)),
        DataType::Timestamp(unit, Some(_)) => format!("TIMESTAMP{} WITH TIME ZONE", digits(*unit)),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::FixedSizeList(item, length) => match item.data_type() {
            DataType::Float32 => format!("VECTOR({length})"),
            DataType::Float16 => format!("HALFVEC({length})"),
            other => format!("{}[{length}]", sql_name(other)),
        },
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => format!("{}[]", sql_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", field_name(field.name()), sql_name(field.data_type())))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("MAP({}, {})", sql_name(fields[0].data_type()), sql_name(fields[1].data_type()))
            }
            other => other.to_string(),
        },
        DataType::Dictionary(_, values) => sql_name(values),
        other => other.to_string(),
    }
}

/// The name of a field: in quotes unless it means the same without.
fn field_name(name: &str) -> String {
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    match name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit()) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The digits of seconds; nothing for nanoseconds, the default.
fn digits(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "(0)",
        TimeUnit::Millisecond => "(3)",
        TimeUnit::Microsecond => "(6)",
        TimeUnit::Nanosecond => "",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Field;

    use super::*;

    #[test]
    fn types_have_the_names_of_sql() {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
        for (data_type, name) in [
            (DataType::Utf8View, "VARCHAR"),
            (DataType::Decimal128(10, 2), "DECIMAL(10, 2)"),
            (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), "TIMESTAMP(6) WITH TIME ZONE"),
            (list(list(DataType::Int64)), "BIGINT[][]"),
            (
                DataType::Struct(
                    vec![
                        Field::new("a", DataType::Int32, true),
                        Field::new("B \"c\"", DataType::Date32, true),
                    ]
                    .into(),
                ),
                "STRUCT<a INT, \"B \"\"c\"\"\" DATE>",
            ),
            (DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), 3), "VECTOR(3)"),
        ] {
            assert_eq!(sql_name(&data_type), name);
        }
    }
}
