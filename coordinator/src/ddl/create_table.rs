//! `CREATE TABLE`: column types, constraints, defaults, checks and table options. Column definitions and
//! options are shared with `ALTER TABLE`.

use arrow::array::{Array, ArrayRef};
use datafusion::common::{Constraint, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateMemoryTable, DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::ExprWithAlias as SQLExprWithAlias;
use datafusion::sql::sqlparser::ast::{
    self, ArrayElemTypeDef, CheckConstraint, ColumnDef, ColumnOption, CreateTable as SqlCreateTable,
    CreateTableOptions, Expr, SqlOption, TableConstraint, TimezoneInfo, Value, WrappedCollection,
};
use plexus_model::limits::VECTOR_DIMENSIONS_MAX;
use plexus_model::{Check, Column, ColumnType, CreateTable, Error, Manifest, Result, TableSchema, TimeUnit};
use plexus_query::{DEFAULT_ZONE, Engine};
use plexus_storage::types;

use crate::errors::from_datafusion;
use crate::exec::plan_statement::plan_statement;
use crate::limits::{REPLICAS_DEFAULT, SHARDS_PER_NODE};
use crate::sql::definition::definition;
use crate::sql::duration::duration_us;
use crate::sql::names::{identifier, name_of, table_name};
use crate::sql::parse;
use crate::write::assign::assign_value;

/// The command for `CREATE TABLE`. Column types are those of the query engine, `VECTOR(n)` and `HALFVEC(n)`.
/// `schema` qualifies a name without one.
///
/// # Errors
/// `InvalidArgument` or `Unsupported` names what is wrong with the definition.
pub(crate) async fn create_table(
    mut create: SqlCreateTable,
    state: &SessionState,
    engine: &Engine,
    manifest: &Manifest,
    schema: &str,
) -> Result<CreateTable> {
    if create.temporary || create.external {
        return Err(Error::unsupported("temporary and external tables are not supported"));
    }
    let options = std::mem::take(&mut create.table_options);
    let cluster_by = create.cluster_by.take();
    let types_of_ours = take_types(&mut create)?;
    let (defaults, checks) = take_expressions(&mut create, state)?;
    let statement = Statement::Statement(Box::new(ast::Statement::CreateTable(create)));
    let plan = plan_statement(state, statement).await?;
    let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(plan)) = plan else {
        return Err(Error::internal(format!("CREATE TABLE was planned as {}", plan.display())));
    };
    let mut table = table_schema(&plan, types_of_ours)?;
    let zone = state.config_options().execution.time_zone.clone().unwrap_or_default();
    table.columns.iter_mut().for_each(|column| to_utc(&mut column.data_type, &zone));
    for (column, sql) in defaults {
        let column = &table.columns[column];
        let value = engine.evaluate_constant(&parse::expression(&sql)?, &zone)?;
        check_default_value(column, &sql, value, &zone)?;
        let id = column.id;
        table.defaults.push((id, sql));
    }
    for check in &checks {
        let check = name_check(check, &table)?;
        table.checks.push(check);
    }
    let TableOptions { shards, replicas, properties } = table_options(options)?;
    set_properties(&properties, &mut table)?;
    if let Some(WrappedCollection::NoWrapping(exprs) | WrappedCollection::Parentheses(exprs)) = cluster_by {
        cluster_by_exprs(&exprs, &mut table)?;
    }
    table.validate()?;
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

/// The columns and the primary key of a planned table.
fn table_schema(plan: &CreateMemoryTable, types_of_ours: Vec<(usize, ColumnType)>) -> Result<TableSchema> {
    let mut table = types::from_arrow(plan.input.schema().as_arrow())?;
    for (column, data_type) in types_of_ours {
        if let Some(column) = table.columns.get_mut(column) {
            column.data_type = data_type;
        }
    }
    for constraint in plan.constraints.iter() {
        match constraint {
            Constraint::PrimaryKey(columns) => {
                table.primary_key = columns.iter().map(|&c| c as u32).collect();
                // Key columns are not nullable, as in the SQL standard.
                columns.iter().for_each(|&c| table.columns[c].nullable = false);
            }
            Constraint::Unique(_) => {
                return Err(Error::unsupported("UNIQUE constraints are not supported yet"));
            }
        }
    }
    Ok(table)
}

/// The options in `WITH (...)`.
#[derive(Default)]
pub(crate) struct TableOptions {
    /// Number of shards.
    pub(crate) shards: Option<u32>,
    /// Number of replicas of each shard.
    pub(crate) replicas: Option<u32>,
    /// The other options, which `ALTER TABLE` can change.
    pub(crate) properties: Vec<SqlOption>,
}

/// Splits table options into those that are fixed at creation and the others.
///
/// # Errors
/// `InvalidArgument` for options of another form.
pub(crate) fn table_options(options: CreateTableOptions) -> Result<TableOptions> {
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
            _ => {
                found.properties.push(option);
                continue;
            }
        };
        let number = text_of(value).and_then(|text| text.parse().ok());
        *slot = Some(
            number
                .ok_or_else(|| Error::invalid(format!("table option {option}: a whole number is needed")))?,
        );
    }
    Ok(found)
}

