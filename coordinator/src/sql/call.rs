//! `CALL` and the maintenance statements: from a statement to a [`Procedure`] with checked arguments.
//! Statements with their own syntax, such as `VACUUM`, are parsed as calls as well: see
//! [`crate::sql::dialect`].

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Value,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use plexus_model::{Error, NodeId, Result};

use crate::sql::dialect::PlexusDialect;
use crate::sql::duration::duration_us;

/// A procedure and its arguments.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Procedure {
    /// `CALL plexus.remove_node(id)`: decommissions a node, once other nodes have replicas of its segments.
    RemoveNode(NodeId),
    /// `OPTIMIZE t [WHERE predicate] [ZORDER BY (a, b)]`.
    Optimize {
        /// The table.
        table: ObjectName,
        /// Which segments to rewrite; all if `None`.
        predicate: Option<Expr>,
        /// Columns of the z-order; the order of the table if `None`.
        order: Option<Vec<Expr>>,
    },
    /// `VACUUM [t] [RETAIN '7 days'] [DRY RUN]`, or `CALL plexus.vacuum('t', '7 days', false)`.
    Vacuum {
        /// The table; all tables if `None`.
        table: Option<ObjectName>,
        /// Age in microseconds up to which versions are retained; the retention of the table if `None`.
        retain_us: Option<u64>,
        /// Whether to only report what would be removed.
        dry_run: bool,
    },
    /// `RESTORE TABLE t TO VERSION n` or `TO TIMESTAMP '...'`, or `CALL plexus.restore('t', n)`.
    Restore {
        /// The table.
        table: ObjectName,
        /// A version or a time.
        to: Expr,
    },
    /// `CALL plexus.fail_at('failpoint')`: arms a failpoint, for tests. See [`plexus_model::failpoint`].
    FailAt(String),
    /// `CHECK TABLE t`, or `CALL plexus.check_table('t')`.
    CheckTable {
        /// The table.
        table: ObjectName,
    },
    /// `KILL [QUERY] 'id'`, or `CALL plexus.kill_query('id')`.
    KillQuery(String),
}

impl Procedure {
    /// Whether it depends on tables, of which it needs the newest version.
    pub(crate) fn needs_manifest(&self) -> bool {
        !matches!(self, Self::KillQuery(_) | Self::FailAt(_))
    }
}

/// The procedures that error messages list.
const PROCEDURES: &str = "remove_node(node), vacuum(table, retain, dry_run), restore(table, version), \
                          check_table(table), kill_query(id)";

/// The procedure that a statement calls; `None` when the statement is no call.
///
/// # Errors
/// `NotFound` for an unknown procedure; `InvalidArgument` or `Unsupported` for wrong arguments.
pub(crate) fn procedure(statement: &Statement) -> Result<Option<Procedure>> {
    let Statement::Statement(statement) = statement else {
        return Ok(None);
    };
    match statement.as_ref() {
        ast::Statement::Call(function) => call(function).map(Some),
        ast::Statement::OptimizeTable {
            name,
            on_cluster: None,
            partition: None,
            include_final: false,
            deduplicate: None,
            predicate,
            zorder,
            ..
        } => Ok(Some(Procedure::Optimize {
            table: name.clone(),
            predicate: predicate.clone(),
            order: zorder.clone(),
        })),
        ast::Statement::OptimizeTable { .. } => {
            Err(Error::unsupported("OPTIMIZE takes a table, WHERE and ZORDER BY"))
        }
        _ => Ok(None),
    }
}

/// The procedure that `CALL` names, with its arguments.
fn call(function: &ast::Function) -> Result<Procedure> {
    let arguments = arguments(function)?;
    let invalid = |takes: &str| Error::invalid(format!("{function}: {} takes {takes}", function.name));
    match function.name.to_string().to_ascii_lowercase().as_str() {
        "plexus.remove_node" => {
            let node = match arguments.as_slice() {
                [id] => number(id).and_then(|digits| digits.parse().ok()),
                _ => None,
            };
            node.map(NodeId).map(Procedure::RemoveNode).ok_or_else(|| invalid("the id of a node"))
        }
        "plexus.vacuum" => vacuum(&arguments, invalid),
        "plexus.restore" => match arguments.as_slice() {
            [table, to] => Ok(Procedure::Restore { table: table_name(table)?, to: (*to).clone() }),
            _ => Err(invalid("a table and a version")),
        },
        "plexus.fail_at" => match arguments.as_slice() {
            [name] => text(name).map(|name| Procedure::FailAt(name.to_owned())),
            _ => None,
        }
        .ok_or_else(|| invalid("the name of a failpoint")),
        "plexus.check_table" => match arguments.as_slice() {
            [table] => Ok(Procedure::CheckTable { table: table_name(table)? }),
            _ => Err(invalid("a table")),
        },
        "plexus.kill_query" => match arguments.as_slice() {
            [id] => text(id).map(|id| Procedure::KillQuery(id.to_owned())),
            _ => None,
        }
        .ok_or_else(|| invalid("the query_id of plexus.queries as text")),
        _ => Err(Error::not_found(format!(
            "procedure {} does not exist; in plexus there are {PROCEDURES}",
            function.name
        ))),
    }
}

