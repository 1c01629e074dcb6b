//! Splits text into words.
//!
//! A word is a run of letters and digits. Chinese, Japanese and Korean have no spaces between words, so runs
//! of their characters become overlapping pairs, which find any part of a run as a phrase. A character that
//! stands alone is a word.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// The tokenizer.
#[derive(Clone, Default)]
pub(super) struct WordTokenizer;

/// The words of a text.
pub(super) struct Words<'a> {
    text: &'a str,
    /// Where to go on, in bytes.
    at: usize,
    /// Whether the character at `at` is the second of the pair before.
    in_pairs: bool,
    token: Token,
}

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = Words<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Words<'a> {
        Words { text, at: 0, in_pairs: false, token: Token::default() }
    }
}

/// Whether a character belongs to a script without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{1100}'..='\u{11ff}'     // Hangul Jamo
        | '\u{3005}'..='\u{3007}'   // iteration marks, ideographic zero
        | '\u{3040}'..='\u{30ff}'   // Hiragana, Katakana
        | '\u{3130}'..='\u{318f}'   // Hangul compatibility Jamo
        | '\u{31f0}'..='\u{31ff}'   // Katakana phonetic extensions
        | '\u{3400}'..='\u{4dbf}'   // CJK extension A
        | '\u{4e00}'..='\u{9fff}'   // CJK unified ideographs
        | '\u{ac00}'..='\u{d7af}'   // Hangul syllables
        | '\u{f900}'..='\u{faff}'   // CJK compatibility ideographs
        | '\u{20000}'..='\u{323af}' // CJK extensions B to H
    )
}

impl Words<'_> {
    /// The next word as a range of bytes.
    fn next_word(&mut self) -> Option<(usize, usize)> {
        loop {
            let rest = &self.text[self.at..];
            let first = rest.chars().next()?;
            if !first.is_alphanumeric() {
                self.at += first.len_utf8();
                self.in_pairs = false;
                continue;
            }
            let start = self.at;
            if !is_unspaced(first) {
                let ends = |c: char| !c.is_alphanumeric() || is_unspaced(c);
                self.at += rest.find(ends).unwrap_or(rest.len());
                self.in_pairs = false;
                return Some((start, self.at));
            }
            self.at += first.len_utf8();
            match rest.chars().nth(1).filter(|second| is_unspaced(*second) && second.is_alphanumeric()) {
                Some(second) => {
                    self.in_pairs = true;
                    return Some((start, self.at + second.len_utf8()));
                }
                // The last character of a run is in the pair before it.
                None if self.in_pairs => self.in_pairs = false,
                None => return Some((start, self.at)),
            }
        }
    }
}

impl TokenStream for Words<'_> {
    fn advance(&mut self) -> bool {
        self.token.position = self.token.position.wrapping_add(1);
        let Some((start, end)) = self.next_word() else {
            return false;
        };
        self.token.text.clear();
        self.token.text.push_str(&self.text[start..end]);
        (self.token.offset_from, self.token.offset_to) = (start, end);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tantivy::tokenizer::SimpleTokenizer;

    use super::*;

    fn words(text: &str) -> Vec<(String, usize)> {
        let mut tokenizer = WordTokenizer;
        let mut stream = tokenizer.token_stream(text);
        let mut words = Vec::new();
        while stream.advance() {
            words.push((stream.token().text.clone(), stream.token().position));
        }
        words
    }

    #[test]
    fn scripts_without_spaces_become_pairs() {
        let pairs = |text: &str| words(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        assert_eq!(pairs("全文検索"), ["全文", "文検", "検索"]);
        assert_eq!(pairs("a日本b 東"), ["a", "日本", "b", "東"]);
        assert_eq!(pairs("한국어 x"), ["한국", "국어", "x"]);
        assert_eq!(words("全文検")[1].1, 1);
    }

    proptest! {
        #[test]
        fn other_text_is_split_as_by_the_library(text in "[a-zA-Z0-9 .,'éß_-]{0,60}") {
            let mut library = SimpleTokenizer::default();
            let mut stream = library.token_stream(&text);
            let mut expected = Vec::new();
            while stream.advance() {
                expected.push((stream.token().text.clone(), stream.token().position));
            }
            prop_assert_eq!(words(&text), expected);
        }

        #[test]
        fn every_character_of_a_word_is_in_a_token(text in "[日本語a ]{0,20}") {
            let mut tokenizer = WordTokenizer;
            let mut stream = tokenizer.token_stream(&text);
            let mut covered = vec![false; text.len()];
            while stream.advance() {
                covered[stream.token().offset_from..stream.token().offset_to].fill(true);
            }
            for (at, c) in text.char_indices() {
                prop_assert_eq!(covered[at], c.is_alphanumeric());
            }
        }
    }
}
