//! `CALL`: procedures that tend the cluster and its tables. Statements that have words of their own, such as
//! `VACUUM`, are calls as well: see [`crate::dialect`].

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Value,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use plexus_model::{Error, NodeId, Result};

use crate::sql::dialect::PlexusDialect;
use crate::sql::duration::duration_us;

/// What can be called.
#[derive(Clone, PartialEq, Debug)]
pub enum Procedure {
    /// `CALL plexus.remove_node(id)`: takes a node out of the cluster for good, once others have
    /// what it keeps.
    RemoveNode(NodeId),
    /// `OPTIMIZE t [WHERE predicate] [ZORDER BY (a, b)]`.
    Optimize { table: ObjectName, predicate: Option<Expr>, order: Option<Vec<Expr>> },
    /// `VACUUM [t] [RETAIN '7 days'] [DRY RUN]`, or `CALL plexus.vacuum('t', '7 days', false)`.
    Vacuum { table: Option<ObjectName>, retain_us: Option<u64>, dry_run: bool },
    /// `RESTORE TABLE t TO VERSION n` or `TO TIMESTAMP '...'`, or `CALL plexus.restore('t', n)`.
    Restore { table: ObjectName, to: Expr },
    /// `CALL plexus.fail_at('place')`, where the operator allows it: see [`plexus_model::failpoint`].
    FailAt(String),
    /// `CHECK TABLE t`, or `CALL plexus.check_table('t')`.
    CheckTable { table: ObjectName },
}

pub const PROCEDURES: &str = "remove_node(node), vacuum(table, retain, dry_run), restore(table, version), \
                          check_table(table)";

/// The procedure that a statement calls, if it is a call.
pub fn procedure(statement: &Statement) -> Result<Option<Procedure>> {
    let Statement::Statement(statement) = statement else {
        return Ok(None);
    };
    let function = match statement.as_ref() {
        ast::Statement::Call(function) => function,
        ast::Statement::OptimizeTable {
            on_cluster: None,
            partition: None,
            include_final: false,
            deduplicate: None,
            ..
        } => {
            return optimize(statement).map(Some);
        }
        ast::Statement::OptimizeTable { .. } => {
            return Err(Error::unsupported("OPTIMIZE takes a table, WHERE and ZORDER BY"));
        }
        _ => return Ok(None),
    };
    let arguments = arguments(function)?;
    let wrong = |takes: &str| Error::invalid(format!("{function}: {} takes {takes}", function.name));
    let procedure = match function.name.to_string().to_ascii_lowercase().as_str() {
        "plexus.remove_node" => match arguments.as_slice() {
            [Expr::Value(value)] => match &value.value {
                Value::Number(digits, _) => digits.parse().ok().map(NodeId).map(Procedure::RemoveNode),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| wrong("the id of a node"))?,
        "plexus.vacuum" if arguments.len() <= 3 => {
            let at = |index: usize| arguments.get(index).copied().filter(|e| !is_null(e));
            let table = at(0).map(table_name).transpose()?;
            let retain_us = at(1).map(|e| text(e).ok_or_else(|| wrong("a span of time")));
            let retain_us = retain_us.transpose()?.map(duration_us).transpose()?;
            let dry_run = at(2).map(|e| boolean(e).ok_or_else(|| wrong("true or false"))).transpose()?;
            Procedure::Vacuum { table, retain_us, dry_run: dry_run.unwrap_or(false) }
        }
        "plexus.restore" => match arguments.as_slice() {
            [table, to] => Procedure::Restore { table: table_name(table)?, to: (*to).clone() },
            _ => return Err(wrong("a table and a version")),
        },
        "plexus.fail_at" => match arguments.as_slice() {
            [place] => Procedure::FailAt(text(place).ok_or_else(|| wrong("the name of a place"))?.to_owned()),
            _ => return Err(wrong("the name of a place")),
        },
        "plexus.check_table" => match arguments.as_slice() {
            [table] => Procedure::CheckTable { table: table_name(table)? },
            _ => return Err(wrong("a table")),
        },
        "plexus.vacuum" => return Err(wrong("a table, a span of time, and whether to try only")),
        _ => {
            return Err(Error::not_found(format!(
                "procedure {} does not exist; in plexus there are {PROCEDURES}",
                function.name
            )));
        }
    };
    Ok(Some(procedure))
}

pub fn optimize(statement: &ast::Statement) -> Result<Procedure> {
    let ast::Statement::OptimizeTable { name, predicate, zorder, .. } = statement else {
        return Err(Error::internal(format!("{statement} is not OPTIMIZE")));
    };
    Ok(Procedure::Optimize { table: name.clone(), predicate: predicate.clone(), order: zorder.clone() })
}

pub fn arguments(function: &ast::Function) -> Result<Vec<&Expr>> {
    let list = match &function.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    let arguments = list.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
        other => Err(Error::unsupported(format!("{function}: the argument {other} is no value"))),
    });
    arguments.collect()
}

