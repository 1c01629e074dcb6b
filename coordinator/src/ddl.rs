//! Statements that change what tables there are.

use datafusion::common::{Constraint, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, ArrayElemTypeDef, CreateTable as SqlCreateTable, CreateTableOptions, Expr, SqlOption, Value,
};
use plexus_model::limits::VECTOR_LENGTH_MAX;
use plexus_model::schema::validate_name;
use plexus_model::{CreateTable, Error, Manifest, Result, STAGING_SCHEMA, TableName};
use plexus_query::{CATALOG, SYSTEM_SCHEMA};
use plexus_storage::types;

use crate::errors::from_datafusion;

/// Replicas of a table that does not say, as far as there are nodes.
pub const REPLICAS_DEFAULT: u32 = 3;
/// Shards of a table that does not say, for each data node: room to move some when nodes come.
pub const SHARDS_PER_NODE: u32 = 2;

/// Reads `CREATE TABLE`. Types are those of the query engine, and `VECTOR(n)`.
pub async fn create_table(
    mut create: SqlCreateTable,
    state: &SessionState,
    manifest: &Manifest,
    schema: &str,
) -> Result<CreateTable> {
    if create.query.is_some() {
        return Err(Error::unsupported(
            "CREATE TABLE AS is not supported yet: create the table, then INSERT ... SELECT",
        ));
    }
    if create.temporary || create.external {
        return Err(Error::unsupported("temporary and external tables are not supported"));
    }
    let options = std::mem::take(&mut create.table_options);
    let vectors = take_vectors(&mut create)?;
    let statement = Statement::Statement(Box::new(ast::Statement::CreateTable(create)));
    let plan = state.statement_to_plan(statement).await.map_err(from_datafusion)?;
    let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(plan)) = plan else {
        return Err(Error::internal(format!("CREATE TABLE was planned as {}", plan.display())));
    };
    let mut table = types::from_arrow(plan.input.schema().as_arrow())?;
    for (column, length) in vectors {
        if let Some(column) = table.columns.get_mut(column) {
            column.data_type = types::vector(length);
        }
    }
    for constraint in plan.constraints.iter() {
        match constraint {
            Constraint::PrimaryKey(columns) => {
                table.primary_key = columns.iter().map(|&c| c as u32).collect();
                // A key is never null, as the standard has it.
                columns.iter().for_each(|&c| table.columns[c].nullable = false);
            }
            Constraint::Unique(_) => {
                return Err(Error::unsupported("UNIQUE constraints are not supported yet"));
            }
        }
    }
    if !plan.column_defaults.is_empty() {
        return Err(Error::unsupported("DEFAULT values are not supported yet"));
    }
    table.validate()?;
    let TableOptions { shards, replicas } = table_options(options)?;
    let nodes = manifest.live_data_nodes().len() as u32;
    Ok(CreateTable {
        name: table_name(&plan.name, schema)?,
        schema: table,
        shards: shards.unwrap_or((nodes * SHARDS_PER_NODE).max(1)),
        replicas: replicas.unwrap_or(REPLICAS_DEFAULT.min(nodes).max(1)),
        if_not_exists: plan.if_not_exists,
        or_replace: plan.or_replace,
    })
}

#[derive(Default)]
struct TableOptions {
    shards: Option<u32>,
    replicas: Option<u32>,
}

fn table_options(options: CreateTableOptions) -> Result<TableOptions> {
    let list = match options {
        CreateTableOptions::None => return Ok(TableOptions::default()),
        CreateTableOptions::With(list) | CreateTableOptions::Options(list) => list,
        other => {
            return Err(Error::invalid(format!(
                "table options are given as WITH (name = value), not {other}"
            )));
        }
    };
    let mut found = TableOptions::default();
    for option in list {
        let SqlOption::KeyValue { key, value } = &option else {
            return Err(Error::invalid(format!("table option {option}: write name = value")));
        };
        let slot = match key.value.to_ascii_lowercase().as_str() {
            "shards" => &mut found.shards,
            "replicas" => &mut found.replicas,
            name => {
                return Err(Error::invalid(format!(
                    "table option {name:?} does not exist; there are shards, replicas"
                )));
            }
        };
        let number = match value {
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) | Value::SingleQuotedString(text) => text.parse().ok(),
                _ => None,
            },
            _ => None,
        };
        *slot = Some(
            number
                .ok_or_else(|| Error::invalid(format!("table option {option}: a whole number is needed")))?,
        );
    }
    Ok(found)
}

/// Replaces `VECTOR(n)`, which the planner does not know, by an array of floats, and says where it was.
fn take_vectors(create: &mut SqlCreateTable) -> Result<Vec<(usize, u32)>> {
    let mut vectors = Vec::new();
    for (index, column) in create.columns.iter_mut().enumerate() {
        let ast::DataType::Custom(name, arguments) = &column.data_type else {
            continue;
        };
        if !name.to_string().eq_ignore_ascii_case("vector") {
            continue;
        }
        let length = match arguments.as_slice() {
            [length] => length.parse::<u32>().ok().filter(|n| (1..=VECTOR_LENGTH_MAX).contains(n)),
            _ => None,
        };
        let length = length.ok_or_else(|| {
            Error::invalid(format!(
                "column {}: {} needs one length from 1 to {VECTOR_LENGTH_MAX}",
                column.name, column.data_type
            ))
        })?;
        vectors.push((index, length));
        column.data_type =
            ast::DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(ast::DataType::Real), None));
    }
    Ok(vectors)
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
    if [SYSTEM_SCHEMA, "information_schema", STAGING_SCHEMA].contains(&name.as_str()) {
        return Err(Error::invalid(format!("schema {name:?} is the system's own and cannot be changed")));
    }
    Ok(name)
}
