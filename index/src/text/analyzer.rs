//! Analyzers: how text becomes terms.

use plexus_model::{Error, Result, cut};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, NgramTokenizer, RawTokenizer, RemoveLongFilter, Stemmer,
    StopWordFilter, TextAnalyzer, TextAnalyzerBuilder, Tokenizer, WhitespaceTokenizer,
};

use super::parse::FUZZY_CHARS_MAX;
use super::suggest::TermForm;
use super::word_tokenizer::WordTokenizer;

/// Longer terms are not indexed, in bytes. No query can have one: this is the longest query.
const TERM_BYTES_MAX: usize = super::parse::QUERY_BYTES_MAX;
/// The longest n-gram, in characters. Each length adds one term for every character of the text.
const NGRAM_CHARS_MAX: usize = 8;

/// A named analyzer, which splits text into terms.
///
/// | name | terms |
/// |---|---|
/// | `standard` | words in lower case; Chinese, Japanese and Korean text in pairs of characters |
/// | `whitespace` | the text between white space, unchanged |
/// | `keyword` | the whole text as one term |
/// | `ngram(2,3)` | all sequences of 2 to 3 characters, in lower case |
/// | `ascii_folding` | words in lower case, without accents |
/// | `en_stem` | words in lower case, stemmed |
/// | `en_stop` | the same without stop words |
///
/// `en` stands for any of the languages `ar`, `da`, `nl`, `en`, `fi`, `fr`, `de`, `el`, `hu`, `it`, `no`,
/// `pt`, `ro`, `ru`, `es`, `sv`, `ta` and `tr`; not all of them have a list of stop words.
#[derive(Clone)]
pub struct Analyzer {
    name: String,
    analyzer: TextAnalyzer,
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Analyzer").field(&self.name).finish()
    }
}

impl PartialEq for Analyzer {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// An occurrence of a term in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) term: String,
    /// Position in the text, counted in tokens.
    pub(crate) position: u32,
    /// Range in the text, in bytes.
    pub(crate) range: std::ops::Range<usize>,
}

const LANGUAGES: [(&str, Language); 18] = [
    ("ar", Language::Arabic),
    ("da", Language::Danish),
    ("nl", Language::Dutch),
    ("en", Language::English),
    ("fi", Language::Finnish),
    ("fr", Language::French),
    ("de", Language::German),
    ("el", Language::Greek),
    ("hu", Language::Hungarian),
    ("it", Language::Italian),
    ("no", Language::Norwegian),
    ("pt", Language::Portuguese),
    ("ro", Language::Romanian),
    ("ru", Language::Russian),
    ("es", Language::Spanish),
    ("sv", Language::Swedish),
    ("ta", Language::Tamil),
    ("tr", Language::Turkish),
];

impl Analyzer {
    /// The name of the analyzer that is used when none is given.
    pub const DEFAULT: &str = "standard";

    /// The analyzer of a name. Case and surrounding white space do not matter.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none. The message lists the analyzers that exist.
    pub fn named(name: &str) -> Result<Self> {
        let name = name.trim().to_ascii_lowercase();
        let analyzer = match name.as_str() {
            "standard" => lower_case_words().build(),
            "ascii_folding" => lower_case_words().filter(AsciiFoldingFilter).build(),
            "whitespace" => {
                TextAnalyzer::builder(WhitespaceTokenizer::default()).filter(term_length_filter()).build()
            }
            "keyword" => TextAnalyzer::builder(RawTokenizer::default()).filter(term_length_filter()).build(),
            other => match other.strip_prefix("ngram(").and_then(|rest| rest.strip_suffix(')')) {
                Some(lengths) => ngram_analyzer(lengths)?,
                None => language_analyzer(other)?,
            },
        };
        Ok(Self { name, analyzer })
    }

    /// Whether the analyzer splits text into words.
    pub(crate) fn splits_words(&self) -> bool {
        !matches!(self.name.as_str(), "whitespace" | "keyword")
    }

    /// Whether terms are words, or whole values, and not parts of them.
    pub(crate) fn has_words(&self) -> bool {
        !self.name.starts_with("ngram(")
    }

    /// The terms that a text may be the start of, or within an edit distance of if that is not zero.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that is not one word, if the analyzer splits words.
    pub fn term_form(&self, text: &str, distance: u8) -> Result<TermForm> {
        if distance > 0 {
            return match self.tokens(text).as_slice() {
                [token] if token.term.chars().count() > FUZZY_CHARS_MAX => Err(Error::invalid(format!(
                    "{:?}: a mistyped word has {FUZZY_CHARS_MAX} characters at most",
                    cut(text, 40)
                ))),
                [token] => Ok(TermForm::Similar(token.term.clone(), distance)),
                tokens => Err(Error::invalid(format!(
                    "{:?} is {} words: one is needed",
                    cut(text, 80),
                    tokens.len()
                ))),
            };
        }
        let prefix = self.normalize(text);
        match self.splits_words() && prefix.contains(|c: char| !c.is_alphanumeric()) {
            true => Err(Error::invalid(format!("{:?} is not the start of a single word", cut(text, 80)))),
            false => Ok(TermForm::Prefix(prefix)),
        }
    }

