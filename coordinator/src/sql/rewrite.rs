//! Rewrites DML statements into queries that compute the changes.
//!
//! `UPDATE`, `DELETE` and `MERGE` become one query over the DML target of the table (see `plexus_query`). Its
//! rows have the address of the row to delete in [`SEGMENT_COLUMN`] and [`ROW_COLUMN`], an action in
//! [`ACTION_COLUMN`], and then the columns of the row to insert. Plain inserts stay inserts. Everything here
//! works on syntax trees: no I/O, no planning, and no SQL text.

use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, Expr, FromTable, Ident, ObjectName, SelectItem, TableFactor,
    TableObject, TableWithJoins, UpdateTableFromKind,
};
use plexus_model::{Error, Result, Table};
use plexus_query::{ROW_COLUMN, SEGMENT_COLUMN, dml_target_schema, make_doubles_in};

use crate::sql::names::{last_part, name_of};
use crate::sql::parse;
pub(crate) use crate::sql::rewrite::insert::assign_values;
use crate::sql::rewrite::insert::rewrite_insert;
use crate::sql::rewrite::merge::rewrite_merge;
use crate::sql::rewrite::qualifiers::{Qualifier, shorten};
use crate::sql::syntax;
use crate::write::assign::ASSIGN;
use crate::write::keys::OnDuplicate;

mod insert;
mod merge;
mod qualifiers;

/// Column of the action of a row: [`DELETE`], [`UPDATE`] or [`INSERT`]. No table has a column of that name,
/// since it contains a control character.
pub(crate) const ACTION_COLUMN: &str = "\u{1}action";

/// Column of a merge that is not null in rows that come from its source.
pub(crate) const SOURCE_COLUMN: &str = "\u{1}source";

/// Action: delete the addressed row.
pub(crate) const DELETE: i64 = 1;

/// Action: delete the addressed row and insert the new one.
pub(crate) const UPDATE: i64 = 2;

/// Action: insert the new row.
pub(crate) const INSERT: i64 = 3;

/// A DML statement, rewritten.
pub(crate) struct Rewritten {
    /// The query whose rows are described by `shape`.
    pub(crate) query: ast::Query,
    /// What the rows of the statement are.
    pub(crate) shape: Shape,
    /// What happens to new rows whose primary key exists already.
    pub(crate) on_duplicate: OnDuplicate,
    /// What the statement returns.
    pub(crate) returning: Option<Returning>,
    /// Name of the operation in the history of the table.
    pub(crate) operation: &'static str,
}

/// `RETURNING`: a select list over the affected rows.
#[derive(Clone)]
pub(crate) struct Returning {
    /// The select list.
    pub(crate) items: Vec<SelectItem>,
    /// The name by which it refers to the affected rows.
    pub(crate) alias: Ident,
}

/// What the rows of a rewritten statement are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Rows to insert.
    Rows {
        /// The index of the column of the table that each column of the rows is for.
        columns: Vec<usize>,
    },
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

/// The target of a statement as its query reads it.
pub(crate) struct Target {
    /// The DML target of the table, under `alias`.
    pub(crate) factor: TableFactor,
    /// The name by which the statement refers to the target.
    pub(crate) alias: Ident,
}

/// The table that a DML statement changes; `None` for other statements.
pub(crate) fn target(statement: &ast::Statement) -> Option<&ObjectName> {
    match statement {
        ast::Statement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => Some(name),
            _ => None,
        },
        ast::Statement::Update(update) => name_in(&update.table.relation),
        ast::Statement::Delete(delete) => match from_tables(&delete.from) {
            [TableWithJoins { relation, joins }] if joins.is_empty() => name_in(relation),
            _ => None,
        },
        ast::Statement::Merge(merge) => name_in(&merge.table),
        _ => None,
    }
}

