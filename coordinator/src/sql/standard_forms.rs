//! Forms of the SQL standard that mean the same as others: `FETCH FIRST n ROWS ONLY` is `LIMIT n`, and `WITH
//! ... INSERT INTO ... SELECT` is `INSERT INTO ... WITH ... SELECT`, and types have several names.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Fetch, LimitClause, Query, SetExpr, VisitorMut};
use datafusion::sql::sqlparser::ast::{Expr, Value};
use plexus_model::{Error, Result};
use plexus_query::visit_mut;

use crate::sql::type_aliases;

/// Rewrites the forms in a statement.
///
/// # Errors
/// `Unsupported` for `PERCENT`, `WITH TIES`, and for both clauses at once.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => {
            with_behind_insert(statement.as_mut());
            type_aliases::rewrite(statement.as_mut());
            match visit_mut(statement.as_mut(), &mut Fetches) {
                ControlFlow::Break(error) => Err(error),
                ControlFlow::Continue(()) => Ok(()),
            }
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        _ => Ok(()),
    }
}

/// Moves the common tables before an insert to the query behind it. What has common tables of its own stays
/// as it is, and is refused by the planner.
fn with_behind_insert(statement: &mut ast::Statement) {
    let ast::Statement::Query(query) = statement else {
        return;
    };
    let Query { with, body, .. } = query.as_mut();
    let SetExpr::Insert(insert) = body.as_mut() else {
        return;
    };
    if let ast::Statement::Insert(ast::Insert { source: Some(source), .. }) = insert
        && source.with.is_none()
    {
        source.with = with.take();
        *statement = insert.clone();
    }
}

struct Fetches;

impl VisitorMut for Fetches {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match limit_by_fetch(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn limit_by_fetch(query: &mut Query) -> Result<()> {
    let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else {
        return Ok(());
    };
    if with_ties || percent {
        let clause = if percent { "PERCENT" } else { "WITH TIES" };
        return Err(Error::unsupported(format!("FETCH: {clause} is not supported")));
    }
    let rows = quantity.unwrap_or_else(|| Expr::value(Value::Number("1".to_owned(), false)));
    match &mut query.limit_clause {
        None => {
            query.limit_clause =
                Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: vec![] });
            Ok(())
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => {
            *limit = Some(rows);
            Ok(())
        }
        Some(_) => Err(Error::unsupported("a query with both LIMIT and FETCH is not supported".to_owned())),
    }
}
