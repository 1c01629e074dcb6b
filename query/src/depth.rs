//! How deep the syntax tree of a statement may be, decided by its tokens, before there is a tree.
//!
//! Trees are walked, copied and dropped by recursion, in the parser, in the planner and here. Brackets nest,
//! and so do chains: `1 + 1 + 1` is a sum of a sum, and casts, subscripts, set operations, joins and pipes
//! are no different. One pass over the tokens, without recursion, finds a bound of the depth, so that no tree
//! is made of a statement that is too deep.
//!
//! Threads have 64 MiB of stack (`STACK_BYTES` of the node), so that each of [`DEPTH_MAX`] levels may take 64
//! KiB.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use plexus_model::{Error, Result};

/// Most levels of a tree.
const DEPTH_MAX: usize = 1_000;

/// Most operators in a row. The engine simplifies such a chain in a time that grows with the cube of its
/// length: two seconds for a sum of 200 terms.
const OPERATORS_MAX: usize = 250;

/// Most brackets around a token, and most types inside of each other. The parser recurses for them.
const BRACKETS_MAX: usize = 100;

/// Most conditions that one chain of `AND` and `OR` may have. Such a chain is balanced after it is parsed, so
/// that it adds little to the depth.
const CONDITIONS_MAX: usize = 20_000;

/// What has been read between two brackets.
#[derive(Default)]
struct Level {
    /// Whether `CASE` opened it, which `END` closes.
    is_case: bool,
    /// Set operations, joins and pipes so far: each is above all that is before it.
    spine: usize,
    /// Depth of the present part: of an item of a list, of an operand of `AND`, of a clause.
    part: usize,
    /// Depth of the deepest part so far.
    deepest: usize,
    /// Operators in the present part, without those in brackets.
    operators: usize,
    /// `AND` and `OR` since the last item of a list began.
    conditions: usize,
    /// `BETWEEN`s that wait for their `AND`.
    betweens: usize,
    /// Types like `ARRAY<` that are open.
    types: usize,
    /// Whether the commas are those of `FROM`, which join.
    in_from: bool,
}

impl Level {
    /// Begins another part.
    fn next_part(&mut self) {
        self.deepest = self.deepest.max(self.part);
        (self.part, self.operators) = (0, 0);
    }

    /// Reads an operator: a level above what is before it in the part.
    fn operator(&mut self) {
        self.part += 1;
        self.operators += 1;
    }

    fn depth(&self) -> usize {
        self.spine + self.deepest.max(self.part)
    }
}

/// Fails for a statement whose tree would be too deep.
///
/// # Errors
/// `InvalidArgument` with the place where it becomes so.
pub fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    let mut before: Option<&Token> = None;
    let tokens = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    for TokenWithSpan { token, span } in tokens {
        let too_deep = |what: String| {
            Err(Error::invalid(format!(
                "{what}: write several statements, or load the data into a table at Line: {}, Column: {}",
                span.start.line, span.start.column
            )))
        };
        read(token, before, &mut levels);
        before = Some(token);
        let Some(level) = levels.last() else {
            return Ok(());
        };
        if levels.len() > BRACKETS_MAX || level.types > BRACKETS_MAX {
            return too_deep(format!(
                "the statement is nested too deeply, in more than {BRACKETS_MAX} brackets"
            ));
        }
        if level.conditions > CONDITIONS_MAX {
            return too_deep(format!("a condition has more than {CONDITIONS_MAX} parts"));
        }
        if level.operators > OPERATORS_MAX {
            return too_deep(format!(
                "the statement is nested too deeply, with more than {OPERATORS_MAX} operators in a row"
            ));
        }
        if level.depth() > DEPTH_MAX {
            return too_deep(format!("the statement is nested too deeply, in more than {DEPTH_MAX} levels"));
        }
    }
    Ok(())
}

fn read(token: &Token, before: Option<&Token>, levels: &mut Vec<Level>) {
    let opens_type = matches!(before, Some(Token::Word(word))
        if matches!(word.keyword, Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP | Keyword::NESTED));
    let is_case = levels.last().is_some_and(|level| level.is_case);
    match token {
        Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
        Token::RParen | Token::RBracket | Token::RBrace => close(levels, *token == Token::RBracket),
        Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::CASE => {
            levels.push(Level { is_case: true, ..Level::default() });
        }
        Token::Word(word) if word.keyword == Keyword::END && is_case => close(levels, false),
        token => {
            if let Some(level) = levels.last_mut() {
                read_in(level, token, before, opens_type);
            }
        }
    }
}

/// Closes the last level. A subscript is above what it is applied to.
fn close(levels: &mut Vec<Level>, is_subscript: bool) {
    if levels.len() < 2 {
        return;
    }
    if let (Some(closed), Some(around)) = (levels.pop(), levels.last_mut()) {
        if is_subscript {
            around.operator();
        }
        around.part = around.part.max(closed.depth() + 1);
    }
}