pub fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null)
}

pub fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

pub fn boolean(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Value(value) => match value.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// A name inside a text.
pub fn table_name(expr: &Expr) -> Result<ObjectName> {
    let wrong = || Error::invalid(format!("{expr} is not the name of a table: write it as text"));
    let name = text(expr).ok_or_else(wrong)?;
    let mut parser = Parser::new(&PlexusDialect).try_with_sql(name).map_err(|_| wrong())?;
    let name = parser.parse_object_name(false).map_err(|_| wrong())?;
    match parser.peek_token().token {
        Token::EOF => Ok(name),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn called(sql: &str) -> Result<Option<Procedure>> {
        procedure(&parse::statement(sql)?)
    }

    #[test]
    fn calls_are_read_and_wrong_ones_say_what_is_wrong() {
        assert_eq!(called("CALL plexus.remove_node(7)").unwrap(), Some(Procedure::RemoveNode(NodeId(7))));
        assert_eq!(called("SELECT 1").unwrap(), None);
        for sql in
            ["CALL plexus.remove_node()", "CALL plexus.remove_node('a')", "CALL plexus.remove_node(-1)"]
        {
            assert!(called(sql).unwrap_err().message().contains("takes the id of a node"), "{sql}");
        }
        assert!(called("CALL vacuum()").unwrap_err().message().contains("procedure vacuum does not exist"));
        assert!(called("CALL plexus.vacuum('t', 'long')").unwrap_err().message().contains("no span of time"));
        assert!(called("CALL plexus.check_table(t)").unwrap_err().message().contains("write it as text"));
    }

    #[test]
    fn statements_with_words_of_their_own_are_calls() {
        let vacuum = |sql: &str| match called(sql).unwrap() {
            Some(Procedure::Vacuum { table, retain_us, dry_run }) => {
                (table.map(|t| t.to_string()), retain_us, dry_run)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(vacuum("VACUUM"), (None, None, false));
        assert_eq!(vacuum("VACUUM a.\"B c\" DRY RUN"), (Some("a.\"B c\"".to_owned()), None, true));
        assert_eq!(vacuum("VACUUM t RETAIN '2 hours'"), (Some("t".to_owned()), Some(7_200_000_000), false));
        assert_eq!(
            vacuum("VACUUM TABLE t RETAIN 3 days DRY RUN"),
            (Some("t".to_owned()), Some(259_200_000_000), true)
        );
        for sql in
            ["RESTORE TABLE t TO VERSION 5", "RESTORE t TO VERSION AS OF 5", "CALL plexus.restore('t', 5)"]
        {
            let Some(Procedure::Restore { table, to }) = called(sql).unwrap() else { panic!("{sql}") };
            assert_eq!((table.to_string(), to.to_string()), ("t".to_owned(), "5".to_owned()), "{sql}");
        }
        let sql = "RESTORE TABLE t TO TIMESTAMP AS OF '2026-01-01'";
        assert!(matches!(called(sql).unwrap(), Some(Procedure::Restore { .. })));
        assert!(matches!(called("CHECK TABLE s.t").unwrap(), Some(Procedure::CheckTable { .. })));
        assert!(called("OPTIMIZE t WHERE a > 1 ZORDER BY (a, b)").unwrap().is_some());
        assert!(called("RESTORE TABLE t").is_err());
        assert!(called("RESTORE TABLE t TO VERSION '2026-01-01'").is_err());
        assert!(called("RESTORE TABLE t TO TIMESTAMP 12").is_err());
        assert!(called("CALL plexus.check_table('t; u')").is_err());
        assert!(called("VACUUM t RETAIN").is_err());
    }
}