/// The text of a number or string literal.
fn text_of(value: &Expr) -> Option<&str> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) | Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Sets options of a table that can change: `retention = '7 days'`, `cluster_by = 'a, b'`.
///
/// # Errors
/// `InvalidArgument` for unknown options and wrong values.
pub(crate) fn set_properties(options: &[SqlOption], table: &mut TableSchema) -> Result<()> {
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Error::invalid(format!("table option {option}: write name = value")));
        };
        let text = text_of(value)
            .ok_or_else(|| Error::invalid(format!("table option {option}: a number or text is needed")))?;
        match key.value.to_ascii_lowercase().as_str() {
            "retention" => table.retention_us = Some(duration_us(text)?),
            "cluster_by" => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                set_cluster_by(names.map(identifier), table)
                    .map_err(|e| e.context(format!("table option {option}")))?;
            }
            name => {
                return Err(Error::invalid(format!(
                    "table option {name:?} does not exist; use shards, replicas, retention or cluster_by"
                )));
            }
        }
    }
    Ok(())
}

/// Sets the clustering columns of a table.
fn set_cluster_by(names: impl Iterator<Item = String>, table: &mut TableSchema) -> Result<()> {
    let ids = names.map(|name| {
        let index = table.column_index(&name);
        let index =
            index.ok_or_else(|| Error::invalid(format!("there is no column {name:?} to cluster by")))?;
        Ok(table.columns[index].id)
    });
    table.cluster_by = ids.collect::<Result<_>>()?;
    Ok(())
}

/// Sets the clustering columns of a table from `CLUSTER BY a, b`, with or without parentheses.
///
/// # Errors
/// `InvalidArgument` for expressions that are not columns.
pub(crate) fn cluster_by_exprs(exprs: &[Expr], table: &mut TableSchema) -> Result<()> {
    fn add(expr: &Expr, names: &mut Vec<String>) -> Result<()> {
        match expr {
            Expr::Tuple(parts) => parts.iter().try_for_each(|part| add(part, names)),
            Expr::Nested(inner) => add(inner, names),
            Expr::Identifier(ident) => {
                names.push(name_of(ident));
                Ok(())
            }
            other => Err(Error::invalid(format!("CLUSTER BY {other}: a column is needed"))),
        }
    }
    let mut names = Vec::new();
    exprs.iter().try_for_each(|expr| add(expr, &mut names))?;
    set_cluster_by(names.into_iter(), table).map_err(|e| e.context("CLUSTER BY"))
}

/// Defaults as SQL, each with the index of its column.
type Defaults = Vec<(usize, String)>;

