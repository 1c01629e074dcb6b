//! Statements that change rows, as queries that say which and how.
//!
//! Every change becomes one query over its target, whose rows carry their places (see the target tables of
//! `query`): columns [`SEGMENT_COLUMN`] and [`ROW_COLUMN`] of the row that goes, [`ACTION_COLUMN`], and the
//! columns of the row that comes. Plain inserts stay as they are. Pure: no I/O, and no plan yet.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, ConflictTarget, DoUpdate, Expr, FromTable, Ident, Insert, Merge,
    MergeAction, MergeClause, MergeClauseKind, MergeInsertKind, ObjectName, OnConflictAction, OnInsert,
    Query, SelectItem, SetExpr, TableFactor, TableObject, TableWithJoins, UpdateTableFromKind, Values,
};
use plexus_model::{Error, Result, Table};
use plexus_query::{ROW_COLUMN, SEGMENT_COLUMN, dml_target_schema};

use crate::sql::names::identifier;
use crate::sql::parse;
use crate::write::keys::OnDuplicate;

/// Column that says what happens to a row.
pub const ACTION_COLUMN: &str = "$action";

/// Marks rows of a merge that its source has.
pub const SOURCE_COLUMN: &str = "$source";

pub const DELETE: i64 = 1;

pub const UPDATE: i64 = 2;

pub const INSERT: i64 = 3;

/// A change as a query.
pub struct Rewritten {
    /// An insert of rows, or a query whose rows are actions.
    pub statement: ast::Statement,
    pub shape: Shape,
    pub on_duplicate: OnDuplicate,
    /// What `RETURNING` asks for, over rows that are called so.
    pub returning: Option<(String, String)>,
    pub operation: &'static str,
}

/// What the rows of the query are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Rows to be written, with all columns of the table.
    Rows,
    /// Actions. `twice`: what it means that a row of the target comes up twice.
    Actions { twice: DuplicateMatch },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DuplicateMatch {
    /// The same as once.
    Once,
    /// Nobody can say what it should become.
    Error,
}

