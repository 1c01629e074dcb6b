//! `PREPARE` and `EXECUTE`: a statement of the session with parameters, and the same statement with values in
//! their places.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, DataType, Expr, Value};
use plexus_model::{Error, Result};

use crate::sql::kind::StatementKind;
use crate::sql::names::{name_of, unqualified};
use crate::sql::syntax;
use plexus_query::{visit_expressions, visit_expressions_mut};

/// A statement that a session has prepared.
#[derive(Clone, Debug)]
pub(crate) struct PreparedStatement {
    /// Its name in the session.
    pub(crate) name: String,
    /// The statement. Parameters with a declared type are cast to it.
    pub(crate) statement: Statement,
    /// The text of the `PREPARE`, to which the positions in errors refer.
    pub(crate) text: Arc<str>,
    parameters: usize,
}

impl PreparedStatement {
    /// What `PREPARE` prepares.
    ///
    /// # Errors
    /// `Unsupported` for a statement other than a query and DML; `InvalidArgument` when it has not as many
    /// parameters as types are declared.
    pub(crate) fn new(
        name: &ast::Ident,
        types: &[DataType],
        statement: &ast::Statement,
        text: &str,
    ) -> Result<Self> {
        let name = name_of(name);
        let mut statement = Statement::Statement(Box::new(statement.clone()));
        if !matches!(StatementKind::of(&statement), StatementKind::Query | StatementKind::Dml) {
            return Err(Error::unsupported(format!(
                "PREPARE {name}: only queries, INSERT, UPDATE, DELETE and MERGE can be prepared"
            )));
        }
        let parameters = count_parameters(&statement)?;
        if !types.is_empty() && types.len() != parameters {
            return Err(Error::invalid(format!(
                "PREPARE {name}: {} types are declared for {parameters} parameters",
                types.len()
            )));
        }
        replace_parameters(&mut statement, |number, placeholder| match types.get(number - 1) {
            Some(data_type) => syntax::cast(placeholder, data_type.clone()),
            None => placeholder,
        });
        Ok(Self { name, statement, text: text.into(), parameters })
    }

    /// The statement with arguments in the places of its parameters.
    ///
    /// # Errors
    /// `InvalidArgument` for another number of arguments, and for one that is not constant.
    fn with_arguments(&self, arguments: &[Expr]) -> Result<Statement> {
        let name = &self.name;
        if arguments.len() != self.parameters {
            return Err(Error::invalid(format!(
                "EXECUTE {name}: {} arguments are given for {} parameters",
                arguments.len(),
                self.parameters
            )));
        }
        if let Some(argument) = arguments.iter().find(|argument| !is_constant(argument)) {
            return Err(Error::invalid(format!("EXECUTE {name}: argument {argument} is not constant")));
        }
        let mut statement = self.statement.clone();
        replace_parameters(&mut statement, |number, _| syntax::nested(arguments[number - 1].clone()));
        Ok(statement)
    }
}

/// The statement that an `EXECUTE` runs, also below `EXPLAIN`; `None` for other statements. `find` looks up
/// what is prepared under a name.
///
/// # Errors
/// `Unsupported` for other forms of `EXECUTE`, the error of `find`, and `InvalidArgument` for wrong
/// arguments.
pub(crate) fn executed(
    statement: &Statement,
    find: impl Fn(&str) -> Result<Arc<PreparedStatement>>,
) -> Result<Option<(Statement, Arc<PreparedStatement>)>> {
    match statement {
        Statement::Explain(explain) => {
            let Some((executed, prepared)) = executed(&explain.statement, find)? else {
                return Ok(None);
            };
            let mut explain = explain.clone();
            *explain.statement = executed;
            Ok(Some((Statement::Explain(explain), prepared)))
        }
        Statement::Statement(statement) => {
            let ast::Statement::Execute {
                name,
                parameters,
                has_parentheses: _,
                immediate,
                into,
                using,
                output,
                default,
            } = statement.as_ref()
            else {
                return Ok(None);
            };
            if *immediate || !into.is_empty() || !using.is_empty() || *output || *default {
                return Err(Error::unsupported("EXECUTE takes a name and arguments: EXECUTE name(1, 'a')"));
            }
            let Some(name) = name else {
                return Err(Error::invalid("EXECUTE: the name of a prepared statement is missing"));
            };
            let prepared = find(&unqualified(name)?)?;
            Ok(Some((prepared.with_arguments(parameters)?, prepared)))
        }
        _ => Ok(None),
    }
}

