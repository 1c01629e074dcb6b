//! `AT TIME ZONE` and `SET TIME ZONE`, which the planner takes for a cast and does not take at all.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Expr, Set, VisitMut, VisitorMut};
use plexus_query::AT_TIME_ZONE;

use crate::sql::syntax;

/// Rewrites `AT TIME ZONE` as a call, and `SET TIME ZONE` as that of a setting.
pub(crate) fn rewrite(statement: &mut ast::Statement) {
    if let ast::Statement::Set(set) = statement
        && let Set::SetTimeZone { local: false, value } = set
    {
        let variable = syntax::object_name(["time_zone"]);
        let values = vec![value.clone()];
        *set = Set::SingleAssignment { scope: None, hivevar: false, variable, values };
    }
    let _: ControlFlow<()> = statement.visit(&mut TimeZones);
}

struct TimeZones;

impl VisitorMut for TimeZones {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::AtTimeZone { timestamp, time_zone } = expr {
            let args = vec![timestamp.as_ref().clone(), time_zone.as_ref().clone()];
            *expr = syntax::call(AT_TIME_ZONE, args);
        }
        ControlFlow::Continue(())
    }
}