/// Whether a statement changes rows, and the table that it changes.
pub fn target(statement: &ast::Statement) -> Option<ObjectName> {
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

/// Whether a statement gives rows back.
pub fn returns_rows(statement: &ast::Statement) -> bool {
    match statement {
        ast::Statement::Insert(insert) => insert.returning.is_some(),
        ast::Statement::Update(update) => update.returning.is_some(),
        ast::Statement::Delete(delete) => delete.returning.is_some(),
        _ => false,
    }
}

/// The change of `table` that a statement asks for.
pub fn rewrite(statement: ast::Statement, table: &Table) -> Result<Rewritten> {
    match statement {
        ast::Statement::Insert(insert) => rewrite_insert(insert, table),
        ast::Statement::Update(update) => rewrite_update(update, table),
        ast::Statement::Delete(delete) => rewrite_delete(delete, table),
        ast::Statement::Merge(merge) => rewrite_merge(merge, table, "merge"),
        other => Err(Error::internal(format!("not a change of rows: {other}"))),
    }
}

pub fn from_tables(from: &FromTable) -> &[TableWithJoins] {
    match from {
        FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => tables,
    }
}

pub fn quote(name: &str) -> String {
    Ident::with_quote('"', name).to_string()
}

/// The target under the name that the statement calls it, and that name.
pub fn target_as(factor: &TableFactor, table: &Table) -> Result<(String, String)> {
    let TableFactor::Table { name, alias, .. } = factor else {
        return Err(Error::invalid(format!("{factor} is not a table that can be changed")));
    };
    let called = match (alias, name.0.last()) {
        (Some(alias), _) => alias.name.to_string(),
        (None, Some(last)) => last.to_string(),
        (None, None) => quote(&table.name.table),
    };
    let schema = quote(&dml_target_schema(&table.name.schema));
    Ok((format!("{schema}.{} AS {called}", quote(&table.name.table)), called))
}

pub fn place(called: &str) -> String {
    let (segment, row) = (quote(SEGMENT_COLUMN), quote(ROW_COLUMN));
    format!("{called}.{segment} AS {segment}, {called}.{row} AS {row}")
}

pub fn returned(items: Option<Vec<SelectItem>>, called: &str) -> Option<(String, String)> {
    let items: Vec<String> = items?.iter().map(ToString::to_string).collect();
    Some((items.join(", "), called.to_owned()))
}

pub fn query(sql: &str) -> Result<ast::Statement> {
    parse::plain_statement(sql)
}

pub fn rewrite_delete(delete: ast::Delete, table: &Table) -> Result<Rewritten> {
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
    let (target, called) = target_as(relation, table)?;
    let mut sql = format!("SELECT {}, {DELETE} AS {}", place(&called), quote(ACTION_COLUMN));
    if returning.is_some() {
        for column in &table.schema.columns {
            let name = quote(&column.name);
            sql += &format!(", {called}.{name} AS {name}");
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
        statement: query(&sql)?,
        shape: Shape::Actions { twice: DuplicateMatch::Once },
        on_duplicate: OnDuplicate::Fail,
        returning: returned(returning, &called),
        operation: "delete",
    })
}

pub fn rewrite_update(update: ast::Update, table: &Table) -> Result<Rewritten> {
    let ast::Update { table: target, assignments, from, selection, returning, or, order_by, limit, .. } =
        update;
    if !order_by.is_empty() || limit.is_some() || or.is_some() || !target.joins.is_empty() {
        return Err(Error::unsupported("UPDATE takes SET, FROM and WHERE; no joins, ORDER BY or LIMIT"));
    }
    let (target, called) = target_as(&target.relation, table)?;
    let mut sql = format!("SELECT {}, {UPDATE} AS {}", place(&called), quote(ACTION_COLUMN));
    let assigned = assigned_columns(&assignments, table)?;
    for (column, value) in table.schema.columns.iter().zip(assigned) {
        let name = quote(&column.name);
        match value {
            Some(value) => sql += &format!(", {} AS {name}", or_default(value, table, column.id)),
            None => sql += &format!(", {called}.{name} AS {name}"),
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
        statement: query(&sql)?,
        shape: Shape::Actions { twice: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: returned(returning, &called),
        operation: "update",
    })
}

/// The value that each column of the table is set to, if any.
pub fn assigned_columns<'a>(assignments: &'a [Assignment], table: &Table) -> Result<Vec<Option<&'a Expr>>> {
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

pub fn column_of(name: &ObjectName, table: &Table) -> Result<usize> {
    let last = name.0.last().map(|part| identifier(&part.to_string())).unwrap_or_default();
    let found = table.schema.column_index(&last);
    found.ok_or_else(|| Error::invalid(format!("table {} has no column {last:?}", table.name)))
}

pub fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
}

pub fn default_sql(table: &Table, column: u32) -> String {
    table.schema.default_of(column).map_or_else(|| "NULL".to_owned(), |sql| format!("({sql})"))
}

pub fn or_default(value: &Expr, table: &Table, column: u32) -> String {
    if is_default(value) { default_sql(table, column) } else { value.to_string() }
}

