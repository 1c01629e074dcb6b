//! `AT TIME ZONE` and `SET TIME ZONE`, which the planner takes for a cast and does not take at all.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, DataType, Expr, Set, TimezoneInfo, Value, VisitorMut};
use plexus_query::{AT_TIME_ZONE, visit_mut};

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
    let _: ControlFlow<()> = visit_mut(statement, &mut TimeZones);
}

/// Whether a literal is text of an instant: a time with an offset from UTC.
fn has_offset(value: &Value) -> bool {
    let Value::SingleQuotedString(text) = value else {
        return false;
    };
    let time = text.trim().split_once([' ', 'T']).map_or("", |(_, time)| time);
    time.contains(['+', '-']) || time.ends_with(['Z', 'z'])
}

struct TimeZones;

impl VisitorMut for TimeZones {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::AtTimeZone { timestamp, time_zone } = expr {
            let timestamp = match timestamp.as_ref() {
                Expr::Value(value) if has_offset(&value.value) => syntax::cast(
                    Expr::Value(value.clone()),
                    DataType::Timestamp(None, TimezoneInfo::WithTimeZone),
                ),
                timestamp => timestamp.clone(),
            };
            let args = vec![timestamp, time_zone.as_ref().clone()];
            *expr = syntax::call(AT_TIME_ZONE, args);
        }
        ControlFlow::Continue(())
    }
}