/// Takes defaults and checks out of a definition. The planner would turn them into expressions, but the
/// schema stores their SQL text.
fn take_expressions(
    create: &mut SqlCreateTable,
    state: &SessionState,
) -> Result<(Defaults, Vec<CheckConstraint>)> {
    let (mut defaults, mut checks) = (Vec::new(), Vec::new());
    for (index, column) in create.columns.iter_mut().enumerate() {
        for option in std::mem::take(&mut column.options) {
            match &option.option {
                ColumnOption::Default(expr) => {
                    check_default(expr, state)?;
                    defaults.push((index, definition(expr)?));
                }
                ColumnOption::Check(check) => checks.push(check.clone()),
                _ => column.options.push(option),
            }
        }
    }
    for constraint in std::mem::take(&mut create.constraints) {
        match constraint {
            TableConstraint::Check(check) => checks.push(check),
            other => create.constraints.push(other),
        }
    }
    Ok((defaults, checks))
}

/// Fails when a default does not plan, or refers to a column.
fn check_default(default: &Expr, state: &SessionState) -> Result<()> {
    let expr = SQLExprWithAlias { expr: default.clone(), alias: None };
    let planned = state.create_logical_expr_from_sql_expr(expr, &DFSchema::empty());
    planned.map(|_| ()).map_err(|e| from_datafusion(e).context(format!("DEFAULT {default}")))
}

/// Gives instants the zone UTC, where the engine gave them that of the session: each session shows its own.
fn to_utc(data_type: &mut ColumnType, session_zone: &str) {
    if let ColumnType::Timestamp(_, Some(zone)) = data_type
        && *zone == *session_zone
    {
        *zone = DEFAULT_ZONE.into();
    }
}

/// Bytes of a default at most: each statement that leaves the column out has it in every row.
const DEFAULT_BYTES_MAX: usize = 1 << 20;

/// The value of a default, evaluated in `zone`, as it is stored in its column. `text` is the default, for
/// errors.
///
/// # Errors
/// `InvalidArgument` when the column cannot hold the value.
pub(crate) fn check_default_value(
    column: &Column,
    text: &str,
    value: ArrayRef,
    zone: &str,
) -> Result<ArrayRef> {
    let context = |e: Error| e.context(format!("column {:?}: DEFAULT {:.200}", column.name, text));
    let bytes = value.get_array_memory_size();
    if bytes > DEFAULT_BYTES_MAX {
        return Err(context(Error::invalid(format!(
            "the value takes {bytes} bytes: at most {DEFAULT_BYTES_MAX} are possible"
        ))));
    }
    let value = assign_value(&value, &types::to_data_type(&column.data_type), zone).map_err(context)?;
    if value.is_null(0) && !column.nullable {
        return Err(context(Error::invalid("the column is NOT NULL, but its default is null")));
    }
    Ok(value)
}

/// A check with its name, or with a generated one.
///
/// # Errors
/// `AlreadyExists` for the name of another check; those of [`definition`].
pub(crate) fn name_check(check: &CheckConstraint, table: &TableSchema) -> Result<Check> {
    let free = |name: &String| table.checks.iter().all(|c| c.name != *name);
    let generated = || (1..).map(|n| format!("check_{n}")).find(free).unwrap_or_default();
    let name = check.name.as_ref().map_or_else(generated, name_of);
    if !free(&name) {
        return Err(Error::already_exists(format!("check {name:?} exists already")));
    }
    Ok(Check { name, expression: definition(&check.expr)? })
}

/// The definition of a column, which has no id yet.
pub(crate) struct DefinedColumn {
    /// Name, type and nullability.
    pub(crate) column: Column,
    /// Default as SQL.
    pub(crate) default: Option<String>,
    /// Checks of the column.
    pub(crate) checks: Vec<CheckConstraint>,
}

