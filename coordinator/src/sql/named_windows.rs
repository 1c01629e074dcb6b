//! Windows that refer to named ones: `OVER w`, `OVER (w ORDER BY x)`, `WINDOW v AS (w ORDER BY x)`.
//!
//! The engine drops what the named window says, if the reference adds something. Here its clauses are copied,
//! and other rewrites see them.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, NamedWindowDefinition, NamedWindowExpr, Query, Select, SetExpr, Statement, VisitorMut,
    WindowSpec, WindowType,
};
use plexus_model::{Error, Result};

use crate::sql::names::name_of;
use plexus_query::visit_mut;

/// Copies the clauses of named windows to where they are referred to.
///
/// # Errors
/// `InvalidArgument` names a window that does not exist, or a clause that it has already.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match visit_mut(statement, &mut Selects) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Selects;

impl VisitorMut for Selects {
    type Break = Error;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let windows = match resolve_all(&mut select.named_window) {
            Ok(windows) => windows,
            Err(error) => return ControlFlow::Break(error),
        };
        let mut references = References { windows: &windows };
        visit_mut(&mut select.projection, &mut references)?;
        visit_mut(&mut select.qualify, &mut references)
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let SetExpr::Select(select) = query.body.as_mut() {
            let windows = match resolve_all(&mut select.named_window) {
                Ok(windows) => windows,
                Err(error) => return ControlFlow::Break(error),
            };
            return visit_mut(&mut query.order_by, &mut References { windows: &windows });
        }
        ControlFlow::Continue(())
    }
}

type Windows = HashMap<String, WindowSpec>;

/// Resolves the references among named windows. One may refer to those before it.
fn resolve_all(definitions: &mut [NamedWindowDefinition]) -> Result<Windows> {
    let mut windows = Windows::new();
    for NamedWindowDefinition(name, window) in definitions {
        let spec = match window {
            NamedWindowExpr::WindowSpec(spec) => resolved(spec, &windows)?,
            NamedWindowExpr::NamedWindow(other) => find(&windows, &name_of(other))?.clone(),
        };
        *window = NamedWindowExpr::WindowSpec(spec.clone());
        windows.insert(name_of(name), spec);
    }
    Ok(windows)
}

/// The references in the expressions of a select.
struct References<'a> {
    windows: &'a Windows,
}

impl VisitorMut for References<'_> {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let Expr::Function(Function { over: Some(over), .. }) = expr else {
            return ControlFlow::Continue(());
        };
        let whole = match over {
            WindowType::WindowSpec(spec) => resolved(spec, self.windows),
            WindowType::NamedWindow(name) => find(self.windows, &name_of(name)).cloned(),
        };
        match whole {
            Ok(whole) => *over = WindowType::WindowSpec(whole),
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// A window with the clauses of the one that it refers to.
fn resolved(spec: &WindowSpec, windows: &Windows) -> Result<WindowSpec> {
    let Some(name) = spec.window_name.as_ref().map(name_of) else {
        return Ok(spec.clone());
    };
    let base = find(windows, &name)?;
    let refused =
        |clause: &str| Err(Error::invalid(format!("a window that refers to {name} cannot have {clause}")));
    if !spec.partition_by.is_empty() {
        return refused("PARTITION BY");
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return refused("another ORDER BY");
    }
    if base.window_frame.is_some() {
        return Err(Error::invalid(format!("window {name} has a frame: refer to it by OVER {name}")));
    }
    let order_by = if spec.order_by.is_empty() { &base.order_by } else { &spec.order_by };
    Ok(WindowSpec {
        window_name: None,
        partition_by: base.partition_by.clone(),
        order_by: order_by.clone(),
        window_frame: spec.window_frame.clone(),
    })
}

fn find<'a>(windows: &'a Windows, name: &str) -> Result<&'a WindowSpec> {
    windows.get(name).ok_or_else(|| Error::invalid(format!("window {name} does not exist")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn rewritten(sql: &str) -> Result<String> {
        let mut statement = parse::plain_statement(sql)?;
        rewrite(&mut statement)?;
        Ok(statement.to_string())
    }

    #[test]
    fn clauses_of_named_windows_are_copied() {
        let sql =
            rewritten("SELECT sum(v) OVER (w ORDER BY id) FROM t WINDOW w AS (PARTITION BY g)").unwrap();
        assert!(sql.contains("OVER (PARTITION BY g ORDER BY id)"), "{sql}");
        let sql = rewritten(
            "SELECT sum(v) OVER (u ROWS 1 PRECEDING) FROM t \
             WINDOW w AS (PARTITION BY g), u AS (w ORDER BY id)",
        );
        assert!(sql.as_ref().unwrap().contains("OVER (PARTITION BY g ORDER BY id ROWS"), "{sql:?}");
        for (sql, message) in [
            ("SELECT sum(v) OVER (nosuch ORDER BY id) FROM t", "nosuch does not exist"),
            ("SELECT sum(v) OVER (w PARTITION BY g) FROM t WINDOW w AS ()", "cannot have PARTITION BY"),
            ("SELECT sum(v) OVER (w) FROM t WINDOW w AS (ROWS 1 PRECEDING)", "has a frame"),
        ] {
            let error = rewritten(sql).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
    }
}
