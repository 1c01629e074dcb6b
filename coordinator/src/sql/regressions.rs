//! `regr_r2(y, x)` is 1 if all `y` are equal and not all `x` are, as in the SQL standard. The engine makes it
//! null.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, DataType, ExactNumberInfo, Expr, Function, Statement};
use plexus_query::{visit_expressions, visit_expressions_mut};

use crate::sql::names::unqualified;
use crate::sql::syntax;

/// Rewrites these calls in a statement.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, &mut |expr| {
        let is_r2 = |function: &Function| unqualified(&function.name).is_ok_and(|name| name == "regr_r2");
        // One with another in its arguments stays as it is: each rewrite repeats them.
        if let Expr::Function(function) = expr
            && is_r2(function)
            && visit_expressions(&function.args, &mut |inner| match inner {
                Expr::Function(inner) if is_r2(inner) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .is_continue()
        {
            let other = |name: &str| {
                let name = syntax::object_name([name]);
                Expr::Function(Function { name, ..function.clone() })
            };
            let compared = |name, op| syntax::binary(other(name), op, syntax::number(0));
            let is_level = syntax::all([
                compared("regr_syy", BinaryOperator::Eq),
                compared("regr_sxx", BinaryOperator::Gt),
            ]);
            let one = syntax::cast(syntax::number(1), DataType::Double(ExactNumberInfo::None));
            *expr = syntax::case([(is_level, one)], Expr::Function(function.clone()));
        }
        ControlFlow::Continue(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn level_regressions_are_certain() {
        let mut statement = parse::plain_statement("SELECT regr_r2(y, x) OVER (ORDER BY x) FROM t").unwrap();
        rewrite(&mut statement);
        let expected = "SELECT CASE WHEN ((\"regr_syy\"(y, x) OVER (ORDER BY x)) = 0) AND \
                        ((\"regr_sxx\"(y, x) OVER (ORDER BY x)) > 0) THEN CAST(1 AS DOUBLE) ELSE \
                        regr_r2(y, x) OVER (ORDER BY x) END FROM t";
        assert_eq!(statement.to_string(), expected);
    }
}
