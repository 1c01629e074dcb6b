//! Qualified columns of the target: `schema.table.column` becomes `table.column`.
//!
//! The query of a statement reads its target under a name without a schema, so longer qualifiers would not
//! resolve.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Expr, Ident, TableFactor, VisitorMut};
use plexus_model::{Error, Result, Table};
use plexus_query::{CATALOG, visit_mut};

use crate::sql::columns::replace_unqualified;
use crate::sql::names::{last_part, name_of, table_reference};
use crate::sql::rewrite::target;

/// How a statement may qualify the columns of its target.
pub(crate) struct Qualifier {
    /// Catalog, schema and table.
    full: [String; 3],
    /// The name of the table as the statement writes it; `None` if the target has an alias, which hides it.
    table: Option<Ident>,
}

impl Qualifier {
    /// The qualifier of the target of a DML statement.
    pub(crate) fn of_target(statement: &ast::Statement, table: &Table) -> Self {
        let has_alias = match statement {
            ast::Statement::Insert(insert) => insert.table_alias.is_some(),
            ast::Statement::Update(update) => has_alias(&update.table.relation),
            ast::Statement::Merge(merge) => has_alias(&merge.table),
            ast::Statement::Delete(delete) => {
                super::from_tables(&delete.from).first().is_some_and(|t| has_alias(&t.relation))
            }
            _ => true,
        };
        let written = target(statement).and_then(|name| last_part(name).ok());
        Self { full: full_name(table), table: written.filter(|_| !has_alias).cloned() }
    }

    /// Whether `qualifiers` in front of a column name the target, which the statement calls `alias`.
    pub(crate) fn names(qualifiers: &[String], table: &Table, alias: &Ident) -> bool {
        let is_alias = matches!(qualifiers, [one] if *one == name_of(alias));
        is_alias || (name_of(alias) == table.name.table && full_name(table).ends_with(qualifiers))
    }
}

fn full_name(table: &Table) -> [String; 3] {
    [CATALOG.to_owned(), table.name.schema.clone(), table.name.table.clone()]
}

fn has_alias(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::Table { alias: Some(_), .. })
}

/// Shortens the qualified columns of the target in a statement.
///
/// # Errors
/// `InvalidArgument` when another table of the statement would have the name that is left.
pub(crate) fn shorten(statement: &mut ast::Statement, qualifier: &Qualifier) -> Result<()> {
    let Some(table) = &qualifier.table else {
        return Ok(());
    };
    let mut visitor = Shorten { full: &qualifier.full, table, shortened: None, other: None };
    let _: ControlFlow<()> = visit_mut(statement, &mut visitor);
    match (visitor.shortened, visitor.other) {
        (Some(column), Some(other)) => Err(Error::invalid(format!(
            "{column}: the statement also reads {other}, which has the same name: give the tables aliases"
        ))),
        _ => Ok(()),
    }
}

struct Shorten<'a> {
    full: &'a [String],
    table: &'a Ident,
    /// A column that was shortened, as it was written.
    shortened: Option<String>,
    /// A table of another schema that has the name of the target.
    other: Option<String>,
}

impl VisitorMut for Shorten<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: None, .. } = factor
            && let Ok(reference) = table_reference(name)
            && reference.table() == name_of(self.table)
            && reference.schema().is_some_and(|schema| schema != self.full[1])
        {
            self.other = Some(name.to_string());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [qualifiers @ .., column] = parts.as_slice()
            && qualifiers.len() > 1
            && self.full.ends_with(&qualifiers.iter().map(name_of).collect::<Vec<_>>())
        {
            let short = vec![self.table.clone(), column.clone()];
            self.shortened = Some(expr.to_string());
            *expr = Expr::CompoundIdentifier(short);
        }
        ControlFlow::Continue(())
    }
}

/// Qualifies the columns of `table` in an expression that have no qualifier, except in subqueries.
pub(crate) fn qualify(expr: &mut Expr, table: &Table, alias: &Ident) {
    replace_unqualified(expr, |column| {
        let is_of_table = table.schema.column_index(&name_of(column)).is_some();
        is_of_table.then(|| Expr::CompoundIdentifier(vec![alias.clone(), column.clone()]))
    });
}
