//! Whether a `SELECT` makes groups of its rows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select, Visit};
use plexus_query::visit_expressions;

use super::functions::is_scalar;

/// Whether a select has `GROUP BY`.
pub(crate) fn has_groups(select: &Select) -> bool {
    match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(groups, _) => !groups.is_empty(),
    }
}

/// Whether a part of a select calls an aggregate function over groups.
pub(crate) fn has_aggregates(part: &impl Visit) -> bool {
    let mut aggregate = |expr: &Expr| match expr {
        Expr::Function(function) if function.over.is_none() && !is_scalar(function) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(part, &mut aggregate).is_break()
}