    /// A part of a word as it is at the start of terms: in their case and without accents, but not stemmed.
    pub(crate) fn normalize(&self, text: &str) -> String {
        let mut fold = match self.name.as_str() {
            "whitespace" | "keyword" => return text.to_owned(),
            "ascii_folding" => TextAnalyzer::builder(RawTokenizer::default())
                .filter(LowerCaser)
                .filter(AsciiFoldingFilter)
                .build(),
            _ => TextAnalyzer::builder(RawTokenizer::default()).filter(LowerCaser).build(),
        };
        let mut stream = fold.token_stream(text);
        stream.next().map(|token| token.text.clone()).unwrap_or_default()
    }

    /// The name in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn to_tantivy(&self) -> TextAnalyzer {
        self.analyzer.clone()
    }

    /// Calls `take` for each term of a text, in order, until it returns false.
    pub fn each_term(&self, text: &str, mut take: impl FnMut(&str) -> bool) {
        let mut analyzer = self.analyzer.clone();
        let mut stream = analyzer.token_stream(text);
        while let Some(token) = stream.next() {
            if !take(&token.text) {
                return;
            }
        }
    }

    /// The tokens of a text in order.
    pub(crate) fn tokens(&self, text: &str) -> Vec<Token> {
        let mut analyzer = self.analyzer.clone();
        let mut stream = analyzer.token_stream(text);
        let mut tokens = Vec::new();
        while let Some(token) = stream.next() {
            tokens.push(Token {
                term: token.text.clone(),
                position: u32::try_from(token.position).unwrap_or(u32::MAX),
                range: token.offset_from..token.offset_to,
            });
        }
        tokens
    }
}

fn term_length_filter() -> RemoveLongFilter {
    RemoveLongFilter::limit(TERM_BYTES_MAX)
}

fn lower_case_words() -> TextAnalyzerBuilder<impl Tokenizer> {
    TextAnalyzer::builder(WordTokenizer).filter(term_length_filter()).filter(LowerCaser)
}

fn unknown_tokenizer(name: &str) -> Error {
    let languages: Vec<&str> = LANGUAGES.iter().map(|(code, _)| *code).collect();
    Error::invalid(format!(
        "tokenizer {name:?} does not exist; there are standard, ascii_folding, whitespace, keyword, \
         ngram(2,3), and tokenizers such as en_stem and en_stop for the languages {}",
        languages.join(", ")
    ))
}

/// The analyzer of a name like `en_stem`.
fn language_analyzer(name: &str) -> Result<TextAnalyzer> {
    let (code, kind) = name.split_once('_').ok_or_else(|| unknown_tokenizer(name))?;
    let (_, language) = LANGUAGES.iter().find(|(c, _)| *c == code).ok_or_else(|| unknown_tokenizer(name))?;
    let words = lower_case_words();
    match kind {
        "stem" => Ok(words.filter(Stemmer::new(*language)).build()),
        "stop" => match StopWordFilter::new(*language) {
            Some(stop) => Ok(words.filter(stop).filter(Stemmer::new(*language)).build()),
            None => {
                Err(Error::invalid(format!("tokenizer {name:?}: the language has no list of stop words")))
            }
        },
        _ => Err(unknown_tokenizer(name)),
    }
}

/// The analyzer `ngram(lengths)`, where `lengths` are two numbers of characters.
fn ngram_analyzer(lengths: &str) -> Result<TextAnalyzer> {
    let invalid = || {
        Error::invalid(format!(
            "tokenizer ngram({lengths}): the lengths must be two ascending numbers from 1 to \
             {NGRAM_CHARS_MAX}, as in ngram(2,3)"
        ))
    };
    let (min, max) = lengths.split_once(',').ok_or_else(invalid)?;
    let min = min.trim().parse::<usize>().map_err(|_| invalid())?;
    let max = max.trim().parse::<usize>().map_err(|_| invalid())?;
    if max > NGRAM_CHARS_MAX {
        return Err(invalid());
    }
    let tokenizer = NgramTokenizer::all_ngrams(min, max).map_err(|_| invalid())?;
    Ok(TextAnalyzer::builder(tokenizer).filter(LowerCaser).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(analyzer: &str, text: &str) -> Vec<String> {
        Analyzer::named(analyzer).unwrap().tokens(text).into_iter().map(|t| t.term).collect()
    }

    #[test]
    fn names_select_analyzers_and_unknown_names_are_rejected() {
        assert_eq!(terms("standard", "The Wings, fluttering!"), ["the", "wings", "fluttering"]);
        assert_eq!(terms("en_stem", "The Wings, fluttering!"), ["the", "wing", "flutter"]);
        assert_eq!(terms("en_stop", "The Wings, fluttering!"), ["wing", "flutter"]);
        assert_eq!(terms("de_stem", "Häuser"), ["haus"]);
        assert_eq!(terms("ascii_folding", "Häuser"), ["hauser"]);
        assert_eq!(terms("keyword", "A b"), ["A b"]);
        assert_eq!(terms("whitespace", "A-1 b"), ["A-1", "b"]);
        assert_eq!(terms("ngram(2,3)", "ABC"), ["ab", "abc", "bc"]);
        for name in ["", "xx_stem", "en_lemma", "ngram(3,2)", "ngram(0,2)", "ngram(2,99)", "ngram(2)", "raw"]
        {
            let error = Analyzer::named(name).unwrap_err();
            assert!(error.message().contains("tokenizer"), "{error}");
        }
    }
}
