//! TODO module docs.

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{self, Ident, ObjectName};
use plexus_model::schema::validate_name;
use plexus_model::{Error, Result, STAGING_SCHEMA, TableName};
use plexus_query::{CATALOG, SYSTEM_SCHEMA};

/// An identifier as it is meant: lower case unless quoted.
pub fn identifier(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// The full name of a table that a statement names and may change.
pub fn object_name(name: &ast::ObjectName, schema: &str) -> Result<TableName> {
    table_name(&TableReference::parse_str(&name.to_string()), schema)
}

/// The full name of a table that a statement may change.
pub fn table_name(reference: &TableReference, schema: &str) -> Result<TableName> {
    if let Some(catalog) = reference.catalog().filter(|c| *c != CATALOG) {
        return Err(Error::not_found(format!(
            "catalog {catalog:?} does not exist; there is only {CATALOG:?}"
        )));
    }
    let name = TableName::new(reference.schema().unwrap_or(schema), reference.table());
    let TableName { schema, table } = name;
    // Also of tables that are only dropped: the name travels in the log.
    validate_name("table", &table)?;
    Ok(TableName { schema: free_schema_name(schema)?, table })
}

/// Refuses the schemas that are the system's own.
pub fn free_schema_name(name: String) -> Result<String> {
    validate_name("schema", &name)?;
    if [SYSTEM_SCHEMA, "information_schema", STAGING_SCHEMA].contains(&name.as_str()) || name.starts_with('$')
    {
        return Err(Error::invalid(format!("schema {name:?} is the system's own and cannot be changed")));
    }
    Ok(name)
}

/// A name of several parts as it is.
pub fn quoted<'a>(parts: impl IntoIterator<Item = &'a String>) -> ObjectName {
    ObjectName::from(parts.into_iter().map(|part| Ident::with_quote('"', part)).collect::<Vec<_>>())
}
