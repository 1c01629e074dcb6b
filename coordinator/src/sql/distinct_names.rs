//! Names for expressions that the engine calls alike.
//!
//! The engine names a cast by what is cast and a subquery by nothing at all, and refuses a plan in which two
//! columns have one name: `sum(CAST(d AS INT)), sum(d)`. A statement that it refuses is planned again with
//! calls of a function around such expressions that carry their names. And it gives an expression in a branch
//! of a set operation the name that the first branch has there, which may be that of another column.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, Select, Value, Visitor, VisitorMut};
use plexus_query::{NAMED_VALUE, visit, visit_expressions, visit_mut};

use crate::sql::result_names::{name_branches, name_expressions, tell_apart_in};
use crate::sql::syntax;

/// Gives expressions of a statement names of their own.
pub(crate) fn rewrite(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => {
            let _: ControlFlow<()> = visit_mut(statement, &mut DistinctNames::default());
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        _ => {}
    }
}

/// Whether a query with `GROUP BY` has a cast in its select list.
pub(crate) fn has_grouped_casts(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => visit(statement, &mut GroupedCasts).is_break(),
        Statement::Explain(explain) => has_grouped_casts(&explain.statement),
        _ => false,
    }
}

struct GroupedCasts;

impl Visitor for GroupedCasts {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty()) {
            return ControlFlow::Continue(());
        }
        visit_expressions(&select.projection, &mut |expr| match expr {
            Expr::Cast { .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }
}

#[derive(Default)]
struct DistinctNames {
    /// The conditions of the selects around the present expression. They name no columns, and are left as
    /// they are, since casts in them decide what is read.
    conditions: Vec<Option<Expr>>,
}

impl VisitorMut for DistinctNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        tell_apart_in(&mut query.body);
        name_branches(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        name_expressions(select);
        self.conditions.push(select.selection.take());
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        select.selection = self.conditions.pop().flatten();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let is_ambiguous = match expr {
            Expr::Cast { .. } | Expr::TypedString(_) | Expr::Subquery(_) => true,
            Expr::Value(value) => matches!(value.value, Value::EscapedStringLiteral(_)),
            _ => false,
        };
        if is_ambiguous {
            let name = expr.to_string();
            let value = std::mem::replace(expr, syntax::null());
            *expr = syntax::call(NAMED_VALUE, vec![value, syntax::text(&name)]);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn casts_and_subqueries_carry_their_names() {
        let mut statement = parse::statement("SELECT d, CAST(d AS INT), (SELECT 1) FROM t").unwrap();
        rewrite(&mut statement);
        let text = statement.to_string();
        assert!(text.contains("\"$named_value\"(CAST(d AS INT), 'CAST(d AS INT)')"), "{text}");
        assert!(text.contains("\"$named_value\"((SELECT 1 AS \"1\"), '(SELECT 1 AS \"1\")')"), "{text}");
    }
}