/// The number of a placeholder; `None` for one that is not a number.
fn number(placeholder: &str) -> Option<usize> {
    placeholder.strip_prefix('$')?.parse().ok().filter(|number| *number > 0)
}

/// The highest number of a parameter.
fn count_parameters(statement: &Statement) -> Result<usize> {
    let Statement::Statement(statement) = statement else {
        return Ok(0);
    };
    let mut count = 0;
    let named = visit_expressions(statement.as_ref(), &mut |expr| {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
        {
            match number(name) {
                Some(number) => count = count.max(number),
                None => return ControlFlow::Break(name.clone()),
            }
        }
        ControlFlow::Continue(())
    });
    match named {
        ControlFlow::Break(name) => Err(Error::invalid(format!("parameter {name}: write ? or $1, $2, ..."))),
        ControlFlow::Continue(()) => Ok(count),
    }
}

/// Replaces each parameter by what `replacement` makes of its number and of itself.
fn replace_parameters(statement: &mut Statement, replacement: impl Fn(usize, Expr) -> Expr) {
    let Statement::Statement(statement) = statement else {
        return;
    };
    let _: ControlFlow<()> = visit_expressions_mut(statement.as_mut(), &mut |expr| {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
            && let Some(number) = number(name)
        {
            *expr = replacement(number, expr.clone());
        }
        ControlFlow::Continue(())
    });
}

/// Whether an argument has one value wherever it stands: no column, no subquery, and no function, which could
/// be volatile.
fn is_constant(argument: &Expr) -> bool {
    let varies = visit_expressions(argument, &mut |expr| match expr {
        Expr::Value(_)
        | Expr::TypedString(_)
        | Expr::Interval(_)
        | Expr::Cast { .. }
        | Expr::Nested(_)
        | Expr::UnaryOp { .. }
        | Expr::BinaryOp { .. }
        | Expr::Array(_)
        | Expr::Dictionary(_) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    varies.is_continue()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    /// The statement that `execute` runs after `prepare`, or the error.
    fn run(prepare: &str, execute: &str) -> Result<String> {
        let ast::Statement::Prepare { name, data_types, statement } = parse::plain_statement(prepare)? else {
            panic!("{prepare} prepares nothing");
        };
        let prepared = Arc::new(PreparedStatement::new(&name, &data_types, &statement, prepare)?);
        let executed = executed(&parse::statement(execute)?, |_| Ok(prepared.clone()))?;
        Ok(executed.expect("the statement executes").0.to_string())
    }

    #[test]
    fn arguments_take_the_places_of_parameters() {
        let sql = run("PREPARE p(INT) AS SELECT a FROM t WHERE a = $1 LIMIT $1", "EXECUTE p(-2)").unwrap();
        assert_eq!(sql, "SELECT a FROM t WHERE a = CAST((-2) AS INT) LIMIT CAST((-2) AS INT)");
        let sql = run("PREPARE p AS DELETE FROM t WHERE s = ?", "EXECUTE p('it''s')").unwrap();
        assert_eq!(sql, "DELETE FROM t WHERE s = 'it''s'");
        let sql = run("PREPARE p AS SELECT $2, $1", "EXPLAIN EXECUTE p(1, ?)").unwrap();
        assert_eq!(sql, "EXPLAIN SELECT $1, 1");
    }

    #[test]
    fn wrong_arguments_and_statements_are_refused() {
        for (prepare, execute) in [
            ("PREPARE p AS SELECT $1", "EXECUTE p"),
            ("PREPARE p AS SELECT $1", "EXECUTE p(1, 2)"),
            ("PREPARE p AS SELECT $1", "EXECUTE p(a)"),
            ("PREPARE p AS SELECT $1", "EXECUTE p(random())"),
            ("PREPARE p AS SELECT $1", "EXECUTE p((SELECT 1))"),
            ("PREPARE p(INT, INT) AS SELECT $1", "EXECUTE p(1)"),
            ("PREPARE p AS SELECT $a", "EXECUTE p(1)"),
            ("PREPARE p AS DROP TABLE t", "EXECUTE p"),
            ("PREPARE p AS EXECUTE q", "EXECUTE p"),
        ] {
            assert!(run(prepare, execute).is_err(), "{prepare}; {execute}");
        }
    }
}
