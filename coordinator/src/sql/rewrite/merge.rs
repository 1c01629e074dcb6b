//! `MERGE`, and the upserts that become one.

use datafusion::sql::sqlparser::ast::{
    Merge, MergeAction, MergeClause, MergeClauseKind, MergeInsertExpr, MergeInsertKind, TableFactor, Values,
};
use plexus_model::{Error, Result, Table};
use plexus_query::ROW_COLUMN;

use crate::sql::parse;
use crate::sql::rewrite::{
    ACTION_COLUMN, DELETE, DuplicateMatch, INSERT, Rewritten, SOURCE_COLUMN, Shape, UPDATE, assigned_columns,
    column_of, default_sql, or_default, quote, row_address, target_as,
};
use crate::write::keys::OnDuplicate;

/// A `WHEN` clause of a merge.
pub(crate) struct Clause {
    /// When the clause applies, as SQL.
    condition: String,
    /// [`DELETE`], [`UPDATE`] or [`INSERT`].
    action: i64,
    /// The value of each column of the table, as SQL.
    values: Vec<String>,
}

/// A `MERGE` as a query: the target joined with the source, where the first clause that applies decides the
/// action.
pub(crate) fn rewrite_merge(merge: Merge, table: &Table, operation: &'static str) -> Result<Rewritten> {
    let Merge { table: target, source, on, clauses, output, .. } = merge;
    if output.is_some() {
        return Err(Error::unsupported("MERGE has no OUTPUT or RETURNING"));
    }
    let (target, alias) = target_as(&target, table)?;
    let source_alias = match &source {
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
    let clauses = clauses
        .iter()
        .map(|c| rewrite_clause(c, &alias, &source_alias, table))
        .collect::<Result<Vec<_>>>()?;
    // `CASE` over the clauses in order.
    let case = |value_of: &dyn Fn(&Clause) -> String, otherwise: &str| {
        let whens: String =
            clauses.iter().map(|c| format!(" WHEN {} THEN {}", c.condition, value_of(c))).collect();
        format!("CASE{whens} ELSE {otherwise} END")
    };
    let action = case(&|c| c.action.to_string(), "0");
    let mut sql = format!("SELECT {}, {action} AS {}", row_address(&alias), quote(ACTION_COLUMN));
    for (index, column) in table.schema.columns.iter().enumerate() {
        let name = quote(&column.name);
        sql += &format!(", {} AS {name}", case(&|c| c.values[index].clone(), &format!("{alias}.{name}")));
    }
    let marked = format!("(SELECT *, true AS {} FROM {source}) AS {source_alias}", quote(SOURCE_COLUMN));
    let sql = format!(
        "SELECT * FROM ({sql} FROM {target} {join} {marked} ON {on}) AS \"$actions\" WHERE {} <> 0",
        quote(ACTION_COLUMN)
    );
    Ok(Rewritten {
        statement: parse::plain_statement(&sql)?,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: None,
        operation,
    })
}

/// A `WHEN` clause as SQL expressions over the join of target and source.
fn rewrite_clause(clause: &MergeClause, alias: &str, source: &str, table: &Table) -> Result<Clause> {
    let (row, mark) =
        (format!("{alias}.{}", quote(ROW_COLUMN)), format!("{source}.{}", quote(SOURCE_COLUMN)));
    let kind = match clause.clause_kind {
        MergeClauseKind::Matched => format!("{row} IS NOT NULL AND {mark} IS NOT NULL"),
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => format!("{row} IS NULL"),
        MergeClauseKind::NotMatchedBySource => format!("{mark} IS NULL"),
    };
    let condition = match &clause.predicate {
        Some(predicate) => format!("{kind} AND ({predicate})"),
        None => kind,
    };
    let own = |name: &str| format!("{alias}.{}", quote(name));
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
        MergeAction::Insert(insert) => (INSERT, inserted_values(insert, table)?),
    };
    if action == INSERT && clause.clause_kind == MergeClauseKind::NotMatchedBySource {
        return Err(Error::invalid("MERGE: a row that is not matched by the source cannot be inserted"));
    }
    Ok(Clause { condition, action, values })
}

/// The value of each column of the table in the `INSERT` of a merge, as SQL.
fn inserted_values(insert: &MergeInsertExpr, table: &Table) -> Result<Vec<String>> {
    let columns = &table.schema.columns;
    let MergeInsertKind::Values(Values { rows, .. }) = &insert.kind else {
        return Err(Error::unsupported("MERGE: INSERT ROW is not supported; write INSERT ... VALUES"));
    };
    let [row] = rows.as_slice() else {
        return Err(Error::invalid("MERGE: an INSERT has one row of VALUES"));
    };
    let named: Vec<usize> = match insert.columns.is_empty() {
        true => (0..columns.len()).collect(),
        false => insert.columns.iter().map(|name| column_of(name, table)).collect::<Result<_>>()?,
    };
    if named.len() != row.content.len() {
        return Err(Error::invalid(format!(
            "MERGE: INSERT names {} columns and has {} values",
            named.len(),
            row.content.len()
        )));
    }
    let values =
        columns.iter().enumerate().map(|(index, column)| match named.iter().position(|n| *n == index) {
            Some(position) => or_default(&row.content[position], table, column.id),
            None => default_sql(table, column.id),
        });
    Ok(values.collect())
}
