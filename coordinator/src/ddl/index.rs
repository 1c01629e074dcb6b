//! `CREATE INDEX` and `DROP INDEX`.
//!
//! An index definition is part of the table schema and visible at once. A background task builds the index of
//! each segment later (see `background/index_build.rs`). Until then searches read the segment without an
//! index.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CreateIndex, Expr, IndexColumn, IndexType, ObjectName, Value};
use plexus_index::text::Analyzer;
use plexus_model::{
    AlterTable, Command, Error, IndexDefinition, IndexKind, Manifest, Metric, Result, Table, TableName,
};
use plexus_storage::{sql_name, types};

use crate::exec::context::{StatementContext, find};
use crate::sql::names::{identifier, name_of, object_name, unqualified};

/// The command for `CREATE INDEX`. `None` when the index exists and the statement says `IF NOT EXISTS`.
///
/// # Errors
/// `AlreadyExists`, `NotFound` for the table or a column, and `InvalidArgument` or `Unsupported` for a
/// invalid definition.
pub(crate) fn create_index(context: &StatementContext<'_>, create: &CreateIndex) -> Result<Option<Command>> {
    let name = object_name(&create.table_name, &context.session.schema())?;
    let table = find(&context.manifest, &name)?;
    let index_name = create.name.as_ref().map(unqualified).transpose()?;
    let index_name =
        index_name.ok_or_else(|| Error::invalid("CREATE INDEX needs a name: CREATE INDEX i ON t"))?;
    if create.unique || create.predicate.is_some() || !create.include.is_empty() {
        return Err(Error::unsupported("UNIQUE, WHERE and INCLUDE are not supported in CREATE INDEX"));
    }
    if let Some(other) = table_with_index(&context.manifest, &name.schema, &index_name) {
        if create.if_not_exists {
            return Ok(None);
        }
        return Err(Error::already_exists(format!(
            "index {index_name:?} exists already, on table {}",
            other.name
        )));
    }
    let mut schema = (*table.schema).clone();
    schema.last_index += 1;
    let kind = index_kind(create, &table)?;
    schema.indexes.push(IndexDefinition { id: schema.last_index, name: index_name, kind });
    schema.validate()?;
    let (table, schema_version) = (table.id, table.schema_version);
    Ok(Some(Command::AlterTable(AlterTable { table, schema_version, schema, base: None })))
}

/// The command for `DROP INDEX`. `None` when the index does not exist and the statement says `IF EXISTS`.
///
/// # Errors
/// `NotFound` when the index does not exist.
pub(crate) fn drop_index(
    context: &StatementContext<'_>,
    name: &ObjectName,
    if_exists: bool,
) -> Result<Option<Command>> {
    let name: TableName = object_name(name, &context.session.schema())?;
    let Some(table) = table_with_index(&context.manifest, &name.schema, &name.table) else {
        return match if_exists {
            true => Ok(None),
            false => Err(Error::not_found(format!(
                "index {:?} does not exist in schema {}",
                name.table, name.schema
            ))),
        };
    };
    let mut schema = (*table.schema).clone();
    schema.indexes.retain(|index| index.name != name.table);
    let (table, schema_version) = (table.id, table.schema_version);
    Ok(Some(Command::AlterTable(AlterTable { table, schema_version, schema, base: None })))
}

/// The table whose index has that name. Index names are unique within a schema.
fn table_with_index<'a>(manifest: &'a Manifest, schema: &str, name: &str) -> Option<&'a Arc<Table>> {
    let tables = manifest.names.iter().filter(|(table, _)| table.schema == schema);
    tables
        .filter_map(|(_, id)| manifest.tables.get(id))
        .find(|table| table.schema.index_by_name(name).is_some())
}

/// The kind of index that a statement defines, with its options.
fn index_kind(create: &CreateIndex, table: &Table) -> Result<IndexKind> {
    let mut options = options(&create.with)?;
    let mut take =
        |name: &str| options.iter().position(|(n, _)| n == name).map(|index| options.remove(index).1);
    let kind = match &create.using {
        Some(IndexType::Custom(name)) => name_of(name),
        Some(other) => other.to_string().to_ascii_lowercase(),
        None => String::new(),
    };
    let columns = |kind: &str| {
        create.columns.iter().map(|column| column_id(column, table, kind)).collect::<Result<Vec<u32>>>()
    };
    let kind = match kind.as_str() {
        "text" => {
            let columns = columns(&kind)?;
            let tokenizer = take("tokenizer").unwrap_or_else(|| Analyzer::DEFAULT.to_owned());
            IndexKind::Text { columns, tokenizer: Analyzer::named(&tokenizer)?.name().to_owned() }
        }
        "vector" => {
            let columns = columns(&kind)?;
            let [column] = columns.as_slice() else {
                return Err(Error::invalid("a vector index takes one column"));
            };
            let metric = take("metric").map_or(Ok(Metric::Cosine), |name| Metric::from_name(&name))?;
            IndexKind::Vector { column: *column, metric }
        }
        other => {
            let other = if other.is_empty() { "nothing" } else { other };
            return Err(Error::invalid(format!(
                "CREATE INDEX ... USING {other}: use USING text or USING vector; keys and \
                 ranges need no index"
            )));
        }
    };
    match options.first() {
        Some((name, _)) => Err(Error::invalid(format!(
            "index option {name:?} does not exist; text indexes have tokenizer, vector indexes have metric"
        ))),
        None => Ok(kind),
    }
}

/// The id of an indexed column.
fn column_id(column: &IndexColumn, table: &Table, kind: &str) -> Result<u32> {
    let expr = &column.column.expr;
    let order = &column.column.options;
    if column.operator_class.is_some() || order.asc.is_some() || order.nulls_first.is_some() {
        return Err(Error::unsupported(format!(
            "{column}: an index has no order and no operators; WITH (metric = 'l2') selects \
             the metric of a vector index"
        )));
    }
    let name = match expr {
        Expr::Identifier(ident) => name_of(ident),
        _ => return Err(Error::invalid(format!("{expr}: only columns can be indexed"))),
    };
    let index = table.schema.column_index(&name);
    let index =
        index.ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))?;
    let column = &table.schema.columns[index];
    let suits = match kind {
        "text" => column.data_type.is_text(),
        _ => column.data_type.vector_dimensions().is_some(),
    };
    match suits {
        true => Ok(column.id),
        false => Err(Error::invalid(format!(
            "column {name:?} of type {} cannot have a {kind} index",
            sql_name(&types::to_data_type(&column.data_type))
        ))),
    }
}

/// The options in `WITH (name = value, ...)`.
pub(crate) fn options(with: &[Expr]) -> Result<Vec<(String, String)>> {
    let option = |expr: &Expr| {
        let invalid = || Error::invalid(format!("index option {expr}: write name = 'value'"));
        let Expr::BinaryOp { left, op: datafusion::sql::sqlparser::ast::BinaryOperator::Eq, right } = expr
        else {
            return Err(invalid());
        };
        let value = match right.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                _ => return Err(invalid()),
            },
            _ => return Err(invalid()),
        };
        Ok((identifier(&left.to_string()), value))
    };
    with.iter().map(option).collect()
}
