//! From text to statements, with `?` and `$1` alike.

use std::collections::VecDeque;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use plexus_model::{Error, Result};

use crate::errors::from_datafusion;

/// A statement may be this long; longer ones are data in disguise.
const SQL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Nesting of expressions and subqueries.
const RECURSION_MAX: usize = 100;

/// Parses one or more statements. Placeholders `?` are numbered in their order.
pub fn statements(sql: &str) -> Result<VecDeque<Statement>> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a statement of {} bytes is longer than {SQL_BYTES_MAX}",
            sql.len()
        )));
    }
    let dialect = GenericDialect {};
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
    DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| at_end(sql, from_datafusion(e)))
}

/// The parser names no position for what is missing at the end.
fn at_end(sql: &str, error: Error) -> Error {
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
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        let sql = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(statement(&sql).unwrap_err().message().contains("nested too deeply"));
    }
}
