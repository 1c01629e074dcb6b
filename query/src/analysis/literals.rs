//! Number literals with an exponent are doubles, as in the SQL standard. DataFusion takes every literal with
//! a fraction or an exponent for a decimal, of which 1e300 has too many digits.

use crate::visit::visit_mut;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Value, VisitMut, VisitorMut,
};

/// Makes the number literals of a statement that have an exponent doubles.
pub fn make_doubles(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => make_doubles_in(statement.as_mut()),
        Statement::Explain(explain) => make_doubles(&mut explain.statement),
        _ => {}
    }
}

/// The same in a part of a statement.
pub fn make_doubles_in(part: &mut impl VisitMut) {
    let _: ControlFlow<()> = visit_mut(part, &mut Doubles);
}

struct Doubles;

impl VisitorMut for Doubles {
    type Break = ();

    // After the visit, so that the literal inside of the cast is not visited again.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Number(digits, _) = &value.value
            && digits.contains(['e', 'E'])
        {
            let text = Value::SingleQuotedString(digits.clone());
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(text.with_empty_span())),
                data_type: DataType::Double(ExactNumberInfo::None),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}
