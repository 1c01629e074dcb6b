//! How text becomes terms.

use plexus_model::{Error, Result};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, NgramTokenizer, RawTokenizer, RemoveLongFilter,
    SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, WhitespaceTokenizer,
};

/// Terms that are longer, in bytes, are left out.
const TERM_BYTES_MAX: usize = 255;
/// Of n-grams, in characters: each length makes a term of every letter.
const NGRAM_MAX: usize = 8;

/// A way to make terms of text, by its name.
///
/// `standard`: words in lower case. `whitespace`: what stands between spaces, as it is. `raw`: the text as one term.
/// `ngram(2,3)`: all sequences of so many characters, in lower case. `en_stem` and the like, for the languages in
/// [`LANGUAGES`]: words in lower case without their endings; `en_stop` leaves out frequent words besides. `folded`:
/// words in lower case without accents.
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

/// A token with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub term: String,
    /// Counted in tokens.
    pub position: u32,
    /// Bytes of the text.
    pub range: std::ops::Range<usize>,
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
    /// What texts are searched by where nothing is said.
    pub const DEFAULT: &str = "standard";

    /// # Errors
    /// `InvalidArgument` names what there is.
    pub fn named(name: &str) -> Result<Self> {
        let name = name.trim().to_ascii_lowercase();
        let words = || TextAnalyzer::builder(SimpleTokenizer::default()).filter(long()).filter(LowerCaser);
        let analyzer = match name.as_str() {
            "standard" => words().build(),
            "folded" => words().filter(AsciiFoldingFilter).build(),
            "whitespace" => TextAnalyzer::builder(WhitespaceTokenizer::default()).filter(long()).build(),
            "raw" => TextAnalyzer::builder(RawTokenizer::default()).filter(long()).build(),
            other => match other.strip_prefix("ngram(").and_then(|rest| rest.strip_suffix(')')) {
                Some(lengths) => ngram(lengths)?,
                None => of_language(other)?,
            },
        };
        Ok(Self { name, analyzer })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn tantivy(&self) -> TextAnalyzer {
        self.analyzer.clone()
    }

    /// The tokens of a text in their order.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
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

fn long() -> RemoveLongFilter {
    RemoveLongFilter::limit(TERM_BYTES_MAX)
}

fn unknown(name: &str) -> Error {
    let languages: Vec<&str> = LANGUAGES.iter().map(|(code, _)| *code).collect();
    Error::invalid(format!(
        "tokenizer {name:?} does not exist; there are standard, folded, whitespace, raw, ngram(2,3), and, for each of \
         the languages {}, one like en_stem",
        languages.join(", ")
    ))
}

fn of_language(name: &str) -> Result<TextAnalyzer> {
    let (code, kind) = name.split_once('_').ok_or_else(|| unknown(name))?;
    let (_, language) = LANGUAGES.iter().find(|(c, _)| *c == code).ok_or_else(|| unknown(name))?;
    let words = TextAnalyzer::builder(SimpleTokenizer::default()).filter(long()).filter(LowerCaser);
    match kind {
        "stem" => Ok(words.filter(Stemmer::new(*language)).build()),
        "stop" => match StopWordFilter::new(*language) {
            Some(stop) => Ok(words.filter(stop).filter(Stemmer::new(*language)).build()),
            None => Err(Error::invalid(format!("there is no list of stop words for tokenizer {name:?}"))),
        },
        _ => Err(unknown(name)),
    }
}

fn ngram(lengths: &str) -> Result<TextAnalyzer> {
    let wrong = || {
        Error::invalid(format!(
            "tokenizer ngram({lengths}): write ngram(2,3), with lengths from 1 to {NGRAM_MAX} in ascending order"
        ))
    };
    let (min, max) = lengths.split_once(',').ok_or_else(wrong)?;
    let min = min.trim().parse::<usize>().map_err(|_| wrong())?;
    let max = max.trim().parse::<usize>().map_err(|_| wrong())?;
    if max > NGRAM_MAX {
        return Err(wrong());
    }
    let tokenizer = NgramTokenizer::all_ngrams(min, max).map_err(|_| wrong())?;
    Ok(TextAnalyzer::builder(tokenizer).filter(LowerCaser).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(analyzer: &str, text: &str) -> Vec<String> {
        Analyzer::named(analyzer).unwrap().tokens(text).into_iter().map(|t| t.term).collect()
    }

    #[test]
    fn names_give_analyzers_and_others_say_what_there_is() {
        assert_eq!(terms("standard", "The Wings, fluttering!"), ["the", "wings", "fluttering"]);
        assert_eq!(terms("en_stem", "The Wings, fluttering!"), ["the", "wing", "flutter"]);
        assert_eq!(terms("en_stop", "The Wings, fluttering!"), ["wing", "flutter"]);
        assert_eq!(terms("de_stem", "Häuser"), ["haus"]);
        assert_eq!(terms("folded", "Häuser"), ["hauser"]);
        assert_eq!(terms("raw", "A b"), ["A b"]);
        assert_eq!(terms("whitespace", "A-1 b"), ["A-1", "b"]);
        assert_eq!(terms("ngram(2,3)", "ABC"), ["ab", "abc", "bc"]);
        for wrong in ["", "xx_stem", "en_lemma", "ngram(3,2)", "ngram(0,2)", "ngram(2,99)", "ngram(2)"] {
            let error = Analyzer::named(wrong).unwrap_err();
            assert!(error.message().contains("tokenizer"), "{error}");
        }
    }
}
