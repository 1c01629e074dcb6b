//! Rewrites DML statements into queries that compute the changes.
//!
//! `UPDATE`, `DELETE` and `MERGE` become one query over the DML target of the table (see `plexus_query`). Its
//! rows have the address of the row to delete in [`SEGMENT_COLUMN`] and [`ROW_COLUMN`], an action in
//! [`ACTION_COLUMN`], and then the columns of the row to insert. Plain inserts stay inserts. Everything here
//! works on syntax trees: no I/O, and no planning.

use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, Expr, FromTable, Ident, ObjectName, SelectItem, TableFactor,
    TableObject, TableWithJoins, UpdateTableFromKind,
};
use plexus_model::{Error, Result, Table};
use plexus_query::{ROW_COLUMN, SEGMENT_COLUMN, dml_target_schema};

use crate::sql::names::identifier;
use crate::sql::parse;
use crate::sql::rewrite::insert::rewrite_insert;
use crate::sql::rewrite::merge::rewrite_merge;
use crate::write::keys::OnDuplicate;

mod insert;
mod merge;

/// Column of the action of a row: [`DELETE`], [`UPDATE`] or [`INSERT`].
pub(crate) const ACTION_COLUMN: &str = "$action";

/// Column of a merge that is not null in rows that come from its source.
pub(crate) const SOURCE_COLUMN: &str = "$source";

/// Action: delete the addressed row.
pub(crate) const DELETE: i64 = 1;

/// Action: delete the addressed row and insert the new one.
pub(crate) const UPDATE: i64 = 2;

/// Action: insert the new row.
pub(crate) const INSERT: i64 = 3;

/// A DML statement, rewritten.
pub(crate) struct Rewritten {
    /// An `INSERT`, or a query whose rows are actions, by `shape`.
    pub(crate) statement: ast::Statement,
    /// What the rows of the statement are.
    pub(crate) shape: Shape,
    /// What happens to new rows whose primary key exists already.
    pub(crate) on_duplicate: OnDuplicate,
    /// The select list of `RETURNING`, and the alias of the rows that it reads.
    pub(crate) returning: Option<(String, String)>,
    /// Name of the operation in the history of the table.
    pub(crate) operation: &'static str,
}

/// What the rows of a rewritten statement are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Rows to insert, with all columns of the table.
    Rows,
    /// Actions on rows of the target.
    Actions {
        /// What happens when a row of the target has several actions.
        duplicate_match: DuplicateMatch,
    },
}

/// What happens when a row of the target is matched several times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DuplicateMatch {
    /// The first match counts. For deletions, where further matches change nothing.
    Ignore,
    /// The statement fails, since the new values are ambiguous.
    Error,
}

/// The table that a DML statement changes; `None` for other statements.
pub(crate) fn target(statement: &ast::Statement) -> Option<ObjectName> {
    let of_factor = |factor: &TableFactor| match factor {
        TableFactor::Table { name, .. } => Some(name.clone()),
        _ => None,
    };
    match statement {
        ast::Statement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => Some(name.clone()),
            _ => None,
        },
        ast::Statement::Update(update) => of_factor(&update.table.relation),
        ast::Statement::Delete(delete) => match from_tables(&delete.from) {
            [TableWithJoins { relation, joins }] if joins.is_empty() => of_factor(relation),
            _ => None,
        },
        ast::Statement::Merge(merge) => of_factor(&merge.table),
        _ => None,
    }
}

/// Whether a statement has `RETURNING`.
pub(crate) fn has_returning(statement: &ast::Statement) -> bool {
    match statement {
        ast::Statement::Insert(insert) => insert.returning.is_some(),
        ast::Statement::Update(update) => update.returning.is_some(),
        ast::Statement::Delete(delete) => delete.returning.is_some(),
        _ => false,
    }
}

/// Rewrites a DML statement whose target is `table`.
///
/// # Errors
/// `InvalidArgument` or `Unsupported` names what is wrong with the statement.
pub(crate) fn rewrite(statement: ast::Statement, table: &Table) -> Result<Rewritten> {
    match statement {
        ast::Statement::Insert(insert) => rewrite_insert(insert, table),
        ast::Statement::Update(update) => rewrite_update(update, table),
        ast::Statement::Delete(delete) => rewrite_delete(delete, table),
        ast::Statement::Merge(merge) => rewrite_merge(merge, table, "merge"),
        other => Err(Error::internal(format!("{other} is not DML"))),
    }
}

/// The tables of a `FROM` clause.
fn from_tables(from: &FromTable) -> &[TableWithJoins] {
    match from {
        FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => tables,
    }
}

/// A quoted identifier.
pub(crate) fn quote(name: &str) -> String {
    Ident::with_quote('"', name).to_string()
}

/// The DML target of `table` with the alias that the statement uses for it, and that alias.
pub(crate) fn target_as(factor: &TableFactor, table: &Table) -> Result<(String, String)> {
    let TableFactor::Table { name, alias, .. } = factor else {
        return Err(Error::invalid(format!("{factor} is not a table that can be changed")));
    };
    let alias = match (alias, name.0.last()) {
        (Some(alias), _) => alias.name.to_string(),
        (None, Some(last)) => last.to_string(),
        (None, None) => quote(&table.name.table),
    };
    let schema = quote(&dml_target_schema(&table.name.schema));
    Ok((format!("{schema}.{} AS {alias}", quote(&table.name.table)), alias))
}

