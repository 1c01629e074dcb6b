//! Unqualified columns of an expression or of a clause.

use plexus_query::visit_mut;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, VisitMut, VisitorMut};

/// Replaces the columns that have no qualifier, except in subqueries, whose own tables come first.
/// `replacement` returns `None` for columns that stay.
pub(crate) fn replace_unqualified(part: &mut impl VisitMut, replacement: impl Fn(&Ident) -> Option<Expr>) {
    let _: ControlFlow<()> = visit_mut(part, &mut Unqualified { replacement, subqueries: 0 });
}

struct Unqualified<F> {
    replacement: F,
    subqueries: usize,
}

impl<F: Fn(&Ident) -> Option<Expr>> VisitorMut for Unqualified<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.subqueries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.subqueries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(column) = expr
            && self.subqueries == 0
            && let Some(replacement) = (self.replacement)(column)
        {
            *expr = replacement;
        }
        ControlFlow::Continue(())
    }
}
