//! Identifiers and table names: case folding, qualification, and names that are reserved.

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{self, Ident, ObjectName};
use plexus_model::schema::validate_name;
use plexus_model::{Error, Result, STAGING_SCHEMA, TableName};
use plexus_query::{CATALOG, SYSTEM_SCHEMA};

/// The name that an identifier denotes: unquoted text in lower case, quoted text unchanged.
pub(crate) fn identifier(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// The full name of the table that a statement changes. `schema` qualifies names without one.
///
/// # Errors
/// Those of [`table_name`].
pub(crate) fn object_name(name: &ast::ObjectName, schema: &str) -> Result<TableName> {
    table_name(&TableReference::parse_str(&name.to_string()), schema)
}

/// The full name of a table that may be changed. `schema` qualifies names without one.
///
/// # Errors
/// `NotFound` for an unknown catalog; `InvalidArgument` for an invalid name or a reserved schema.
pub(crate) fn table_name(reference: &TableReference, schema: &str) -> Result<TableName> {
    if let Some(catalog) = reference.catalog().filter(|c| *c != CATALOG) {
        return Err(Error::not_found(format!(
            "catalog {catalog:?} does not exist; there is only {CATALOG:?}"
        )));
    }
    let name = TableName::new(reference.schema().unwrap_or(schema), reference.table());
    let TableName { schema, table } = name;
    // Also checked for `DROP`, since the name becomes part of a log entry.
    validate_name("table", &table)?;
    Ok(TableName { schema: free_schema_name(schema)?, table })
}

/// The name of a schema, unless it is reserved for the system.
///
/// # Errors
/// `InvalidArgument` for an invalid or reserved name.
pub(crate) fn free_schema_name(name: String) -> Result<String> {
    validate_name("schema", &name)?;
    if [SYSTEM_SCHEMA, "information_schema", STAGING_SCHEMA].contains(&name.as_str()) || name.starts_with('$')
    {
        return Err(Error::invalid(format!("schema {name:?} is the system's own and cannot be changed")));
    }
    Ok(name)
}

/// A qualified name with every part quoted, so that no part is case folded.
pub(crate) fn quoted<'a>(parts: impl IntoIterator<Item = &'a String>) -> ObjectName {
    ObjectName::from(parts.into_iter().map(|part| Ident::with_quote('"', part)).collect::<Vec<_>>())
}
