//! Identifiers and table names: case folding, qualification, and names that are reserved.

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use plexus_model::schema::validate_name;
use plexus_model::{Error, Result, STAGING_SCHEMA, TableName};
use plexus_query::{CATALOG, SYSTEM_SCHEMA};

/// The name that an identifier denotes: unquoted text in lower case, as the planner folds it; quoted text
/// unchanged.
pub(crate) fn name_of(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// A name in quotes, inside of which quotes are doubled.
pub(crate) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name that an identifier inside of other text denotes, such as a name in a table option.
pub(crate) fn identifier(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_ascii_lowercase(),
    }
}

/// The last part of a qualified name.
///
/// # Errors
/// `InvalidArgument` when it is a function call.
pub(crate) fn last_part(name: &ObjectName) -> Result<&Ident> {
    let last = name.0.last().and_then(|part| part.as_ident());
    last.ok_or_else(|| Error::invalid(format!("{name} is not a name")))
}

/// A name that must have no qualifier, such as that of a constraint.
///
/// # Errors
/// `InvalidArgument` when it has one.
pub(crate) fn unqualified(name: &ObjectName) -> Result<String> {
    match name.0.as_slice() {
        [_] => last_part(name).map(name_of),
        _ => Err(Error::invalid(format!("{name} is not a name without a qualifier"))),
    }
}

/// A qualified name as the engine refers to tables.
///
/// # Errors
/// `InvalidArgument` when it has more than three parts, or a function call among them.
pub(crate) fn table_reference(name: &ObjectName) -> Result<TableReference> {
    let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(name_of)).collect();
    match parts.as_deref() {
        Some([table]) => Ok(TableReference::bare(table.as_str())),
        Some([schema, table]) => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        Some([catalog, schema, table]) => {
            Ok(TableReference::full(catalog.as_str(), schema.as_str(), table.as_str()))
        }
        _ => Err(Error::invalid(format!("{name} is not the name of a table"))),
    }
}

/// The full name of the table that a statement changes. `schema` qualifies names without one.
///
/// # Errors
/// Those of [`table_name`].
pub(crate) fn object_name(name: &ObjectName, schema: &str) -> Result<TableName> {
    table_name(&table_reference(name)?, schema)
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
