//! Types that there are not. The engine refuses them as well, but does not say where they stand.

use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType, ObjectName};
use plexus_model::{Error, Result};

use crate::engine_text;
use crate::suggestions::did_you_mean;

/// The names of types, but for some that are other names of these.
const TYPES: [&str; 24] = [
    "bigint",
    "boolean",
    "bytea",
    "char",
    "date",
    "decimal",
    "double",
    "float",
    "halfvec",
    "int",
    "integer",
    "interval",
    "numeric",
    "real",
    "smallint",
    "string",
    "struct",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "tinyint",
    "varchar",
    "vector",
];

/// Fails for a type whose name means nothing.
///
/// # Errors
/// `InvalidArgument` names it, with its place.
pub(super) fn check_type(data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Custom(name, _) => check_name(name),
        DataType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => check_type(item),
        DataType::Struct(fields, _) => fields.iter().try_for_each(|field| check_type(&field.field_type)),
        DataType::Map(key, value) => check_type(key).and_then(|()| check_type(value)),
        _ => Ok(()),
    }
}

fn check_name(name: &ObjectName) -> Result<()> {
    let text = name.to_string();
    if TYPES.contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    let start = name.0.first().and_then(|part| part.as_ident()).map(|ident| ident.span.start);
    let position = start.filter(|start| start.line > 0);
    let position = position.map(|start| engine_text::position(start.line, start.column)).unwrap_or_default();
    Err(Error::invalid(format!("type {text} does not exist{}{position}", did_you_mean(&text, TYPES))))
}
