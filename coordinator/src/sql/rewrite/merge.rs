//! `MERGE`, and the upserts that become one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator, Merge, MergeAction, MergeClause,
    MergeClauseKind, MergeInsertExpr, MergeInsertKind, TableFactor, Value, Values,
};
use plexus_model::{Error, Result, Table};
use plexus_query::{ROW_COLUMN, visit_expressions};

use crate::sql::columns::replace_unqualified;
use crate::sql::names::{last_part, name_of};
use crate::sql::rewrite::{
    ACTION_COLUMN, DELETE, DuplicateMatch, INSERT, Rewritten, SOURCE_COLUMN, Shape, Target, UPDATE,
    assign_call, assigned_columns, default_of, is_default, named_columns, or_default, row_address, target_of,
};
use crate::sql::syntax;
use crate::write::keys::OnDuplicate;

/// A `WHEN` clause of a merge.
struct Clause {
    /// When the clause applies.
    condition: Expr,
    /// [`DELETE`], [`UPDATE`] or [`INSERT`].
    action: i64,
    /// The value of each column of the table, in the type of the column.
    values: Vec<Expr>,
}

/// A `MERGE` as a query: the target joined with the source, where the first clause that applies decides the
/// action.
pub(crate) fn rewrite_merge(merge: Merge, table: &Table, operation: &'static str) -> Result<Rewritten> {
    let Merge { table: target, source, on, clauses, .. } = merge;
    let Target { factor, alias } = target_of(&target, table)?;
    let source_alias = source_alias(&source)?;
    if name_of(&alias) == name_of(&source_alias) {
        return Err(Error::invalid(format!(
            "MERGE: target and source are both called {alias}: give one of them another alias"
        )));
    }
    let join = join_of(&clauses, JoinConstraint::On(*on));
    let clauses = clauses
        .into_iter()
        .map(|c| rewrite_clause(c, &alias, &source_alias, table))
        .collect::<Result<Vec<_>>>()?;
    // `CASE` over the clauses in order.
    let case = |value_of: &dyn Fn(&Clause) -> Expr, otherwise: Expr| {
        syntax::case(clauses.iter().map(|c| (c.condition.clone(), value_of(c))), otherwise)
    };
    let mut items = row_address(&alias).to_vec();
    items.push(syntax::item(case(&|c| syntax::number(c.action), syntax::number(0)), ACTION_COLUMN));
    for (index, column) in table.schema.columns.iter().enumerate() {
        let old = syntax::column(&alias, &column.name);
        items.push(syntax::item(case(&|c| c.values[index].clone(), old), &column.name));
    }
    let mark = syntax::item(syntax::literal(Value::Boolean(true)), SOURCE_COLUMN);
    let marked = syntax::select(vec![syntax::wildcard(), mark], vec![syntax::relation(source)], None);
    let marked = syntax::derived(marked, source_alias, vec![]);
    let actions = syntax::select(items, vec![syntax::join(factor, marked, join)], None);
    let name = syntax::ident("actions");
    let applies =
        syntax::binary(syntax::column(&name, ACTION_COLUMN), BinaryOperator::NotEq, syntax::number(0));
    let actions = syntax::relation(syntax::derived(actions, name, vec![]));
    let query = syntax::select(vec![syntax::wildcard()], vec![actions], Some(applies));
    Ok(Rewritten {
        query,
        shape: Shape::Actions { duplicate_match: DuplicateMatch::Error },
        on_duplicate: OnDuplicate::Fail,
        returning: None,
        operation,
    })
}

/// The name by which a merge refers to its source.
fn source_alias(source: &TableFactor) -> Result<Ident> {
    match source {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Ok(alias.name.clone())
        }
        TableFactor::Table { name, .. } => last_part(name).cloned(),
        _ => Err(Error::invalid("the source of a MERGE is a table, or a query with an alias")),
    }
}

/// The join that has the rows that the clauses may apply to.
fn join_of(clauses: &[MergeClause], on: JoinConstraint) -> JoinOperator {
    let has = |kind| clauses.iter().any(|c| c.clause_kind == kind);
    let new_rows = has(MergeClauseKind::NotMatched) || has(MergeClauseKind::NotMatchedByTarget);
    match (new_rows, has(MergeClauseKind::NotMatchedBySource)) {
        (true, true) => JoinOperator::FullOuter(on),
        (true, false) => JoinOperator::Right(on),
        (false, true) => JoinOperator::Left(on),
        (false, false) => JoinOperator::Inner(on),
    }
}

