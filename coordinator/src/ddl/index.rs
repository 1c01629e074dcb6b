//! Indexes: their definitions, and making them for the segments that are there.
//!
//! A definition is a view of the schema, visible at once. The index of a segment is made in the background, from the
//! segment alone, copied to its replicas, and committed as a record beside it. Until then the segment is searched without.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CreateIndex, Expr, IndexColumn, IndexType, ObjectName, Value};
use plexus_index::text::Analyzer;
use plexus_model::{
    AlterTable, Command, Error, IndexDefinition, IndexKind, Manifest, Metric, Result, Table, TableName,
};

use crate::exec::context::{StatementContext, find};
use crate::sql::names::{identifier, object_name};

/// The command that `CREATE INDEX` stands for; `None` when the index is there and need not be made.
pub fn create_index(scope: &StatementContext<'_>, create: &CreateIndex) -> Result<Option<Command>> {
    let name = object_name(&create.table_name, &scope.session.schema())?;
    let table = find(&scope.manifest, &name)?;
    let index_name = create.name.as_ref().map(|name| identifier(&name.to_string()));
    let index_name =
        index_name.ok_or_else(|| Error::invalid("CREATE INDEX needs a name: CREATE INDEX i ON t"))?;
    if create.unique || create.predicate.is_some() || !create.include.is_empty() {
        return Err(Error::unsupported("an index is not unique, and of all rows and no other columns"));
    }
    if let Some(other) = with_index(&scope.manifest, &name.schema, &index_name) {
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

/// The command that `DROP INDEX` stands for; `None` when there need not be one.
pub fn drop_index(
    scope: &StatementContext<'_>,
    name: &ObjectName,
    if_exists: bool,
) -> Result<Option<Command>> {
    let name: TableName = object_name(name, &scope.session.schema())?;
    let Some(table) = with_index(&scope.manifest, &name.schema, &name.table) else {
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

/// The table of a schema that has an index of that name: they are unique in it.
pub fn with_index<'a>(manifest: &'a Manifest, schema: &str, name: &str) -> Option<&'a Arc<Table>> {
    let tables = manifest.names.iter().filter(|(table, _)| table.schema == schema);
    tables
        .filter_map(|(_, id)| manifest.tables.get(id))
        .find(|table| table.schema.index_by_name(name).is_some())
}

pub fn index_kind(create: &CreateIndex, table: &Table) -> Result<IndexKind> {
    let columns =
        create.columns.iter().map(|column| column_id(column, table)).collect::<Result<Vec<u32>>>()?;
    let mut options = options(&create.with)?;
    let mut take = |name: &str| options.iter().position(|(n, _)| n == name).map(|at| options.remove(at).1);
    let kind = match &create.using {
        Some(IndexType::Custom(name)) => identifier(&name.to_string()),
        Some(other) => other.to_string().to_ascii_lowercase(),
        None => String::new(),
    };
    let kind = match kind.as_str() {
        "text" => {
            let tokenizer = take("tokenizer").unwrap_or_else(|| Analyzer::DEFAULT.to_owned());
            IndexKind::Text { columns, tokenizer: Analyzer::named(&tokenizer)?.name().to_owned() }
        }
        "vector" => {
            let [column] = columns.as_slice() else {
                return Err(Error::invalid("a vector index is of one column"));
            };
            let metric = take("metric").map_or(Ok(Metric::Cosine), |name| Metric::from_name(&name))?;
            IndexKind::Vector { column: *column, metric }
        }
        other => {
            return Err(Error::invalid(format!(
                "CREATE INDEX ... USING {other}: there are USING text and USING vector; keys and ranges need no index"
            )));
        }
    };
    match options.first() {
        Some((name, _)) => Err(Error::invalid(format!(
            "index option {name:?} does not exist; there are tokenizer, of text, and metric, of vector"
        ))),
        None => Ok(kind),
    }
}

pub fn column_id(column: &IndexColumn, table: &Table) -> Result<u32> {
    let expr = &column.column.expr;
    let order = &column.column.options;
    if column.operator_class.is_some() || order.asc.is_some() || order.nulls_first.is_some() {
        return Err(Error::unsupported(format!(
            "{column}: an index has no order and no operators; WITH (metric = 'l2') says how vectors are compared"
        )));
    }
    let name = match expr {
        Expr::Identifier(ident) => identifier(&ident.to_string()),
        _ => return Err(Error::invalid(format!("{expr}: an index is of columns"))),
    };
    let place = table.schema.column_index(&name);
    let place =
        place.ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))?;
    Ok(table.schema.columns[place].id)
}

/// `WITH (name = value, ...)`.
pub fn options(with: &[Expr]) -> Result<Vec<(String, String)>> {
    let option = |expr: &Expr| {
        let wrong = || Error::invalid(format!("index option {expr}: write name = 'value'"));
        let Expr::BinaryOp { left, op: datafusion::sql::sqlparser::ast::BinaryOperator::Eq, right } = expr
        else {
            return Err(wrong());
        };
        let value = match right.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        Ok((identifier(&left.to_string()), value))
    };
    with.iter().map(option).collect()
}
