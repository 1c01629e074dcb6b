//! Parses SQL text into statements. Placeholders `?` and `$1` are both accepted, and syntax errors have a
//! position.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use plexus_model::{Error, Result};
use plexus_query::{check_depth, visit_expressions_mut};

use crate::errors::from_datafusion;
use crate::sql::dialect::PlexusDialect;
use crate::sql::names::name_of;

/// Maximum length of SQL text in bytes. Longer text consists of literal data, which belongs into a bulk
/// ingest.
const SQL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Maximum depth of calls of the parser, of which a bracket takes a few. [`check_depth`] counts the brackets.
const RECURSION_MAX: usize = 500;

/// Memory of a word or sign of a statement: as a token, and as a part of the syntax tree.
const TOKEN_BYTES: usize = 768;

/// Words and signs of a statement that any node takes.
const TOKENS_MIN: usize = 100_000;

/// Words and signs of a statement on a node whose queries have `memory_bytes` together. One statement may
/// take all of them.
pub(crate) fn tokens_max(memory_bytes: usize) -> usize {
    (memory_bytes / TOKEN_BYTES).max(TOKENS_MIN)
}

/// Checks that a text has at most so many words and signs, before they are made.
///
/// # Errors
/// `ResourceExhausted` when it may have more.
pub(crate) fn check_tokens(sql: &str, tokens_max: usize) -> Result<()> {
    if sql.len() <= tokens_max {
        return Ok(());
    }
    let (mut tokens, mut quote, mut in_word) = (0, None, false);
    for byte in sql.bytes() {
        match quote {
            Some(end) => quote = (byte != end).then_some(end),
            None if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                tokens += usize::from(!in_word);
                in_word = true;
            }
            None => {
                tokens += 1;
                in_word = false;
                quote = matches!(byte, b'\'' | b'"').then_some(byte);
            }
        }
    }
    match tokens > tokens_max {
        true => Err(Error::exhausted(format!(
            "a statement of about {tokens} words and signs: this node takes {tokens_max}. Load rows with a \
             bulk ingest, bind them as parameters, or write several statements"
        ))),
        false => Ok(()),
    }
}

/// Parses any number of statements. Placeholders `?` are numbered in order of appearance.
///
/// # Errors
/// `InvalidArgument` with the position of a syntax error.
pub(crate) fn statements(sql: &str) -> Result<VecDeque<Statement>> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a statement of {} bytes is longer than {SQL_BYTES_MAX}",
            sql.len()
        )));
    }
    let dialect = PlexusDialect;
    let mut tokens =
        Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| syntax_error(e.into()))?;
    let mut number = 0;
    for token in &mut tokens {
        if let Token::Placeholder(name) = &mut token.token
            && name == "?"
        {
            number += 1;
            *name = format!("${number}");
        }
    }
    check_depth(&tokens)?;
    quote_column_names(&mut tokens);
    let mut tokens = join_numbers(join_operators(tokens))?;
    tokens.push(end_of_text(sql));
    DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(from_datafusion)
}

/// Quotes columns called `key` and `index` in the column lists of `CREATE TABLE`. The parser expects the
/// indexes of another database there.
fn quote_column_names(tokens: &mut [TokenWithSpan]) {
    let is_word = |token: &Token, wanted: &[&str]| {
        matches!(token, Token::Word(word) if word.quote_style.is_none()
            && wanted.iter().any(|name| word.value.eq_ignore_ascii_case(name)))
    };
    let (mut is_create, mut depth, mut starts_item) = (false, 0_usize, false);
    let mut words_before = 0;
    for TokenWithSpan { token, .. } in tokens {
        let begins = std::mem::take(&mut starts_item);
        match token {
            Token::Whitespace(_) => starts_item = begins,
            Token::SemiColon => (is_create, depth, words_before) = (false, 0, 0),
            Token::LParen => {
                depth += 1;
                starts_item = depth == 1;
            }
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Comma => starts_item = depth == 1,
            token if begins && is_create && is_word(token, &["key", "index"]) => {
                if let Token::Word(word) = token {
                    word.value = word.value.to_lowercase();
                    word.quote_style = Some('"');
                    word.keyword = Keyword::NoKeyword;
                }
            }
            token => {
                is_create |= words_before == 0 && is_word(token, &["create"]);
                words_before += 1;
            }
        }
    }
}

/// Joins the vector operators `<->` and `<#>`, which the tokenizer splits into two tokens each.
fn join_operators(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
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

/// Joins numbers with underscores between digits, `1_000`, which the tokenizer takes for a number and a name.
///
/// # Errors
/// `InvalidArgument` for a number with letters behind it.
fn join_numbers(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let Token::Word(word) = &token.token else {
            joined.push(token);
            continue;
        };
        match joined.last_mut() {
            Some(TokenWithSpan { token: Token::Number(digits, _), span })
                if span.end == token.span.start && word.quote_style.is_none() =>
            {
                let is_digit = |c: char| c.is_ascii_digit();
                let groups: Vec<&str> = word.value.split('_').skip(1).collect();
                if !word.value.starts_with('_')
                    || groups.iter().any(|g| g.is_empty() || !g.chars().all(is_digit))
                {
                    let Location { line, column } = token.span.start;
                    return Err(Error::invalid(format!(
                        "a number is followed by letters: {digits}{} at Line: {line}, Column: {column}",
                        word.value
                    )));
                }
                digits.extend(groups);
                span.end = token.span.end;
            }
            _ => joined.push(token),
        }
    }
    Ok(joined)
}