fn read_in(level: &mut Level, token: &Token, before: Option<&Token>, opens_type: bool) {
    match token {
        Token::SemiColon => *level = Level::default(),
        Token::Comma if level.in_from => level.spine += 1,
        Token::Comma => {
            level.next_part();
            level.conditions = 0;
        }
        Token::Lt if opens_type => level.types += 1,
        Token::Gt if level.types > 0 => level.types -= 1,
        Token::ShiftRight if level.types > 0 => level.types = level.types.saturating_sub(2),
        Token::VerticalBarRightAngleBracket => {
            level.next_part();
            level.spine += 1;
        }
        Token::Word(word) if word.quote_style.is_none() => {
            read_word(
                level,
                word.keyword,
                matches!(before, Some(Token::Word(word)) if word.keyword == Keyword::DISTINCT),
            );
        }
        Token::Word(_)
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::DollarQuotedString(_)
        | Token::Placeholder(_)
        | Token::EOF => {}
        // All others are operators.
        _ => level.operator(),
    }
}

fn read_word(level: &mut Level, keyword: Keyword, is_distinct: bool) {
    match keyword {
        Keyword::NoKeyword => {}
        Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS | Keyword::JOIN => {
            level.next_part();
            level.spine += 1;
        }
        Keyword::AND if level.betweens > 0 => level.betweens -= 1,
        Keyword::AND | Keyword::OR => {
            level.next_part();
            level.conditions += 1;
        }
        // IS DISTINCT FROM
        Keyword::FROM if is_distinct => {}
        Keyword::FROM => {
            level.next_part();
            level.in_from = true;
        }
        Keyword::SELECT
        | Keyword::WHERE
        | Keyword::GROUP
        | Keyword::HAVING
        | Keyword::QUALIFY
        | Keyword::WINDOW
        | Keyword::ORDER
        | Keyword::LIMIT
        | Keyword::VALUES
        | Keyword::SET
        | Keyword::RETURNING => {
            level.next_part();
            level.in_from = false;
            level.conditions = 0;
        }
        Keyword::ON | Keyword::USING | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => level.next_part(),
        Keyword::BETWEEN => {
            level.betweens += 1;
            level.operator();
        }
        _ => level.operator(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    fn is_fine(sql: &str) -> bool {
        check_depth(&Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap()).is_ok()
    }

    #[test]
    fn chains_and_brackets_are_bounded() {
        let n = 10_000;
        for sql in [
            format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
            format!("SELECT 1{}", "+1".repeat(n)),
            format!("SELECT 'a'{}", "||'b'".repeat(n)),
            format!("SELECT {}true", "NOT ".repeat(n)),
            format!("SELECT {}1", "- ".repeat(n)),
            format!("SELECT {}'1 day'", "INTERVAL ".repeat(n)),
            format!("{}SELECT 1", "EXPLAIN ".repeat(n)),
            format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(n), ">".repeat(n)),
            format!("SELECT CAST(NULL AS INT{})", "[]".repeat(n)),
            format!("SELECT CAST(NULL AS {}INT{})", "STRUCT<a ".repeat(n), ">".repeat(n)),
            format!("SELECT 1{}", "::int".repeat(n)),
            format!("SELECT a{}", "[1]".repeat(n)),
            format!("SELECT a{} FROM t", ".a".repeat(n)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(n)),
            format!("SELECT 1 FROM t{}", " CROSS JOIN t".repeat(n)),
            format!("SELECT 1 FROM t{}", ", t".repeat(n)),
            format!("FROM t{}", " |> LIMIT 1".repeat(n)),
            format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(n), " END".repeat(n)),
            format!("SELECT a{}", " BETWEEN 1 AND 2".repeat(n)),
            format!("SELECT a{}", " IS NULL".repeat(n)),
            format!("SELECT a = 1{}", " OR a = 2".repeat(3 * n)),
            // Depths in each other add up.
            format!("SELECT {}1{}", "(".repeat(50), &format!("{})", "+1".repeat(50)).repeat(50)),
        ] {
            assert!(!is_fine(&sql), "{}", &sql[..60]);
        }
    }

    #[test]
    fn what_is_long_but_flat_is_fine() {
        let n = 10_000;
        for sql in [
            format!("SELECT 1{}", ", a + 1 AS b".repeat(n)),
            format!("SELECT a = 1{}", " OR a = 2".repeat(n)),
            format!("SELECT a FROM t WHERE a IN (1{})", ", -2".repeat(n)),
            format!("INSERT INTO t VALUES (1, 2){}", ", (1 + 1, abs(-2))".repeat(n)),
            format!("SELECT CASE a {} END", "WHEN 1 + 1 THEN 2 ".repeat(n)),
            format!(
                "CREATE TABLE t (a INT NOT NULL{})",
                ", b DECIMAL(1, 2) DEFAULT 1 CHECK (b > 0)".repeat(n)
            ),
            "SELECT 1; ".repeat(n),
            format!("SELECT 1{}", " UNION ALL SELECT a FROM t WHERE b = 1 AND c = 2".repeat(900)),
            format!("SELECT a + 1 FROM (SELECT 1{}) t", " UNION ALL SELECT 1".repeat(900)),
        ] {
            assert!(is_fine(&sql), "{}", &sql[..60]);
        }
    }
}