/// The name of the table in a `FROM` clause.
fn name_in(factor: &TableFactor) -> Option<&ObjectName> {
    match factor {
        TableFactor::Table { name, .. } => Some(name),
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
pub(crate) fn rewrite(mut statement: ast::Statement, table: &Table) -> Result<Rewritten> {
    let qualifier = Qualifier::of_target(&statement, table);
    shorten(&mut statement, &qualifier)?;
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

/// The DML target of `table` under the name that the statement uses for it.
pub(crate) fn target_of(factor: &TableFactor, table: &Table) -> Result<Target> {
    let TableFactor::Table { name, alias, .. } = factor else {
        return Err(Error::invalid(format!("{factor} is not a table that can be changed")));
    };
    let alias = match alias {
        Some(alias) if !alias.columns.is_empty() => {
            return Err(Error::unsupported(format!("{factor}: the columns of a target keep their names")));
        }
        Some(alias) => alias.name.clone(),
        None => last_part(name)?.clone(),
    };
    let schema = dml_target_schema(&table.name.schema);
    let factor = syntax::table(syntax::object_name([schema.as_str(), &table.name.table]), alias.clone());
    Ok(Target { factor, alias })
}

/// Select items for the address of a row of the target.
pub(crate) fn row_address(alias: &Ident) -> [SelectItem; 2] {
    [SEGMENT_COLUMN, ROW_COLUMN].map(|name| syntax::item(syntax::column(alias, name), name))
}

/// The select item of an action that is the same for all rows.
fn constant_action(action: i64) -> SelectItem {
    syntax::item(syntax::number(action), ACTION_COLUMN)
}

/// A `DELETE` as a query. It selects the columns of the table only for `RETURNING`.
fn rewrite_delete(delete: ast::Delete, table: &Table) -> Result<Rewritten> {
    let ast::Delete { from, using, selection, returning, .. } = delete;
    let [TableWithJoins { relation, joins }] = from_tables(&from) else {
        return Err(Error::unsupported("DELETE takes one table; others go into USING or a subquery"));
    };
    if !joins.is_empty() {
        return Err(Error::unsupported("DELETE takes one table; others go into USING or a subquery"));
    }
    let Target { factor, alias } = target_of(relation, table)?;
    let mut items = row_address(&alias).to_vec();
    items.push(constant_action(DELETE));
    if returning.is_some() {
        let columns = table.schema.columns.iter();
        items.extend(columns.map(|c| syntax::item(syntax::column(&alias, &c.name), &c.name)));
    }
    let mut from = vec![syntax::relation(factor)];
    from.extend(using.into_iter().flatten());
    let query = syntax::select(items, from, selection);
    Ok(Rewritten {
        query,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Ignore },
        on_duplicate: OnDuplicate::Fail,
        returning: returning.map(|items| Returning { items, alias }),
        operation: "delete",
    })
}

/// An `UPDATE` as a query.
fn rewrite_update(update: ast::Update, table: &Table) -> Result<Rewritten> {
    let ast::Update { table: relation, assignments, from: others, selection, returning, .. } = update;
    if !relation.joins.is_empty() {
        return Err(Error::unsupported("UPDATE takes one table; others go into FROM or a subquery"));
    }
    let Target { factor, alias } = target_of(&relation.relation, table)?;
    let mut items = row_address(&alias).to_vec();
    items.push(constant_action(UPDATE));
    let assigned = assigned_columns(&assignments, table, &alias)?;
    for (column, value) in table.schema.columns.iter().zip(assigned) {
        let value = match value {
            Some(value) => or_default(value, table, column.id)?,
            None => syntax::column(&alias, &column.name),
        };
        items.push(syntax::item(value, &column.name));
    }
    let mut from = vec![syntax::relation(factor)];
    if let Some(UpdateTableFromKind::BeforeSet(others) | UpdateTableFromKind::AfterSet(others)) = others {
        from.extend(others);
    }
    let query = syntax::select(items, from, selection);
    Ok(Rewritten {
        query,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: returning.map(|items| Returning { items, alias }),
        operation: "update",
    })
}

/// The expression that each column of the table is set to; `None` for columns that are not assigned.
pub(crate) fn assigned_columns<'a>(
    assignments: &'a [Assignment],
    table: &Table,
    alias: &Ident,
) -> Result<Vec<Option<&'a Expr>>> {
    let mut values = vec![None; table.schema.columns.len()];
    for assignment in assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(Error::unsupported(format!("{assignment}: set one column at a time")));
        };
        let index = column_of(name, table, alias)?;
        if values[index].replace(&assignment.value).is_some() {
            return Err(Error::invalid(format!("column {name} is set twice")));
        }
    }
    Ok(values)
}

/// The index of the column that an assignment or a column list names. A qualifier must be that of the target.
pub(crate) fn column_of(name: &ObjectName, table: &Table, alias: &Ident) -> Result<usize> {
    let column = name_of(last_part(name)?);
    let qualifiers: Vec<String> =
        name.0.iter().rev().skip(1).rev().filter_map(|part| part.as_ident().map(name_of)).collect();
    if !qualifiers.is_empty() && !Qualifier::names(&qualifiers, table, alias) {
        return Err(Error::invalid(format!(
            "column {name} is not of table {}: only its columns can be set",
            table.name
        )));
    }
    let found = table.schema.column_index(&column);
    found.ok_or_else(|| Error::invalid(format!("table {} has no column {column:?}", table.name)))
}

/// Whether an expression is the keyword `DEFAULT`, which the parser returns as an identifier.
pub(crate) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name)
        if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
}

/// The indexes of the columns that a column list names; all columns if it is empty.
pub(crate) fn named_columns(names: &[ObjectName], table: &Table, alias: &Ident) -> Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..table.schema.columns.len()).collect());
    }
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        let column = column_of(name, table, alias)?;
        if columns.contains(&column) {
            return Err(Error::invalid(format!("column {name} is named twice")));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// A value as it is stored in the column of that index: see [`crate::write::assign`].
pub(crate) fn assign_call(column: usize, value: Expr) -> Expr {
    syntax::call(ASSIGN, vec![value, syntax::number(column as i64)])
}

/// The default of a column; `NULL` if it has none.
pub(crate) fn default_of(table: &Table, column: u32) -> Result<Expr> {
    let Some(default) = table.schema.default_of(column) else {
        return Ok(syntax::null());
    };
    let mut default = parse::expression(default)?;
    make_doubles_in(&mut default);
    Ok(syntax::nested(default))
}

/// A value, where `DEFAULT` is the default of the column.
pub(crate) fn or_default(value: &Expr, table: &Table, column: u32) -> Result<Expr> {
    if is_default(value) { default_of(table, column) } else { Ok(value.clone()) }
}