/// Select items for the address of a row of the target.
pub(crate) fn row_address(alias: &str) -> String {
    let (segment, row) = (quote(SEGMENT_COLUMN), quote(ROW_COLUMN));
    format!("{alias}.{segment} AS {segment}, {alias}.{row} AS {row}")
}

/// The select list of `RETURNING` with the alias of its rows.
pub(crate) fn returning_of(items: Option<Vec<SelectItem>>, alias: &str) -> Option<(String, String)> {
    let items: Vec<String> = items?.iter().map(ToString::to_string).collect();
    Some((items.join(", "), alias.to_owned()))
}

/// A `DELETE` as a query. It selects the columns of the table only for `RETURNING`.
fn rewrite_delete(delete: ast::Delete, table: &Table) -> Result<Rewritten> {
    let ast::Delete { from, using, selection, returning, order_by, limit, tables, .. } = delete;
    if !order_by.is_empty() || limit.is_some() || !tables.is_empty() {
        return Err(Error::unsupported("DELETE takes a WHERE, no ORDER BY, LIMIT or list of tables"));
    }
    let [TableWithJoins { relation, joins }] = from_tables(&from) else {
        return Err(Error::unsupported("DELETE takes one table; others go into USING or a subquery"));
    };
    if !joins.is_empty() {
        return Err(Error::unsupported("DELETE takes one table; others go into USING or a subquery"));
    }
    let (target, alias) = target_as(relation, table)?;
    let mut sql = format!("SELECT {}, {DELETE} AS {}", row_address(&alias), quote(ACTION_COLUMN));
    if returning.is_some() {
        for column in &table.schema.columns {
            let name = quote(&column.name);
            sql += &format!(", {alias}.{name} AS {name}");
        }
    }
    sql += &format!(" FROM {target}");
    for other in using.iter().flatten() {
        sql += &format!(", {other}");
    }
    if let Some(condition) = selection {
        sql += &format!(" WHERE {condition}");
    }
    Ok(Rewritten {
        statement: parse::plain_statement(&sql)?,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Ignore },
        on_duplicate: OnDuplicate::Fail,
        returning: returning_of(returning, &alias),
        operation: "delete",
    })
}

/// An `UPDATE` as a query.
fn rewrite_update(update: ast::Update, table: &Table) -> Result<Rewritten> {
    let ast::Update { table: target, assignments, from, selection, returning, or, order_by, limit, .. } =
        update;
    if !order_by.is_empty() || limit.is_some() || or.is_some() || !target.joins.is_empty() {
        return Err(Error::unsupported("UPDATE takes SET, FROM and WHERE; no joins, ORDER BY or LIMIT"));
    }
    let (target, alias) = target_as(&target.relation, table)?;
    let mut sql = format!("SELECT {}, {UPDATE} AS {}", row_address(&alias), quote(ACTION_COLUMN));
    let assigned = assigned_columns(&assignments, table)?;
    for (column, value) in table.schema.columns.iter().zip(assigned) {
        let name = quote(&column.name);
        match value {
            Some(value) => sql += &format!(", {} AS {name}", or_default(value, table, column.id)),
            None => sql += &format!(", {alias}.{name} AS {name}"),
        }
    }
    sql += &format!(" FROM {target}");
    if let Some(UpdateTableFromKind::BeforeSet(others) | UpdateTableFromKind::AfterSet(others)) = from {
        others.iter().for_each(|other| sql += &format!(", {other}"));
    }
    if let Some(condition) = selection {
        sql += &format!(" WHERE {condition}");
    }
    Ok(Rewritten {
        statement: parse::plain_statement(&sql)?,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: returning_of(returning, &alias),
        operation: "update",
    })
}

/// The expression that each column of the table is set to; `None` for columns that are not assigned.
pub(crate) fn assigned_columns<'a>(
    assignments: &'a [Assignment],
    table: &Table,
) -> Result<Vec<Option<&'a Expr>>> {
    let mut values = vec![None; table.schema.columns.len()];
    for assignment in assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(Error::unsupported(format!("{assignment}: set one column at a time")));
        };
        let index = column_of(name, table)?;
        if values[index].replace(&assignment.value).is_some() {
            return Err(Error::invalid(format!("column {name} is set twice")));
        }
    }
    Ok(values)
}

/// The index of the column that an assignment or a column list names.
pub(crate) fn column_of(name: &ObjectName, table: &Table) -> Result<usize> {
    let last = name.0.last().map(|part| identifier(&part.to_string())).unwrap_or_default();
    let found = table.schema.column_index(&last);
    found.ok_or_else(|| Error::invalid(format!("table {} has no column {last:?}", table.name)))
}

/// Whether an expression is the keyword `DEFAULT`, which the parser returns as an identifier.
pub(crate) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name)
        if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
}

/// The default of a column as SQL; `NULL` if it has none.
pub(crate) fn default_sql(table: &Table, column: u32) -> String {
    table.schema.default_of(column).map_or_else(|| "NULL".to_owned(), |sql| format!("({sql})"))
}

/// An expression as SQL, with `DEFAULT` replaced by the default of the column.
pub(crate) fn or_default(value: &Expr, table: &Table, column: u32) -> String {
    if is_default(value) { default_sql(table, column) } else { value.to_string() }
}
