//! Marks the values of recursive terms, so that the engine can tell the casts that it adds to them from those
//! that were written. The engine ignores the clauses behind a union beside `RECURSIVE`: they are refused
//! where the table reads itself, and kept in parentheses elsewhere.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ObjectName, Query, SelectItem, SetExpr, Statement, Visitor, VisitorMut,
};
use plexus_model::{Error, Result};
use plexus_query::{TYPED, visit, visit_mut};

use crate::sql::names::{name_of, unqualified};
use crate::sql::syntax;

/// Rewrites them in a statement.
///
/// # Errors
/// `Unsupported` for `ORDER BY`, `LIMIT`, `OFFSET` and `FETCH` of a table that reads itself.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match visit_mut(statement, &mut RecursiveTerms) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct RecursiveTerms;

impl VisitorMut for RecursiveTerms {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let Some(with) = query.with.as_mut().filter(|with| with.recursive) {
            for table in &mut with.cte_tables {
                let name = name_of(&table.alias.name);
                let clause = clause_behind(&table.query);
                let SetExpr::SetOperation { right, .. } = table.query.body.as_mut() else {
                    continue;
                };
                let reads_itself = visit(right.as_ref(), &mut Reads(name.clone())).is_break();
                match clause {
                    Some(clause) if reads_itself => {
                        return ControlFlow::Break(Error::unsupported(format!(
                            "{clause} of the recursive table {name}: write it behind the query that reads it"
                        )));
                    }
                    Some(_) => {
                        *table.query = syntax::query(SetExpr::Query(table.query.clone()));
                    }
                    None if reads_itself => mark(right),
                    None => {}
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A clause behind the terms of a query.
fn clause_behind(query: &Query) -> Option<&'static str> {
    let is_some = [
        ("ORDER BY", query.order_by.is_some()),
        ("LIMIT or OFFSET", query.limit_clause.is_some()),
        ("FETCH", query.fetch.is_some()),
    ];
    is_some.into_iter().find(|(_, is_there)| *is_there).map(|(clause, _)| clause)
}

/// Looks for a table that is read by its name.
struct Reads(String);

impl Visitor for Reads {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        match unqualified(relation).is_ok_and(|name| name == self.0) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn mark(term: &mut SetExpr) {
    match term {
        SetExpr::Query(query) => mark(&mut query.body),
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                    *expr = syntax::call(TYPED, vec![expr.clone()]);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn values_of_recursive_terms_are_marked() {
        for (term, marked) in [
            ("SELECT n + 1 FROM t", "SELECT \"$typed\"(n + 1) FROM t"),
            ("(SELECT n + 1 FROM t)", "(SELECT \"$typed\"(n + 1) FROM t)"),
            ("SELECT n + 1 FROM u", "SELECT n + 1 FROM u"),
        ] {
            let sql = |term: &str| {
                format!("WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL {term}) SELECT n + 1 FROM t")
            };
            let mut statement = parse::plain_statement(&sql(term)).unwrap();
            rewrite(&mut statement).unwrap();
            assert_eq!(statement.to_string(), sql(marked));
        }
        let mut limited = parse::plain_statement(
            "WITH RECURSIVE t (n) AS (SELECT 1 UNION SELECT 2 LIMIT 1) SELECT n FROM t",
        )
        .unwrap();
        rewrite(&mut limited).unwrap();
        assert!(limited.to_string().contains("((SELECT 1 UNION SELECT 2 LIMIT 1))"), "{limited}");
        let mut recursive = parse::plain_statement(
            "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t LIMIT 1) SELECT n FROM t",
        )
        .unwrap();
        assert!(rewrite(&mut recursive).is_err());
    }
}
