//! Splits scripts into statements.

use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::sql::dialect::PlexusDialect;

/// The statements of a script, which ends each with a semicolon. Semicolons in quotes and comments end none.
/// A script with a quote that does not end is one statement, whose error tells the place.
pub fn split_statements(script: &str) -> Vec<String> {
    let Ok(tokens) = Tokenizer::new(&PlexusDialect, script).tokenize_with_location() else {
        return vec![script.to_owned()];
    };
    let mut cursor = Cursor::new(script);
    let (mut statements, mut start, mut has_words) = (Vec::new(), 0, false);
    for token in &tokens {
        match token.token {
            Token::SemiColon => {
                let end = cursor.advance(token.span.start);
                if has_words {
                    statements.push(script[start..end].to_owned());
                }
                (start, has_words) = (end + 1, false);
            }
            Token::Whitespace(_) | Token::EOF => {}
            _ => has_words = true,
        }
    }
    if has_words {
        statements.push(script[start..].to_owned());
    }
    statements
}

/// A place in a text that moves forward.
struct Cursor<'a> {
    text: &'a str,
    /// The offset of the place in bytes, and its line and column from 1.
    offset: usize,
    line: u64,
    column: u64,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, offset: 0, line: 1, column: 1 }
    }

    /// Moves to a place that is not before the present one, and returns its offset.
    fn advance(&mut self, to: Location) -> usize {
        for character in self.text[self.offset..].chars() {
            if (self.line, self.column) >= (to.line, to.column) {
                break;
            }
            self.offset += character.len_utf8();
            match character {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        for (script, expected) in [
            (
                "SELECT ';' ; -- a; b\nSELECT \";\" /* ; */;\n;",
                vec!["SELECT ';' ", " -- a; b\nSELECT \";\" /* ; */"],
            ),
            ("select $$a;b$$; select e'it\\'s; ok'", vec!["select $$a;b$$", " select e'it\\'s; ok'"]),
            ("SELECT 'ü;', '\n;';\n  SELECT 2", vec!["SELECT 'ü;', '\n;'", "\n  SELECT 2"]),
            ("SELECT 'a; SELECT 2", vec!["SELECT 'a; SELECT 2"]),
            (" ; -- nothing\n", vec![]),
        ] {
            assert_eq!(split_statements(script), expected, "{script}");
        }
    }
}