pub fn rewrite_insert(mut insert: Insert, table: &Table) -> Result<Rewritten> {
    if insert.or.is_some() || insert.replace_into || insert.overwrite || insert.ignore {
        return Err(Error::unsupported("INSERT takes ON CONFLICT, and no OR, IGNORE, REPLACE or OVERWRITE"));
    }
    let called = match &insert.table_alias {
        Some(alias) => alias.alias.to_string(),
        None => insert.table.to_string().rsplit('.').next().unwrap_or_default().to_owned(),
    };
    let returning = returned(insert.returning.take(), &called);
    fill_defaults(&mut insert, table)?;
    let on = insert.on.take();
    let on_duplicate = match &on {
        None => OnDuplicate::Fail,
        Some(OnInsert::OnConflict(conflict)) => {
            check_conflict_target(conflict.conflict_target.as_ref(), table)?;
            match &conflict.action {
                OnConflictAction::DoNothing => OnDuplicate::Ignore,
                OnConflictAction::DoUpdate(update) if replaces(update, &insert, table)? => {
                    OnDuplicate::Replace
                }
                OnConflictAction::DoUpdate(update) => {
                    let merge = merge_of(insert, update.clone(), &called, table)?;
                    return Ok(Rewritten { returning, ..rewrite_merge(merge, table, "insert")? });
                }
            }
        }
        Some(_) => {
            return Err(Error::unsupported("ON DUPLICATE KEY is not supported: write ON CONFLICT DO UPDATE"));
        }
    };
    insert.table_alias = None;
    Ok(Rewritten {
        statement: ast::Statement::Insert(insert),
        shape: Shape::Rows,
        on_duplicate,
        returning,
        operation: "insert",
    })
}

/// Puts the defaults of columns that an insert leaves out, or calls `DEFAULT`, into its rows.
pub fn fill_defaults(insert: &mut Insert, table: &Table) -> Result<()> {
    let expression = |sql: &str| parse::expression(sql);
    let named: Vec<usize> = match insert.columns.is_empty() {
        true => (0..table.schema.columns.len()).collect(),
        false => insert.columns.iter().map(|name| column_of(name, table)).collect::<Result<_>>()?,
    };
    if insert.source.is_none() {
        // INSERT ... DEFAULT VALUES
        let text: Vec<String> =
            table.schema.columns.iter().map(|column| default_sql(table, column.id)).collect();
        insert.source = Some(Box::new(parse::query(&format!("VALUES ({})", text.join(", ")))?));
        return Ok(());
    }
    let Some(source) = insert.source.as_mut() else {
        return Ok(());
    };
    if let SetExpr::Values(values) = source.body.as_mut() {
        for row in &mut values.rows {
            for (value, &column) in row.content.iter_mut().zip(&named).filter(|(value, _)| is_default(value))
            {
                *value = expression(&default_sql(table, table.schema.columns[column].id))?;
            }
        }
    }
    let seen: BTreeSet<usize> = named.iter().copied().collect();
    let absent: Vec<(&str, &str)> = (table.schema.columns.iter().enumerate())
        .filter(|(index, _)| !seen.contains(index))
        .filter_map(|(_, column)| Some((column.name.as_str(), table.schema.default_of(column.id)?)))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    insert
        .columns
        .extend(absent.iter().map(|(name, _)| ObjectName::from(vec![Ident::with_quote('"', *name)])));
    match source.body.as_mut() {
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                for (_, sql) in &absent {
                    row.content.push(expression(sql)?);
                }
            }
        }
        _ => {
            let more: String = absent.iter().map(|(_, sql)| format!(", ({sql})")).collect();
            **source = parse::query(&format!("SELECT *{more} FROM ({source}) AS \"$rows\""))?;
        }
    }
    Ok(())
}

