//! `INSERT`: defaults and `ON CONFLICT`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    Assignment, BinaryOperator, ConflictTarget, DoUpdate, Expr, Ident, Insert, Merge, MergeAction,
    MergeClause, MergeClauseKind, MergeInsertExpr, MergeInsertKind, MergeUpdateExpr, OnConflictAction,
    OnInsert, Parens, Query, SetExpr, TableObject, Values,
};
use plexus_model::{Error, Result, Table};

use crate::sql::names::{last_part, name_of};
use crate::sql::rewrite::merge::rewrite_merge;
use crate::sql::rewrite::qualifiers::qualify;
use crate::sql::rewrite::{
    Returning, Rewritten, Shape, assign_call, assigned_columns, default_of, is_default, named_columns,
};
use crate::sql::syntax;
use crate::write::keys::OnDuplicate;

/// The name of the rows that `ON CONFLICT DO UPDATE` proposes to insert.
const EXCLUDED: &str = "excluded";

/// An `INSERT` with its defaults filled in. `ON CONFLICT DO UPDATE` becomes a merge, unless it replaces whole
/// rows.
pub(crate) fn rewrite_insert(insert: Insert, table: &Table) -> Result<Rewritten> {
    let Insert { table: target, table_alias, columns, source, on, returning, .. } = insert;
    let TableObject::TableName(name) = target else {
        return Err(Error::unsupported("INSERT takes the name of a table"));
    };
    let alias = match table_alias {
        Some(alias) => alias.alias,
        None => last_part(&name)?.clone(),
    };
    let returning = returning.map(|items| Returning { items, alias: alias.clone() });
    let mut columns = named_columns(&columns, table, &alias)?;
    let mut query = match source {
        Some(source) => *source,
        // INSERT ... DEFAULT VALUES
        None => {
            columns = (0..table.schema.columns.len()).collect();
            let row = table.schema.columns.iter().map(|column| default_of(table, column.id));
            values(vec![row.collect::<Result<_>>()?])
        }
    };
    let updates = matches!(&on, Some(OnInsert::OnConflict(conflict))
        if matches!(conflict.action, OnConflictAction::DoUpdate(_)));
    fill_defaults(&mut query, &mut columns, table, updates)?;
    let on_duplicate = match on {
        None => OnDuplicate::Fail,
        Some(OnInsert::OnConflict(conflict)) => {
            check_conflict_target(conflict.conflict_target.as_ref(), table)?;
            match conflict.action {
                OnConflictAction::DoNothing => OnDuplicate::Ignore,
                OnConflictAction::DoUpdate(update)
                    if columns.len() == table.schema.columns.len()
                        && replaces_whole_row(&update, table, &alias)? =>
                {
                    OnDuplicate::Replace
                }
                OnConflictAction::DoUpdate(update) => {
                    let merge = insert_as_merge(query, &columns, update, &alias, table)?;
                    return Ok(Rewritten { returning, ..rewrite_merge(merge, table, "insert")? });
                }
            }
        }
        Some(_) => {
            return Err(Error::unsupported("ON DUPLICATE KEY is not supported: write ON CONFLICT DO UPDATE"));
        }
    };
    Ok(Rewritten { query, shape: Shape::Rows { columns }, on_duplicate, returning, operation: "insert" })
}

/// Starts the names of columns with defaults. No name of a column has a control character.
const DEFAULT_COLUMN: &str = "default\u{1}";

/// Puts defaults into the rows of an insert, for columns that it omits and for the keyword `DEFAULT`. With
/// `all_columns`, those without a default become null.
fn fill_defaults(
    query: &mut Query,
    columns: &mut Vec<usize>,
    table: &Table,
    all_columns: bool,
) -> Result<()> {
    let all = &table.schema.columns;
    if let SetExpr::Values(values) = query.body.as_mut() {
        for row in &mut values.rows {
            if row.content.len() != columns.len() {
                return Err(Error::invalid(format!(
                    "INSERT INTO {}: {} columns take values, a row has {}",
                    table.name,
                    columns.len(),
                    row.content.len()
                )));
            }
            for (value, &column) in
                row.content.iter_mut().zip(columns.iter()).filter(|(value, _)| is_default(value))
            {
                *value = default_of(table, all[column].id)?;
            }
        }
    }
    let omitted: Vec<usize> = (0..all.len())
        .filter(|column| !columns.contains(column))
        .filter(|column| all_columns || table.schema.default_of(all[*column].id).is_some())
        .collect();
    if omitted.is_empty() {
        return Ok(());
    }
    let defaults: Vec<Expr> =
        omitted.iter().map(|&column| default_of(table, all[column].id)).collect::<Result<_>>()?;
    columns.extend(omitted);
    match query.body.as_mut() {
        SetExpr::Values(values) => {
            values.rows.iter_mut().for_each(|row| row.content.extend(defaults.iter().cloned()));
        }
        _ => {
            let mut items = vec![syntax::wildcard()];
            // Two defaults may be the same, and the names of the rows may be anything.
            let named = |(index, default)| syntax::item(default, &format!("{DEFAULT_COLUMN}{index}"));
            items.extend(defaults.into_iter().enumerate().map(named));
            let rows = std::mem::replace(query, values(vec![]));
            let rows = syntax::derived(rows, syntax::ident("rows"), vec![]);
            *query = syntax::select(items, vec![syntax::relation(rows)], None);
        }
    }
    Ok(())
}

