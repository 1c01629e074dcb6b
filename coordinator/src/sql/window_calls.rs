//! `LEAD` and `LAG` with `IGNORE NULLS`, with an offset that is negative or null, or with a computed default.
//!
//! The engine looks at the wrong rows for the first two (apache/datafusion#25471). A negative offset looks
//! the other way, the n-th value that is not null is `nth_value` of the rows behind or before the current
//! one, no row is null rows away, and a default that is no constant is chosen outside of the call.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, NullTreatment, Select, UnaryOperator, Value, VisitMut, Visitor,
    VisitorMut, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowSpec, WindowType,
};

use crate::sql::names::unqualified;
use crate::sql::syntax;
use plexus_query::{visit, visit_mut};

/// Rewrites these calls in a statement.
pub(crate) fn rewrite(part: &mut impl VisitMut) {
    let _: ControlFlow<()> = visit_mut(part, &mut Calls);
}

struct Calls;

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if let Some(condition) = &select.qualify
            && visit(condition, &mut FindWindow).is_continue()
            && visit(&select.projection, &mut FindWindow).is_break()
        {
            select.qualify = Some(with_window(condition.clone()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let Some(rewritten) = rewrite_call(function)
        {
            *expr = rewritten;
        }
        ControlFlow::Continue(())
    }
}

struct FindWindow;

impl Visitor for FindWindow {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) if function.over.is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// A condition of `QUALIFY` with a window that changes nothing. The engine wants one in the condition itself.
fn with_window(condition: Expr) -> Expr {
    let mut count = syntax::function(syntax::object_name(["count"]), vec![syntax::number(1)]);
    count.over = Some(WindowType::WindowSpec(WindowSpec {
        window_name: None,
        partition_by: vec![],
        order_by: vec![],
        window_frame: None,
    }));
    let has_rows = syntax::binary(Expr::Function(count), BinaryOperator::Gt, syntax::number(0));
    syntax::all([condition, has_rows])
}

/// A call in a form that the engine computes rightly; `None` if it is in one.
fn rewrite_call(function: &Function) -> Option<Expr> {
    let mut is_lead = match unqualified(&function.name).ok()?.as_str() {
        "lead" => true,
        "lag" => false,
        _ => return None,
    };
    let WindowType::WindowSpec(window) = function.over.as_ref()? else {
        return None;
    };
    let FunctionArguments::List(FunctionArgumentList { args, clauses, .. }) = &function.args else {
        return None;
    };
    let args: Vec<&Expr> = args.iter().map(argument).collect::<Option<_>>()?;
    let (value, offset, default) = match args.as_slice() {
        [value] => (*value, None, None),
        [value, offset] => (*value, Some(*offset), None),
        [value, offset, default] => (*value, Some(*offset), Some(*default)),
        _ => return None,
    };
    let ignores = |treatment: &NullTreatment| matches!(treatment, NullTreatment::IgnoreNulls);
    let ignores_nulls = function.null_treatment.as_ref().is_some_and(ignores)
        || clauses.iter().any(|clause| match clause {
            FunctionArgumentClause::IgnoreOrRespectNulls(treatment) => ignores(treatment),
            _ => false,
        });
    if offset.is_some_and(is_null) {
        let mut call = syntax::function(function.name.clone(), vec![value.clone()]);
        call.over = function.over.clone();
        let never = syntax::literal(Value::Boolean(false));
        return Some(syntax::case([(never, Expr::Function(call))], syntax::null()));
    }
    let offset = offset.map_or(Some(1), whole_number)?;
    let computed = default.filter(|default| !is_constant(default));
    if offset >= 0 && !ignores_nulls && computed.is_none() {
        return None;
    }
    if offset < 0 {
        is_lead = !is_lead;
    }
    let offset = offset.checked_abs()?;
    if !ignores_nulls {
        let mut args = vec![value.clone(), syntax::number(offset)];
        args.extend(default.filter(|_| computed.is_none()).cloned());
        let name = if is_lead { "lead" } else { "lag" };
        let mut call = syntax::function(syntax::object_name([name]), args);
        call.over = function.over.clone();
        let call = Expr::Function(call);
        return Some(match computed {
            Some(default) => syntax::case([(is_outside(window, is_lead, offset), default.clone())], call),
            None => call,
        });
    }
    if offset == 0 {
        return None;
    }
    let one = || Some(Box::new(syntax::number(1)));
    let (start, end, position) = match is_lead {
        true => (WindowFrameBound::Following(one()), WindowFrameBound::Following(None), offset),
        false => (WindowFrameBound::Preceding(None), WindowFrameBound::Preceding(one()), -offset),
    };
    let frame = WindowFrame { units: WindowFrameUnits::Rows, start_bound: start, end_bound: Some(end) };
    let position = match position < 0 {
        true => Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(syntax::number(offset)) },
        false => syntax::number(position),
    };
    let mut call = syntax::function(syntax::object_name(["nth_value"]), vec![value.clone(), position]);
    call.null_treatment = Some(NullTreatment::IgnoreNulls);
    let window = WindowSpec { window_frame: Some(frame), ..window.clone() };
    call.over = Some(WindowType::WindowSpec(window));
    let call = Expr::Function(call);
    Some(match default {
        Some(default) => syntax::call("coalesce", vec![call, default.clone()]),
        None => call,
    })
}

