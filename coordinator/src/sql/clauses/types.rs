//! Types that there are not. The engine refuses them as well, but does not say where they stand.

use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType, ObjectName, ObjectNamePart};
use plexus_model::{Error, Result};

use crate::engine_text;
use crate::sql::names::name_of;
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
    // A type of a column that is a vector; the planner refuses it elsewhere.
    if let [ObjectNamePart::Identifier(only)] = name.0.as_slice()
        && ["vector", "halfvec"].contains(&name_of(only).as_str())
    {
        return Ok(());
    }
    let last = name.0.last().and_then(ObjectNamePart::as_ident);
    let meant = last.map(|last| did_you_mean(&last.value, TYPES)).unwrap_or_default();
    let start = name.0.first().and_then(ObjectNamePart::as_ident).map(|first| first.span.start);
    let position = start.filter(|start| start.line > 0);
    let position = position.map(|start| engine_text::position(start.line, start.column)).unwrap_or_default();
    Err(Error::invalid(format!("type {name} does not exist{meant}{position}")))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::sql::parse;

    #[test]
    fn only_types_that_there_are_pass() {
        let check = |sql: &str| check(&parse::statement(sql).unwrap());
        for data_type in ["VECTOR(3)", "halfvec(2)", "INT[]", "STRUCT<a INT, b TEXT>", "CHARACTER VARYING(3)"]
        {
            check(&format!("CREATE TABLE t (a {data_type})")).unwrap();
        }
        for (sql, expected) in [
            ("CREATE TABLE t (a pg_catalog.itn)", "type pg_catalog.itn does not exist; did you mean int?"),
            ("CREATE TABLE t (a \"Vectr\")", "type \"Vectr\" does not exist; did you mean vector?"),
            ("SELECT CAST(1 AS STRUCT<a nosuch>)", "type nosuch does not exist at Line: 1"),
            ("SELECT 1::nosuch[]", "type nosuch does not exist at Line: 1"),
        ] {
            let error = check(sql).unwrap_err();
            assert!(error.message().starts_with(expected), "{error}");
        }
    }
}