/// A `WHEN` clause as expressions over the join of target and source.
fn rewrite_clause(mut clause: MergeClause, alias: &Ident, source: &Ident, table: &Table) -> Result<Clause> {
    let sides = match clause.clause_kind {
        MergeClauseKind::Matched => None,
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => Some((alias, source)),
        MergeClauseKind::NotMatchedBySource => Some((source, alias)),
    };
    if let Some((absent, present)) = sides {
        if refers_to(&clause, absent) {
            return Err(Error::invalid(format!(
                "MERGE: {clause}: there is no row of {absent} for this clause"
            )));
        }
        // Columns without a qualifier are those of the row that is there.
        replace_unqualified(&mut clause, |column| {
            let qualified = || syntax::column(present, &name_of(column));
            (!is_default(&Expr::Identifier(column.clone()))).then(qualified)
        });
    }
    let clause = &clause;
    let (row, mark) = (syntax::column(alias, ROW_COLUMN), syntax::column(source, SOURCE_COLUMN));
    let is_null = |expr| Expr::IsNull(Box::new(expr));
    let is_not_null = |expr| Expr::IsNotNull(Box::new(expr));
    let kind = match clause.clause_kind {
        MergeClauseKind::Matched => syntax::all([is_not_null(row), is_not_null(mark)]),
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => is_null(row),
        MergeClauseKind::NotMatchedBySource => is_null(mark),
    };
    let condition = match &clause.predicate {
        Some(predicate) => syntax::all([kind, predicate.clone()]),
        None => kind,
    };
    let columns = &table.schema.columns;
    let old = || columns.iter().map(|column| syntax::column(alias, &column.name));
    let (action, values) = match &clause.action {
        MergeAction::Delete { .. } => (DELETE, old().collect()),
        MergeAction::Update(update) => {
            if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                return Err(Error::unsupported("MERGE: put conditions behind WHEN ... AND"));
            }
            let assigned = assigned_columns(&update.assignments, table, alias)?;
            let values =
                assigned.into_iter().zip(old()).enumerate().map(|(index, (value, old))| match value {
                    Some(value) => Ok(assign_call(index, or_default(value, table, columns[index].id)?)),
                    None => Ok(old),
                });
            (UPDATE, values.collect::<Result<_>>()?)
        }
        MergeAction::Insert(insert) => (INSERT, inserted_values(insert, table, alias)?),
    };
    let fits = match clause.clause_kind {
        MergeClauseKind::Matched => action != INSERT,
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => action == INSERT,
        MergeClauseKind::NotMatchedBySource => action != INSERT,
    };
    if !fits {
        return Err(Error::invalid(format!(
            "MERGE: {clause}: a matched row is updated or deleted, a row that only the source has is inserted"
        )));
    }
    Ok(Clause { condition, action, values })
}

/// Whether an expression of a clause names a column of a relation.
fn refers_to(clause: &MergeClause, relation: &Ident) -> bool {
    let name = name_of(relation);
    let values = match &clause.action {
        MergeAction::Update(update) => update.assignments.iter().map(|set| &set.value).collect(),
        MergeAction::Insert(insert) => match &insert.kind {
            MergeInsertKind::Values(values) => values.rows.iter().flat_map(|row| &row.content).collect(),
            MergeInsertKind::Row => vec![],
        },
        MergeAction::Delete { .. } => vec![],
    };
    let mut is_column = |expr: &Expr| match expr {
        Expr::CompoundIdentifier(parts) if parts.len() > 1 && name_of(&parts[0]) == name => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let mut exprs = values.into_iter().chain(clause.predicate.as_ref());
    exprs.any(|expr| visit_expressions(expr, &mut is_column).is_break())
}

/// The value of each column of the table in the `INSERT` of a merge.
fn inserted_values(insert: &MergeInsertExpr, table: &Table, alias: &Ident) -> Result<Vec<Expr>> {
    let columns = &table.schema.columns;
    if insert.insert_predicate.is_some() {
        return Err(Error::unsupported("MERGE: put conditions behind WHEN ... AND"));
    }
    let MergeInsertKind::Values(Values { rows, .. }) = &insert.kind else {
        return Err(Error::unsupported("MERGE: INSERT ROW is not supported; write INSERT ... VALUES"));
    };
    let [row] = rows.as_slice() else {
        return Err(Error::invalid("MERGE: an INSERT has one row of VALUES"));
    };
    let named = named_columns(&insert.columns, table, alias)?;
    if named.len() != row.content.len() {
        return Err(Error::invalid(format!(
            "MERGE: INSERT names {} columns and has {} values",
            named.len(),
            row.content.len()
        )));
    }
    let values = columns.iter().enumerate().map(|(index, column)| {
        let value = match named.iter().position(|n| *n == index) {
            Some(position) => or_default(&row.content[position], table, column.id)?,
            None => default_of(table, column.id)?,
        };
        Ok(assign_call(index, value))
    });
    values.collect()
}
