//! Marks the values of recursive terms, so that the engine can tell the casts that it adds to them from those
//! that were written.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ObjectName, Query, SelectItem, SetExpr, Statement, Visitor, VisitorMut,
};
use plexus_query::{TYPED, visit, visit_mut};

use crate::sql::names::{name_of, unqualified};
use crate::sql::syntax;

/// Marks them in a statement.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _ = visit_mut(statement, &mut RecursiveTerms);
}

struct RecursiveTerms;

impl VisitorMut for RecursiveTerms {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(with) = query.with.as_mut().filter(|with| with.recursive) {
            for table in &mut with.cte_tables {
                if let SetExpr::SetOperation { right, .. } = table.query.body.as_mut()
                    && visit(right.as_ref(), &mut Reads(name_of(&table.alias.name))).is_break()
                {
                    mark(right);
                }
            }
        }
        ControlFlow::Continue(())
    }
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
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), sql(marked));
        }
    }
}
