//! `INTERSECT ALL` and `EXCEPT ALL`, which count equal rows.
//!
//! The planner makes semi and anti joins of them, which do not (apache/datafusion#12955, #12956). Here equal
//! rows are numbered, and rows are intersected with their numbers.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Query, SetExpr, SetOperator, SetQuantifier, VisitMut, VisitorMut, WindowSpec, WindowType,
};
use plexus_model::{Error, Result};

use crate::sql::result_names::output_names;
use crate::sql::syntax;
use plexus_query::visit_mut;

/// Rewrites these operations in a statement.
///
/// # Errors
/// `Unsupported` when the columns of an operand are not listed.
pub(crate) fn rewrite(part: &mut impl VisitMut) -> Result<()> {
    match visit_mut(part, &mut Operations) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Operations;

impl VisitorMut for Operations {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match rewrite_body(&mut query.body) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn rewrite_body(body: &mut SetExpr) -> Result<()> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else {
        return Ok(());
    };
    rewrite_body(left)?;
    rewrite_body(right)?;
    if *set_quantifier != SetQuantifier::All || *op == SetOperator::Union {
        return Ok(());
    }
    let names = output_names(left).ok_or_else(|| {
        Error::unsupported(format!(
            "{op} ALL of SELECT * is not supported: list the columns of its left side"
        ))
    })?;
    let columns: Vec<String> = (1..=names.len()).map(|number| format!("c{number}")).collect();
    let take = |side: &mut SetExpr| {
        let nothing = syntax::select(vec![], vec![], None);
        std::mem::replace(side, *nothing.body)
    };
    let operation = SetExpr::SetOperation {
        op: *op,
        set_quantifier: SetQuantifier::None,
        left: Box::new(numbered(take(left), &columns)),
        right: Box::new(numbered(take(right), &columns)),
    };
    let rows = syntax::ident("rows");
    let items =
        columns.iter().zip(&names).map(|(c, name)| syntax::item(syntax::column(&rows, c), name)).collect();
    let source = syntax::derived(syntax::query(operation), rows, vec![]);
    *body = *syntax::select(items, vec![syntax::relation(source)], None).body;
    Ok(())
}

/// An operand with the number of each row among its equals.
fn numbered(operand: SetExpr, columns: &[String]) -> SetExpr {
    let rows = syntax::ident("rows");
    let mut items: Vec<_> = columns.iter().map(|c| syntax::item(syntax::column(&rows, c), c)).collect();
    let window = WindowSpec {
        window_name: None,
        partition_by: columns.iter().map(|c| syntax::column(&rows, c)).collect(),
        order_by: vec![],
        window_frame: None,
    };
    let mut number = syntax::function(syntax::object_name(["row_number"]), vec![]);
    number.over = Some(WindowType::WindowSpec(window));
    items.push(syntax::item(Expr::Function(number), "number"));
    let names = columns.iter().map(syntax::ident).collect();
    let source = syntax::derived(syntax::query(operand), rows, names);
    *syntax::select(items, vec![syntax::relation(source)], None).body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn equal_rows_are_numbered() {
        let mut statement =
            parse::plain_statement("SELECT a, b AS x FROM t EXCEPT ALL SELECT a, b FROM u").unwrap();
        rewrite(&mut statement).unwrap();
        let sql = statement.to_string();
        assert!(sql.contains("PARTITION BY \"rows\".\"c1\", \"rows\".\"c2\""), "{sql}");
        assert!(sql.contains("EXCEPT SELECT") && sql.starts_with("SELECT \"rows\".\"c1\" AS \"a\""), "{sql}");
        let mut statement = parse::plain_statement("SELECT * FROM t INTERSECT ALL SELECT * FROM u").unwrap();
        assert!(rewrite(&mut statement).is_err());
    }
}
