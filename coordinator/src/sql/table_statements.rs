//! `SHOW CREATE TABLE`: the statements that make a table as it is, without its rows.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ShowCreateObject, Statement};
use plexus_model::{Column, Error, IndexDefinition, IndexKind, Result, Table, TableName, TableSchema};
use plexus_storage::{sql_name, types};

use crate::sql::names::{object_name, quoted_name};
use crate::sql::{parse, syntax};

/// Replaces `SHOW CREATE TABLE` by a query of its answer. `schema` qualifies a name without one, and `find`
/// finds tables.
///
/// # Errors
/// That of `find`, and `Unsupported` for what is no table.
pub(crate) fn show(
    statement: &mut Statement,
    schema: &str,
    find: impl Fn(&TableName) -> Result<Arc<Table>>,
) -> Result<()> {
    let Statement::ShowCreate { obj_type, obj_name } = statement else {
        return Ok(());
    };
    if *obj_type != ShowCreateObject::Table {
        return Err(Error::unsupported(format!("SHOW CREATE {obj_type}: only tables can be shown")));
    }
    let table = find(&object_name(obj_name, schema)?)?;
    let text = statements(&table);
    let values = [
        ("table_schema", table.name.schema.as_str()),
        ("table_name", table.name.table.as_str()),
        ("definition", text.as_str()),
    ];
    let items = values.map(|(column, value)| syntax::item(syntax::text(value), column)).to_vec();
    *statement = Statement::Query(Box::new(syntax::select(items, vec![], None)));
    Ok(())
}

/// `CREATE TABLE`, and `CREATE INDEX` for each index, with a semicolon between them.
fn statements(table: &Table) -> String {
    let schema = &table.schema;
    let name = format!("{}.{}", name(&table.name.schema), name(&table.name.table));
    let mut parts: Vec<String> =
        schema.columns.iter().map(|column| column_definition(column, schema)).collect();
    if schema.has_key() {
        let key = schema.primary_key.iter().filter_map(|key| schema.columns.get(*key as usize));
        parts.push(format!("PRIMARY KEY ({})", names(key.map(|column| column.name.as_str()))));
    }
    for check in &schema.checks {
        parts.push(format!("CONSTRAINT {} CHECK ({})", self::name(&check.name), check.expression));
    }
    let mut options =
        vec![format!("shards = {}", table.shards.len()), format!("replicas = {}", table.replicas)];
    options.extend(schema.retention_us.map(|micros| format!("retention = '{} ms'", micros / 1_000)));
    let cluster_by = match schema.cluster_by.as_slice() {
        [] => String::new(),
        ids => format!("\nCLUSTER BY ({})", names(column_names(ids, schema))),
    };
    let create = format!(
        "CREATE TABLE {name} (\n    {}\n)\nWITH ({}){cluster_by}",
        parts.join(",\n    "),
        options.join(", ")
    );
    let indexes = schema.indexes.iter().map(|index| index_definition(index, &name, schema));
    std::iter::once(create).chain(indexes).collect::<Vec<_>>().join(";\n")
}

fn column_definition(column: &Column, schema: &TableSchema) -> String {
    let mut text = format!("{} {}", name(&column.name), sql_name(&types::to_data_type(&column.data_type)));
    if !column.nullable {
        text.push_str(" NOT NULL");
    }
    if let Some(default) = schema.default_of(column.id) {
        text.push_str(&format!(" DEFAULT {default}"));
    }
    text
}

fn index_definition(index: &IndexDefinition, table: &str, schema: &TableSchema) -> String {
    let option = match &index.kind {
        IndexKind::Text { tokenizer, .. } => format!("tokenizer = '{tokenizer}'"),
        IndexKind::Vector { metric, .. } => format!("metric = '{}'", metric.name()),
    };
    let (index_name, kind) = (name(&index.name), index.kind.name());
    let columns = names(column_names(index.kind.columns(), schema));
    format!("CREATE INDEX {index_name} ON {table} USING {kind} ({columns}) WITH ({option})")
}

fn column_names<'a>(ids: &'a [u32], schema: &'a TableSchema) -> impl Iterator<Item = &'a str> {
    let name = |id| schema.columns.iter().find(|column| column.id == id).map(|column| column.name.as_str());
    ids.iter().copied().filter_map(name)
}

fn names<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    columns.map(name).collect::<Vec<_>>().join(", ")
}

/// A name as it is written: in quotes unless it means the same without.
fn name(text: &str) -> String {
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_plain = text.starts_with(is_first) && text.chars().all(|c| is_first(c) || c.is_ascii_digit());
    match is_plain && is_name(text) {
        true => text.to_owned(),
        false => quoted_name(text),
    }
}

/// Whether a word is a name where tables and columns are defined, and not a part of the definition.
fn is_name(word: &str) -> bool {
    let parsed = parse::plain_statement(&format!("CREATE TABLE {word}.{word} ({word} INT)"));
    let Ok(Statement::CreateTable(table)) = parsed else {
        return false;
    };
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.value.as_str()).collect();
    columns == [word] && table.constraints.is_empty()
}