/// Literal rows.
fn values(rows: Vec<Vec<Expr>>) -> Query {
    let rows = rows.into_iter().map(Parens::with_empty_span).collect();
    syntax::query(SetExpr::Values(Values { explicit_row: false, value_keyword: false, rows }))
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
    let named: BTreeSet<String> = columns.iter().map(name_of).collect();
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
fn replaces_whole_row(update: &DoUpdate, table: &Table, alias: &Ident) -> Result<bool> {
    if update.selection.is_some() || name_of(alias) == EXCLUDED {
        return Ok(false);
    }
    let assigned = assigned_columns(&update.assignments, table, alias)?;
    Ok(table.schema.columns.iter().zip(0u32..).zip(assigned).all(|((column, index), value)| match value {
        Some(Expr::CompoundIdentifier(parts)) => match parts.as_slice() {
            [of, name] => name_of(of) == EXCLUDED && name_of(name) == column.name,
            _ => false,
        },
        Some(_) => false,
        None => table.schema.primary_key.contains(&index),
    }))
}

/// An insert with `ON CONFLICT DO UPDATE` as a merge, whose source has the alias `excluded`.
fn insert_as_merge(
    mut source: Query,
    columns: &[usize],
    update: DoUpdate,
    alias: &Ident,
    table: &Table,
) -> Result<Merge> {
    if name_of(alias) == EXCLUDED {
        return Err(Error::invalid(format!(
            "table {}: {EXCLUDED:?} also names the rows to insert; give the table an alias: INSERT INTO \
             {EXCLUDED} AS t",
            table.name
        )));
    }
    let name = |column: &usize| table.schema.columns[*column].name.as_str();
    let excluded = Ident::new(EXCLUDED);
    assign_values(&mut source, columns);
    let DoUpdate { mut assignments, selection: mut condition } = update;
    assignments.iter_mut().for_each(|Assignment { value, .. }| qualify(value, table, alias));
    condition.iter_mut().for_each(|condition| qualify(condition, table, alias));
    let on = key_names(table).map(|key| {
        let (old, new) = (syntax::column(alias, key), syntax::column(&excluded, key));
        syntax::binary(old, BinaryOperator::Eq, new)
    });
    let update = MergeClause {
        when_token: AttachedToken::empty(),
        clause_kind: MergeClauseKind::Matched,
        predicate: condition,
        action: MergeAction::Update(MergeUpdateExpr {
            update_token: AttachedToken::empty(),
            assignments,
            update_predicate: None,
            delete_predicate: None,
        }),
    };
    let row = columns.iter().map(|column| syntax::column(&excluded, name(column))).collect();
    let insert = MergeClause {
        when_token: AttachedToken::empty(),
        clause_kind: MergeClauseKind::NotMatched,
        predicate: None,
        action: MergeAction::Insert(MergeInsertExpr {
            insert_token: AttachedToken::empty(),
            columns: columns.iter().map(|column| syntax::object_name([name(column)])).collect(),
            kind_token: AttachedToken::empty(),
            kind: MergeInsertKind::Values(Values {
                explicit_row: false,
                value_keyword: false,
                rows: vec![Parens::with_empty_span(row)],
            }),
            insert_predicate: None,
        }),
    };
    let names = columns.iter().map(|column| syntax::ident(name(column))).collect();
    Ok(Merge {
        merge_token: AttachedToken::empty(),
        optimizer_hints: vec![],
        into: true,
        table: syntax::table(syntax::object_name([table.name.table.as_str()]), alias.clone()),
        source: syntax::derived(source, excluded.clone(), names),
        on: Box::new(syntax::all(on)),
        clauses: vec![update, insert],
        output: None,
    })
}

/// Converts each literal row value by value to the types of the columns. The values of a column would
/// otherwise get one type that suits them all: of 9007199254740993 and 0.5e0, that is a double.
pub(crate) fn assign_values(query: &mut Query, columns: &[usize]) {
    let SetExpr::Values(values) = query.body.as_mut() else {
        return;
    };
    for row in &mut values.rows {
        for (value, &column) in row.content.iter_mut().zip(columns) {
            let given = std::mem::replace(value, syntax::null());
            *value = assign_call(column, given);
        }
    }
}