/// An explicit token for the end of the text. The parser makes one up when it runs out of tokens, but without
/// a position, and its errors about incomplete statements would lack one too.
fn end_of_text(sql: &str) -> TokenWithSpan {
    let text = sql.trim_end();
    let line = text.lines().count().max(1) as u64;
    let column = text.lines().next_back().map_or(0, |line| line.chars().count()) as u64 + 1;
    let end = Location::new(line, column);
    TokenWithSpan::at(Token::EOF, end, end)
}

/// A parser error as an error of kind `InvalidArgument`.
fn syntax_error(error: ParserError) -> Error {
    from_datafusion(DataFusionError::SQL(Box::new(error), None))
}

/// Parses exactly one statement.
///
/// # Errors
/// `InvalidArgument` for a syntax error, an empty text, or several statements.
pub(crate) fn statement(sql: &str) -> Result<Statement> {
    let mut all = statements(sql)?;
    match (all.pop_front(), all.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Error::invalid("the statement is empty")),
        (Some(_), more) => {
            Err(Error::invalid(format!("one statement is expected here, {} were given", more + 1)))
        }
    }
}

/// Parses one statement that is not an extension of the query engine, such as `COPY`.
///
/// # Errors
/// Those of [`statement`], and `InvalidArgument` for extensions.
pub(crate) fn plain_statement(sql: &str) -> Result<ast::Statement> {
    match statement(sql)? {
        Statement::Statement(statement) => Ok(*statement),
        other => Err(Error::invalid(format!("{other} is not expected here"))),
    }
}

/// All identifiers in an expression, case folded.
///
/// # Errors
/// `InvalidArgument` for a syntax error.
pub(crate) fn identifiers(sql: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut add = |ident: &ast::Ident| names.insert(name_of(ident));
    let mut expr = expression(sql)?;
    let _: ControlFlow<()> = visit_expressions_mut(&mut expr, &mut |expr| {
        match expr {
            ast::Expr::Identifier(ident) => {
                add(ident);
            }
            ast::Expr::CompoundIdentifier(parts) => parts.iter().for_each(|part| {
                add(part);
            }),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    Ok(names)
}

/// Parses an expression.
///
/// # Errors
/// `InvalidArgument` for a syntax error.
pub(crate) fn expression(sql: &str) -> Result<ast::Expr> {
    let dialect = PlexusDialect;
    let tokens =
        Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| syntax_error(e.into()))?;
    check_depth(&tokens)?;
    let mut parser = Parser::new(&dialect).with_recursion_limit(RECURSION_MAX);
    parser = parser.with_tokens_with_locations(join_numbers(join_operators(tokens))?);
    let expr = parser.parse_expr().map_err(syntax_error)?;
    // What follows would be ignored.
    match parser.peek_token().token {
        Token::EOF => Ok(expr),
        _ => parser.expected("the end of the expression", parser.peek_token()).map_err(syntax_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_signs_are_counted_before_they_are_made() {
        let rows = |n: usize| format!("INSERT INTO t VALUES {}", vec!["(1, 'a, b (c)')"; n].join(", "));
        check_tokens(&rows(1_000), 9_000).unwrap();
        let error = check_tokens(&rows(1_000), 7_000).unwrap_err();
        assert!(error.message().contains("words and signs"), "{error}");
        // However long they are.
        check_tokens(&format!("SELECT '{}', \"{}\"", "x (".repeat(10_000), "y ".repeat(10_000)), 100)
            .unwrap();
        check_tokens(&"x".repeat(10_000), 2).unwrap();
    }

    #[test]
    fn placeholders_are_numbered_and_errors_have_a_position() {
        assert_eq!(statement("SELECT ?, ?").unwrap().to_string(), "SELECT $1, $2");
        let error = statement("SELECT 1 FRM t x y").unwrap_err();
        assert!(error.message().contains("Line: 1, Column:"), "{error}");
        for (sql, position) in [
            ("SELECT a FROM", "at Line: 1, Column: 14"),
            ("SELECT a\nFROM  \n", "at Line: 2, Column: 5"),
            ("COPY t TO", "at Line: 1, Column: 10"),
        ] {
            let error = statement(sql).unwrap_err();
            assert!(error.message().ends_with(position), "{error}");
        }
        assert!(statement(" ").unwrap_err().message().contains("the statement is empty"));
        assert!(statement("SELECT 1;").is_ok());
    }

    #[test]
    fn time_travel_and_the_generic_dialect_are_parsed() {
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
    fn numbers_may_have_underscores_but_no_letters() {
        assert_eq!(statement("SELECT 1_000_000, 1.5e3").unwrap().to_string(), "SELECT 1000000, 1.5e3");
        for sql in ["SELECT 1a", "SELECT 1_", "SELECT 1_000x", "SELECT 1__0"] {
            assert!(statement(sql).unwrap_err().message().contains("followed by letters"), "{sql}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let sql = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(statement(&sql).unwrap_err().message().contains("nested too deeply"));
    }
}