/// `plexus.vacuum(table, retain, dry_run)`: every argument may be null or missing. `invalid` makes an error
/// of what the procedure takes.
fn vacuum(arguments: &[&Expr], invalid: impl Fn(&str) -> Error) -> Result<Procedure> {
    if arguments.len() > 3 {
        return Err(invalid("a table, a duration, and whether it is a dry run"));
    }
    let argument = |index: usize| arguments.get(index).copied().filter(|expr| !is_null(expr));
    let table = argument(0).map(table_name).transpose()?;
    let retain = argument(1).map(|expr| text(expr).ok_or_else(|| invalid("a duration")));
    let retain_us = retain.transpose()?.map(duration_us).transpose()?;
    let dry_run = argument(2).map(|expr| boolean(expr).ok_or_else(|| invalid("true or false")));
    Ok(Procedure::Vacuum { table, retain_us, dry_run: dry_run.transpose()?.unwrap_or(false) })
}

/// The positional arguments of a call.
pub(crate) fn arguments(function: &ast::Function) -> Result<Vec<&Expr>> {
    let list = match &function.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    let arguments = list.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
        other => Err(Error::unsupported(format!("{function}: argument {other} is no value"))),
    });
    arguments.collect()
}

/// Whether an argument is `NULL`.
pub(crate) fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null)
}

/// The digits of a number literal.
fn number(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits),
            _ => None,
        },
        _ => None,
    }
}

/// The content of a string literal.
pub(crate) fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The value of a boolean literal.
fn boolean(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Value(value) => match value.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// The table that a string literal names.
pub(crate) fn table_name(expr: &Expr) -> Result<ObjectName> {
    let invalid = || Error::invalid(format!("{expr} is not the name of a table: write it as text"));
    let name = text(expr).ok_or_else(invalid)?;
    let mut parser = Parser::new(&PlexusDialect).try_with_sql(name).map_err(|_| invalid())?;
    let name = parser.parse_object_name(false).map_err(|_| invalid())?;
    match parser.peek_token().token {
        Token::EOF => Ok(name),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn parse_call(sql: &str) -> Result<Option<Procedure>> {
        procedure(&parse::statement(sql)?)
    }

    #[test]
    fn calls_are_parsed_and_wrong_ones_are_explained() {
        assert_eq!(parse_call("CALL plexus.remove_node(7)").unwrap(), Some(Procedure::RemoveNode(NodeId(7))));
        for sql in ["KILL QUERY 'abc'", "kill 'abc'", "CALL plexus.kill_query('abc')"] {
            assert_eq!(parse_call(sql).unwrap(), Some(Procedure::KillQuery("abc".into())), "{sql}");
        }
        assert!(parse_call("KILL QUERY 7").unwrap_err().message().contains("as text"));
        assert_eq!(parse_call("SELECT 1").unwrap(), None);
        for sql in
            ["CALL plexus.remove_node()", "CALL plexus.remove_node('a')", "CALL plexus.remove_node(-1)"]
        {
            assert!(parse_call(sql).unwrap_err().message().contains("takes the id of a node"), "{sql}");
        }
        assert!(
            parse_call("CALL vacuum()").unwrap_err().message().contains("procedure vacuum does not exist")
        );
        assert!(
            parse_call("CALL plexus.vacuum('t', 'long')").unwrap_err().message().contains("no span of time")
        );
        assert!(parse_call("CALL plexus.check_table(t)").unwrap_err().message().contains("write it as text"));
    }

    #[test]
    fn maintenance_statements_are_parsed_as_calls() {
        let vacuum = |sql: &str| match parse_call(sql).unwrap() {
            Some(Procedure::Vacuum { table, retain_us, dry_run }) => {
                (table.map(|t| t.to_string()), retain_us, dry_run)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(vacuum("VACUUM"), (None, None, false));
        assert_eq!(vacuum("VACUUM a.\"B c\" DRY RUN"), (Some("\"a\".\"B c\"".to_owned()), None, true));
        assert_eq!(
            vacuum("VACUUM t RETAIN '2 hours'"),
            (Some("\"t\"".to_owned()), Some(7_200_000_000), false)
        );
        assert_eq!(
            vacuum("VACUUM TABLE t RETAIN 3 days DRY RUN"),
            (Some("\"t\"".to_owned()), Some(259_200_000_000), true)
        );
        for sql in
            ["RESTORE TABLE t TO VERSION 5", "RESTORE t TO VERSION AS OF 5", "CALL plexus.restore('t', 5)"]
        {
            let Some(Procedure::Restore { table, to }) = parse_call(sql).unwrap() else { panic!("{sql}") };
            assert_eq!(
                (table.to_string().replace('"', ""), to.to_string()),
                ("t".to_owned(), "5".to_owned())
            );
        }
        let sql = "RESTORE TABLE t TO TIMESTAMP AS OF '2026-01-01'";
        assert!(matches!(parse_call(sql).unwrap(), Some(Procedure::Restore { .. })));
        assert!(matches!(parse_call("CHECK TABLE s.t").unwrap(), Some(Procedure::CheckTable { .. })));
        assert!(parse_call("OPTIMIZE t WHERE a > 1 ZORDER BY (a, b)").unwrap().is_some());
        assert!(parse_call("RESTORE TABLE t").is_err());
        assert!(parse_call("RESTORE TABLE t TO VERSION '2026-01-01'").is_err());
        assert!(parse_call("RESTORE TABLE t TO TIMESTAMP 12").is_err());
        assert!(parse_call("CALL plexus.check_table('t; u')").is_err());
        assert!(parse_call("VACUUM t RETAIN").is_err());
    }
}
