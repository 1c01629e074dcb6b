//! From text to statements, with `?` and `$1` alike.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use plexus_model::{Error, Result};

use crate::errors::from_datafusion;
use crate::sql::dialect::PlexusDialect;
use crate::sql::names::identifier;

/// A statement may be this long; longer ones are data in disguise.
pub const SQL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Nesting of expressions and subqueries.
pub const RECURSION_MAX: usize = 100;

/// Parses one or more statements. Placeholders `?` are numbered in their order.
pub fn statements(sql: &str) -> Result<VecDeque<Statement>> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a statement of {} bytes is longer than {SQL_BYTES_MAX}",
            sql.len()
        )));
    }
    let dialect = PlexusDialect;
    let syntax = |e: ParserError| at_end(sql, from_datafusion(DataFusionError::SQL(Box::new(e), None)));
    let mut tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| syntax(e.into()))?;
    let mut number = 0;
    for token in &mut tokens {
        if let Token::Placeholder(name) = &mut token.token
            && name == "?"
        {
            number += 1;
            *name = format!("${number}");
        }
    }
    DFParserBuilder::new(join_operators(tokens))
        .with_dialect(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| at_end(sql, from_datafusion(e)))
}

/// Operators of vectors, which the tokenizer takes for two each.
pub fn join_operators(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let operator = match (joined.last().map(|last| &last.token), &token.token) {
            (Some(Token::Lt), Token::Arrow) => "<->",
            (Some(Token::Lt), Token::HashArrow) => "<#>",
            _ => {
                joined.push(token);
                continue;
            }
        };
        if let Some(last) = joined.last_mut() {
            last.token = Token::CustomBinaryOperator(operator.to_owned());
        }
    }
    joined
}

/// The parser names no position for what is missing at the end.
pub fn at_end(sql: &str, error: Error) -> Error {
    if error.message().contains("Line: ") || !error.message().contains("EOF") {
        return error;
    }
    let text = sql.trim_end();
    let line = text.lines().count().max(1);
    let column = text.lines().next_back().map_or(0, |l| l.chars().count()) + 1;
    Error::new(error.kind(), format!("{} at Line: {line}, Column: {column}", error.message()))
}

/// Parses exactly one statement.
pub fn statement(sql: &str) -> Result<Statement> {
    let mut all = statements(sql)?;
    match (all.pop_front(), all.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Error::invalid("the statement is empty")),
        (Some(_), more) => {
            Err(Error::invalid(format!("one statement is expected here, {} were given", more + 1)))
        }
    }
}

/// Parses one statement of standard SQL.
pub fn plain_statement(sql: &str) -> Result<ast::Statement> {
    match statement(sql)? {
        Statement::Statement(statement) => Ok(*statement),
        other => Err(Error::invalid(format!("{other} is not expected here"))),
    }
}

/// Parses a query.
pub fn query(sql: &str) -> Result<ast::Query> {
    match plain_statement(sql)? {
        ast::Statement::Query(query) => Ok(*query),
        other => Err(Error::invalid(format!("{other} is not a query"))),
    }
}

/// All names in an expression, as they are meant.
pub fn identifiers(sql: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut note = |ident: &ast::Ident| names.insert(identifier(&ident.to_string()));
    let mut expr = expression(sql)?;
    let _: ControlFlow<()> = ast::visit_expressions_mut(&mut expr, |expr| {
        match expr {
            ast::Expr::Identifier(ident) => {
                note(ident);
            }
            ast::Expr::CompoundIdentifier(parts) => parts.iter().for_each(|part| {
                note(part);
            }),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    Ok(names)
}

/// Parses an expression.
pub fn expression(sql: &str) -> Result<ast::Expr> {
    let fail = |e| from_datafusion(DataFusionError::SQL(Box::new(e), None));
    let mut parser = Parser::new(&PlexusDialect).try_with_sql(sql).map_err(fail)?;
    parser.parse_expr().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_are_numbered_and_errors_have_a_position() {
        assert_eq!(statement("SELECT ?, ?").unwrap().to_string(), "SELECT $1, $2");
        let error = statement("SELECT 1 FRM t x y").unwrap_err();
        assert!(error.message().contains("Line: 1, Column:"), "{error}");
    }

    #[test]
    fn versions_of_tables_are_read_and_what_the_generic_dialect_reads_still_is() {
        for sql in [
            "SELECT * FROM t VERSION AS OF 5",
            "SELECT * FROM t TIMESTAMP AS OF '2026-01-01' AS old JOIN u ON true",
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING a",
            "MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED BY SOURCE THEN DELETE",
            "SELECT * EXCLUDE (a) FROM t",
        ] {
            statement(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        let sql = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(statement(&sql).unwrap_err().message().contains("nested too deeply"));
    }
}