pub fn check_conflict_target(target: Option<&ConflictTarget>, table: &Table) -> Result<()> {
    if !table.schema.has_key() {
        return Err(Error::invalid(format!("ON CONFLICT: table {} has no primary key", table.name)));
    }
    let Some(target) = target else {
        return Ok(());
    };
    let ConflictTarget::Columns(columns) = target else {
        return Err(Error::unsupported("ON CONFLICT ON CONSTRAINT: name the columns of the primary key"));
    };
    let named: BTreeSet<String> = columns.iter().map(|c| identifier(&c.to_string())).collect();
    let key: BTreeSet<String> = key_names(table).map(str::to_owned).collect();
    if named != key {
        return Err(Error::invalid(format!(
            "ON CONFLICT ({}): the primary key of table {} is ({})",
            named.into_iter().collect::<Vec<_>>().join(", "),
            table.name,
            key.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(())
}

pub fn key_names(table: &Table) -> impl Iterator<Item = &str> {
    table.schema.primary_key.iter().map(|&index| table.schema.columns[index as usize].name.as_str())
}

/// Whether an update on conflict sets every column to what the insert has for it: then the new row takes
/// the place of the old one whole, and the old one need not be read.
pub fn replaces(update: &DoUpdate, insert: &Insert, table: &Table) -> Result<bool> {
    let inserted = match insert.columns.is_empty() {
        true => table.schema.columns.len(),
        false => insert.columns.len(),
    };
    if update.selection.is_some() || inserted != table.schema.columns.len() {
        return Ok(false);
    }
    let assigned = assigned_columns(&update.assignments, table)?;
    Ok(table.schema.columns.iter().zip(0u32..).zip(assigned).all(|((column, index), value)| match value {
        Some(Expr::CompoundIdentifier(parts)) => match parts.as_slice() {
            [of, name] => {
                identifier(&of.to_string()) == "excluded" && identifier(&name.to_string()) == column.name
            }
            _ => false,
        },
        Some(_) => false,
        None => table.schema.primary_key.contains(&index),
    }))
}

/// An insert with an update on conflict, as a merge of its rows, which are called `excluded`.
pub fn merge_of(insert: Insert, update: DoUpdate, called: &str, table: &Table) -> Result<Merge> {
    let columns: Vec<String> = match insert.columns.is_empty() {
        true => table.schema.columns.iter().map(|c| quote(&c.name)).collect(),
        false => insert.columns.iter().map(ToString::to_string).collect(),
    };
    let source = insert.source.as_deref().map(Query::to_string).unwrap_or_default();
    let on: Vec<String> =
        key_names(table).map(|name| format!("{called}.{0} = excluded.{0}", quote(name))).collect();
    let given: Vec<String> = columns.iter().map(|name| format!("excluded.{name}")).collect();
    let when = match &update.selection {
        Some(condition) => format!("MATCHED AND ({condition})"),
        None => "MATCHED".to_owned(),
    };
    let set: Vec<String> = update.assignments.iter().map(ToString::to_string).collect();
    let sql = format!(
        "MERGE INTO {} AS {called} USING ({source}) AS excluded ({}) ON {} WHEN {when} THEN UPDATE SET {} \
         WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
        quote(&table.name.table),
        columns.join(", "),
        on.join(" AND "),
        set.join(", "),
        columns.join(", "),
        given.join(", ")
    );
    match parse::plain_statement(&sql)? {
        ast::Statement::Merge(merge) => Ok(merge),
        other => Err(Error::internal(format!("a merge was read as {other}"))),
    }
}

/// When a clause of a merge applies, and what it does.
pub struct Clause {
    condition: String,
    action: i64,
    /// The value of each column of the table.
    values: Vec<String>,
}

pub fn rewrite_merge(merge: Merge, table: &Table, operation: &'static str) -> Result<Rewritten> {
    let Merge { table: target, source, on, clauses, output, .. } = merge;
    if output.is_some() {
        return Err(Error::unsupported("MERGE has no OUTPUT or RETURNING"));
    }
    let (target, called) = target_as(&target, table)?;
    let source_called = match &source {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            alias.name.to_string()
        }
        TableFactor::Table { name, .. } => name.0.last().map(ToString::to_string).unwrap_or_default(),
        _ => return Err(Error::invalid("the source of a MERGE is a table, or a query with an alias")),
    };
    let kinds: Vec<MergeClauseKind> = clauses.iter().map(|c| c.clause_kind).collect();
    let new_rows =
        kinds.iter().any(|k| matches!(k, MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget));
    let old_rows = kinds.contains(&MergeClauseKind::NotMatchedBySource);
    let join = match (new_rows, old_rows) {
        (true, true) => "FULL JOIN",
        (true, false) => "RIGHT JOIN",
        (false, true) => "LEFT JOIN",
        (false, false) => "JOIN",
    };
    let clauses =
        clauses.iter().map(|c| read_clause(c, &called, &source_called, table)).collect::<Result<Vec<_>>>()?;
    let case = |pick: &dyn Fn(&Clause) -> String, otherwise: &str| {
        let whens: String =
            clauses.iter().map(|c| format!(" WHEN {} THEN {}", c.condition, pick(c))).collect();
        format!("CASE{whens} ELSE {otherwise} END")
    };
    let action = case(&|c| c.action.to_string(), "0");
    let mut sql = format!("SELECT {}, {action} AS {}", place(&called), quote(ACTION_COLUMN));
    for (index, column) in table.schema.columns.iter().enumerate() {
        let name = quote(&column.name);
        sql += &format!(", {} AS {name}", case(&|c| c.values[index].clone(), &format!("{called}.{name}")));
    }
    let marked = format!("(SELECT *, true AS {} FROM {source}) AS {source_called}", quote(SOURCE_COLUMN));
    let sql = format!(
        "SELECT * FROM ({sql} FROM {target} {join} {marked} ON {on}) AS \"$actions\" WHERE {} <> 0",
        quote(ACTION_COLUMN)
    );
    Ok(Rewritten {
        statement: query(&sql)?,
        shape: Shape::Actions { twice: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: None,
        operation,
    })
}

pub fn read_clause(clause: &MergeClause, called: &str, source: &str, table: &Table) -> Result<Clause> {
    let (row, mark) =
        (format!("{called}.{}", quote(ROW_COLUMN)), format!("{source}.{}", quote(SOURCE_COLUMN)));
    let kind = match clause.clause_kind {
        MergeClauseKind::Matched => format!("{row} IS NOT NULL AND {mark} IS NOT NULL"),
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => format!("{row} IS NULL"),
        MergeClauseKind::NotMatchedBySource => format!("{mark} IS NULL"),
    };
    let condition = match &clause.predicate {
        Some(predicate) => format!("{kind} AND ({predicate})"),
        None => kind,
    };
    let own = |name: &str| format!("{called}.{}", quote(name));
    let columns = &table.schema.columns;
    let (action, values) = match &clause.action {
        MergeAction::Delete { .. } => (DELETE, columns.iter().map(|c| own(&c.name)).collect()),
        MergeAction::Update(update) => {
            if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                return Err(Error::unsupported("MERGE: put conditions behind WHEN ... AND"));
            }
            let assigned = assigned_columns(&update.assignments, table)?;
            let values = columns.iter().zip(assigned).map(|(column, value)| match value {
                Some(value) => or_default(value, table, column.id),
                None => own(&column.name),
            });
            (UPDATE, values.collect())
        }
        MergeAction::Insert(insert) => {
            let MergeInsertKind::Values(Values { rows, .. }) = &insert.kind else {
                return Err(Error::unsupported(
                    "MERGE: INSERT ROW is not supported; write INSERT ... VALUES",
                ));
            };
            let [given] = rows.as_slice() else {
                return Err(Error::invalid("MERGE: an INSERT has one row of VALUES"));
            };
            let named: Vec<usize> = match insert.columns.is_empty() {
                true => (0..columns.len()).collect(),
                false => insert.columns.iter().map(|name| column_of(name, table)).collect::<Result<_>>()?,
            };
            if named.len() != given.content.len() {
                return Err(Error::invalid(format!(
                    "MERGE: INSERT names {} columns and gives {} values",
                    named.len(),
                    given.content.len()
                )));
            }
            let values = columns.iter().enumerate().map(|(index, column)| {
                match named.iter().position(|n| *n == index) {
                    Some(position) => or_default(&given.content[position], table, column.id),
                    None => default_sql(table, column.id),
                }
            });
            (INSERT, values.collect())
        }
    };
    if action == INSERT && clause.clause_kind == MergeClauseKind::NotMatchedBySource {
        return Err(Error::invalid("MERGE: a row that is not matched by the source cannot be inserted"));
    }
    Ok(Clause { condition, action, values })
}
