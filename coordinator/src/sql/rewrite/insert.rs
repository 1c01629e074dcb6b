//! `INSERT`: defaults and `ON CONFLICT`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    self, ConflictTarget, DoUpdate, Expr, Ident, Insert, Merge, ObjectName, OnConflictAction, OnInsert,
    Query, SetExpr,
};
use plexus_model::{Error, Result, Table};

use crate::sql::names::identifier;
use crate::sql::parse;
use crate::sql::rewrite::merge::rewrite_merge;
use crate::sql::rewrite::{
    Rewritten, Shape, assigned_columns, column_of, default_sql, is_default, quote, returning_of,
};
use crate::write::keys::OnDuplicate;

/// An `INSERT` with its defaults filled in. `ON CONFLICT DO UPDATE` becomes a merge, unless it replaces whole
/// rows.
pub(crate) fn rewrite_insert(mut insert: Insert, table: &Table) -> Result<Rewritten> {
    if insert.or.is_some() || insert.replace_into || insert.overwrite || insert.ignore {
        return Err(Error::unsupported("INSERT takes ON CONFLICT, and no OR, IGNORE, REPLACE or OVERWRITE"));
    }
    let alias = match &insert.table_alias {
        Some(alias) => alias.alias.to_string(),
        None => insert.table.to_string().rsplit('.').next().unwrap_or_default().to_owned(),
    };
    let returning = returning_of(insert.returning.take(), &alias);
    fill_defaults(&mut insert, table)?;
    let on_duplicate = match insert.on.take() {
        None => OnDuplicate::Fail,
        Some(OnInsert::OnConflict(conflict)) => {
            check_conflict_target(conflict.conflict_target.as_ref(), table)?;
            match conflict.action {
                OnConflictAction::DoNothing => OnDuplicate::Ignore,
                OnConflictAction::DoUpdate(update) if replaces_whole_row(&update, &insert, table)? => {
                    OnDuplicate::Replace
                }
                OnConflictAction::DoUpdate(update) => {
                    let merge = insert_as_merge(insert, update, &alias, table)?;
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

/// Puts defaults into the rows of an insert, for columns that it omits and for the keyword `DEFAULT`.
fn fill_defaults(insert: &mut Insert, table: &Table) -> Result<()> {
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
                *value = parse::expression(&default_sql(table, table.schema.columns[column].id))?;
            }
        }
    }
    let given: BTreeSet<usize> = named.iter().copied().collect();
    let omitted: Vec<(&str, &str)> = (table.schema.columns.iter().enumerate())
        .filter(|(index, _)| !given.contains(index))
        .filter_map(|(_, column)| Some((column.name.as_str(), table.schema.default_of(column.id)?)))
        .collect();
    if omitted.is_empty() {
        return Ok(());
    }
    insert
        .columns
        .extend(omitted.iter().map(|(name, _)| ObjectName::from(vec![Ident::with_quote('"', *name)])));
    match source.body.as_mut() {
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                for (_, sql) in &omitted {
                    row.content.push(parse::expression(sql)?);
                }
            }
        }
        _ => {
            let more: String = omitted.iter().map(|(_, sql)| format!(", ({sql})")).collect();
            **source = parse::query(&format!("SELECT *{more} FROM ({source}) AS \"$rows\""))?;
        }
    }
    Ok(())
}

/// Checks that `ON CONFLICT` refers to the primary key.
fn check_conflict_target(target: Option<&ConflictTarget>, table: &Table) -> Result<()> {
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

/// The columns of the primary key, in order.
fn key_names(table: &Table) -> impl Iterator<Item = &str> {
    table.schema.primary_key.iter().map(|&index| table.schema.columns[index as usize].name.as_str())
}

/// Whether `ON CONFLICT DO UPDATE` sets every column to the inserted value. The new row then replaces the old
/// one, which need not be read.
fn replaces_whole_row(update: &DoUpdate, insert: &Insert, table: &Table) -> Result<bool> {
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

/// An insert with `ON CONFLICT DO UPDATE` as a merge, whose source has the alias `excluded`.
fn insert_as_merge(insert: Insert, update: DoUpdate, alias: &str, table: &Table) -> Result<Merge> {
    let columns: Vec<String> = match insert.columns.is_empty() {
        true => table.schema.columns.iter().map(|c| quote(&c.name)).collect(),
        false => insert.columns.iter().map(ToString::to_string).collect(),
    };
    let source = insert.source.as_deref().map(Query::to_string).unwrap_or_default();
    let on: Vec<String> =
        key_names(table).map(|name| format!("{alias}.{0} = excluded.{0}", quote(name))).collect();
    let inserted: Vec<String> = columns.iter().map(|name| format!("excluded.{name}")).collect();
    let when = match &update.selection {
        Some(condition) => format!("MATCHED AND ({condition})"),
        None => "MATCHED".to_owned(),
    };
    let set: Vec<String> = update.assignments.iter().map(ToString::to_string).collect();
    let sql = format!(
        "MERGE INTO {} AS {alias} USING ({source}) AS excluded ({}) ON {} WHEN {when} THEN UPDATE SET {} \
         WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
        quote(&table.name.table),
        columns.join(", "),
        on.join(" AND "),
        set.join(", "),
        columns.join(", "),
        inserted.join(", ")
    );
    match parse::plain_statement(&sql)? {
        ast::Statement::Merge(merge) => Ok(merge),
        other => Err(Error::internal(format!("a merge was parsed as {other}"))),
    }
}