/// Plans the definition of one column.
///
/// # Errors
/// `InvalidArgument` or `Unsupported` names what is wrong with the definition.
pub(crate) async fn define_column(definition: ColumnDef, state: &SessionState) -> Result<DefinedColumn> {
    let mut create = match parse::plain_statement("CREATE TABLE t (c INT)")? {
        ast::Statement::CreateTable(create) => create,
        other => return Err(Error::internal(format!("a table was parsed as {other}"))),
    };
    create.columns = vec![definition];
    let types_of_ours = take_types(&mut create)?;
    let (defaults, checks) = take_expressions(&mut create, state)?;
    let statement = Statement::Statement(Box::new(ast::Statement::CreateTable(create)));
    let plan = state.statement_to_plan(statement).await.map_err(from_datafusion)?;
    let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(plan)) = plan else {
        return Err(Error::internal(format!("a column was planned as {}", plan.display())));
    };
    if plan.constraints.iter().next().is_some() {
        return Err(Error::unsupported("an added column cannot be a key or unique"));
    }
    let mut column = types::from_arrow(plan.input.schema().as_arrow())?.columns.remove(0);
    if let Some((_, data_type)) = types_of_ours.into_iter().next() {
        column.data_type = data_type;
    }
    to_utc(&mut column.data_type, state.config_options().execution.time_zone.as_deref().unwrap_or_default());
    Ok(DefinedColumn { column, default: defaults.into_iter().next().map(|(_, sql)| sql), checks })
}

/// The column type that an SQL type denotes.
///
/// # Errors
/// `InvalidArgument` or `Unsupported` for unknown types.
pub(crate) async fn column_type(data_type: ast::DataType, state: &SessionState) -> Result<ColumnType> {
    let definition = ColumnDef { name: ast::Ident::new("c"), data_type, options: vec![] };
    Ok(define_column(definition, state).await?.column.data_type)
}

/// Replaces `VECTOR(n)`, `HALFVEC(n)` and `TIME(p)`, which the planner does not know, by types that it does.
/// Returns their column indexes and types.
fn take_types(create: &mut SqlCreateTable) -> Result<Vec<(usize, ColumnType)>> {
    let mut taken = Vec::new();
    for (index, column) in create.columns.iter_mut().enumerate() {
        let fail =
            |what: &str| Error::invalid(format!("column {}: {} needs {what}", column.name, column.data_type));
        let (data_type, planned) = match &column.data_type {
            ast::DataType::Time(
                Some(digits),
                zone @ (TimezoneInfo::None | TimezoneInfo::WithoutTimeZone),
            ) => {
                let data_type = match digits {
                    0 => ColumnType::Time32(TimeUnit::Second),
                    3 => ColumnType::Time32(TimeUnit::Millisecond),
                    6 => ColumnType::Time64(TimeUnit::Microsecond),
                    9 => ColumnType::Time64(TimeUnit::Nanosecond),
                    _ => return Err(fail("0, 3, 6 or 9 digits of a second")),
                };
                (data_type, ast::DataType::Time(None, *zone))
            }
            ast::DataType::Custom(name, arguments) => {
                let component = match name.to_string().to_ascii_lowercase().as_str() {
                    "vector" => ColumnType::Float32,
                    "halfvec" => ColumnType::Float16,
                    _ => continue,
                };
                let length = match arguments.as_slice() {
                    [length] => {
                        length.parse::<u32>().ok().filter(|n| (1..=VECTOR_DIMENSIONS_MAX).contains(n))
                    }
                    _ => None,
                };
                let length =
                    length.ok_or_else(|| fail(&format!("one length from 1 to {VECTOR_DIMENSIONS_MAX}")))?;
                let item = Box::new(ast::DataType::Real);
                let array = ast::DataType::Array(ArrayElemTypeDef::SquareBracket(item, None));
                (types::vector_type(component, length), array)
            }
            _ => continue,
        };
        taken.push((index, data_type));
        column.data_type = planned;
    }
    Ok(taken)
}