/// Whether no row of the partition is `offset` rows away.
fn is_outside(window: &WindowSpec, is_lead: bool, offset: i64) -> Expr {
    let rows = Some(Box::new(syntax::number(offset)));
    let bound = match is_lead {
        true => WindowFrameBound::Following(rows),
        false => WindowFrameBound::Preceding(rows),
    };
    let frame =
        WindowFrame { units: WindowFrameUnits::Rows, start_bound: bound.clone(), end_bound: Some(bound) };
    let mut count = syntax::function(syntax::object_name(["count"]), vec![syntax::number(1)]);
    count.over = Some(WindowType::WindowSpec(WindowSpec { window_frame: Some(frame), ..window.clone() }));
    syntax::binary(Expr::Function(count), BinaryOperator::Eq, syntax::number(0))
}

fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => value.value == Value::Null,
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_null(expr),
        _ => false,
    }
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Value(_) | Expr::TypedString(_) => true,
        Expr::UnaryOp { expr, .. } | Expr::Nested(expr) => is_constant(expr),
        _ => false,
    }
}

pub(crate) fn argument(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// The value of a literal whole number.
fn whole_number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole_number(expr).and_then(i64::checked_neg),
        Expr::Nested(expr) => whole_number(expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn calls_that_the_engine_gets_wrong_are_rewritten() {
        let rewritten = |sql: &str| {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            statement.to_string()
        };
        let sql = rewritten("SELECT lag(v, -2, 0) OVER (ORDER BY id) FROM t");
        assert_eq!(sql, "SELECT \"lead\"(v, 2, 0) OVER (ORDER BY id) FROM t");
        let sql = rewritten("SELECT lead(v, 2) IGNORE NULLS OVER (ORDER BY id) FROM t");
        assert!(
            sql.contains("\"nth_value\"(v, 2) IGNORE NULLS OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND"),
            "{sql}"
        );
        let sql = "SELECT lead(v, 2) OVER (ORDER BY id) FROM t";
        assert_eq!(rewritten(sql), sql);
        let sql = rewritten("SELECT lag(v, NULL) OVER (ORDER BY id) FROM t");
        assert_eq!(sql, "SELECT CASE WHEN false THEN lag(v) OVER (ORDER BY id) ELSE NULL END FROM t");
        let sql = rewritten("SELECT lag(v, 2, id) OVER (ORDER BY id) FROM t");
        let frame = "ORDER BY id ROWS BETWEEN 2 PRECEDING AND 2 PRECEDING";
        assert!(
            sql.contains(&format!("WHEN (\"count\"(1) OVER ({frame})) = 0 THEN id ELSE \"lag\"(v, 2)")),
            "{sql}"
        );
    }
}
