//! The query language of full-text search.
//!
//! | query | matches |
//! |---|---|
//! | `wing flutter` | either word |
//! | `+wing -flutter`, `AND`, `OR`, `NOT`, `( )` | Boolean combinations |
//! | `"wing flutter"` | the words next to each other |
//! | `"wing flutter"~2` | the words within a distance |
//! | `flut*`, `fl*er`, `fl?tter` | words of a form |
//! | `flutter~1` | words within an edit distance, the nearer the better |
//! | `title:/fl.*r/` | words that a regular expression matches as a whole |
//! | `title:wing` | a word in one field |
//! | `wing^2` | a word whose score counts twice |
//!
//! A word that the analyzer splits into several tokens is a phrase. The grammar is that of tantivy, except
//! for wildcards and fuzzy words. What is not well-formed is taken for words: see [`Syntax`].

use std::cell::Cell;

use plexus_model::{Error, Result, cut};
use tantivy::query_grammar::{
    Delimiter, Occur, UserInputAst, UserInputLeaf, UserInputLiteral, parse_query as parse_strict,
    parse_query_lenient,
};

use super::Analyzer;
use super::query::{MinimumShouldMatch, Pattern, ScoredTerm, TextQuery};

/// Size of a query in bytes at most. It limits the time of parsing, which precedes the count of the terms.
pub(super) const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Levels of nesting at most. The parser of the grammar is recursive and would overflow the stack.
const NESTING_MAX: usize = 32;
/// Terms of a query at most: each needs a cursor in every segment.
const TERMS_MAX: usize = 1_024;
/// The largest product of nested boosts.
const BOOST_MAX: f32 = 1e6;
/// The largest edit distance of a fuzzy word.
pub const EDIT_DISTANCE_MAX: u8 = 2;

/// What stands for any characters, and for one.
const WILDCARDS: [char; 2] = ['*', '?'];
/// Size of a word with wildcards in bytes at most. Each term is compared with it.
const WILDCARDS_BYTES_MAX: usize = 256;

/// Characters of a fuzzy word at most. Its automaton takes about 100 KB for each.
pub(super) const FUZZY_CHARS_MAX: usize = 64;
/// Words with wildcards and regular expressions of a query at most. Each is compared with all terms.
const PATTERNS_MAX: usize = 32;

/// How a query is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Syntax {
    /// Every text is a query, as people type it. Operators count where they are well-formed; anything else is
    /// words: `don't`, `10:30`, an address, a quote that is not closed.
    #[default]
    Lenient,
    /// A text that is not well-formed is an error.
    Strict,
}

/// What a query means beside its text.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryOptions {
    /// How it is read.
    pub syntax: Syntax,
    /// How many of its words, of those that are neither required nor excluded, a row must have. `None` for
    /// one, or for none if another word is required.
    pub minimum: Option<MinimumShouldMatch>,
}

impl From<Syntax> for QueryOptions {
    fn from(syntax: Syntax) -> Self {
        Self { syntax, minimum: None }
    }
}

/// A field as a query sees it. Its position among the fields is its position in the index.
#[derive(Clone, Debug)]
pub struct QueryField {
    /// What queries call it; empty if they cannot.
    pub name: String,
    /// Makes terms of the words that are searched in it: the analyzer that its texts were indexed with.
    pub analyzer: Analyzer,
    /// Factor of the scores of words without a field name; `None` if such words are not searched in it.
    pub boost: Option<f32>,
}

/// Parses a query over fields. A word becomes the terms that the analyzer of each field makes of it.
///
/// # Errors
/// `InvalidArgument` when the query is too long; if its syntax is strict, also when it is malformed or too
/// deep, or names an unknown field. The message says where.
pub fn parse_query(text: &str, options: impl Into<QueryOptions>, fields: &[QueryField]) -> Result<TextQuery> {
    let QueryOptions { syntax, minimum } = options.into();
    let fail = |what: String| Error::invalid(format!("text query {:?}: {what}", cut(text, 80)));
    if text.len() > QUERY_BYTES_MAX {
        return Err(fail(format!("{} bytes are more than {QUERY_BYTES_MAX}", text.len())));
    }
    let mut lowering = Lowering { fields, syntax, terms: 0, patterns: Cell::new(0) };
    let strict = lowering.parse(text, minimum);
    let query = match (strict, syntax) {
        (Ok(query), _) => query,
        (Err(error), Syntax::Strict) => return Err(fail(error.message().to_owned())),
        (Err(_), Syntax::Lenient) => {
            lowering.terms = 0;
            lowering.patterns.set(0);
            lowering.pieces(text, minimum).map_err(|e| fail(e.message().to_owned()))?
        }
    };
    Ok(query.unwrap_or_else(TextQuery::match_none))
}

/// Splits a text at white space outside of quotes. A quote that is not closed is a character like others.
fn split(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end_of_word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        // A quote within the word takes in everything up to the next one.
        let quoted = rest[..end_of_word].find('"').and_then(|open| {
            let close = rest[open + 1..].find('"')? + open + 1;
            let after = &rest[close + 1..];
            Some(close + 1 + after.find(char::is_whitespace).unwrap_or(after.len()))
        });
        let (piece, after) = rest.split_at(quoted.unwrap_or(end_of_word));
        pieces.push(piece);
        rest = after.trim_start();
    }
    pieces
}

/// The position of the character, counted from 1, at which the nesting exceeds its limit.
fn nesting_exceeded_at(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut last = ' ';
    for (position, letter) in text.chars().enumerate() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            // A sequence of signs parses as nested clauses.
            '-' | '+' if last == letter => depth += 1,
            _ => {}
        }
        last = letter;
        if depth > NESTING_MAX {
            return Some(position + 1);
        }
    }
    // So does a sequence of NOT.
    let negations = text.split_whitespace().filter(|word| *word == "NOT").count();
    (negations > NESTING_MAX).then_some(1)
}

/// Translates the syntax tree of the grammar to a [`TextQuery`].
struct Lowering<'a> {
    fields: &'a [QueryField],
    syntax: Syntax,
    /// Number of terms so far.
    terms: usize,
    /// Number of patterns so far.
    patterns: Cell<usize>,
}

impl Lowering<'_> {
    /// Parses a text that is well-formed.
    fn parse(&mut self, text: &str, minimum: Option<MinimumShouldMatch>) -> Result<Option<TextQuery>> {
        if let Some(position) = nesting_exceeded_at(text) {
            return Err(Error::invalid(format!(
                "it is nested more than {NESTING_MAX} times, at character {position}"
            )));
        }
        let ast = parse_strict(text).map_err(|_| {
            let errors = parse_query_lenient(text).1;
            match errors.into_iter().next() {
                Some(error) => {
                    let before = text.get(..error.pos.min(text.len())).unwrap_or(text);
                    Error::invalid(format!("{} at character {}", error.message, before.chars().count() + 1))
                }
                None => Error::invalid("it cannot be parsed"),
            }
        })?;
        match ast {
            UserInputAst::Clause(clauses) => self.clauses(clauses, 1.0, minimum),
            ast => self.lower(ast, 1.0),
        }
    }

    /// Reads a text piece by piece. A piece that is well-formed means what it says, any other is words.
    fn pieces(&mut self, text: &str, minimum: Option<MinimumShouldMatch>) -> Result<Option<TextQuery>> {
        let (mut must, mut should, mut must_not) = (vec![], vec![], vec![]);
        for piece in split(text) {
            if matches!(piece, "AND" | "OR" | "NOT") {
                continue;
            }
            let (occur, bare) = match piece.as_bytes().first() {
                Some(b'+') => (Occur::Must, &piece[1..]),
                Some(b'-') => (Occur::MustNot, &piece[1..]),
                _ => (Occur::Should, piece),
            };
            let before = self.terms;
            // What a question ends with is no part of its last word.
            let asked = bare.trim_end_matches('?');
            let query = match self.parse(if asked.is_empty() { bare } else { asked }, None) {
                Ok(query) => query,
                Err(_) => {
                    self.terms = before;
                    self.words(bare)?
                }
            };
            match occur {
                Occur::Must => must.extend(query),
                Occur::MustNot => must_not.extend(query),
                Occur::Should => should.extend(query),
            }
        }
        Ok(self.combine(must, should, must_not, minimum))
    }

    /// The words of a text that is not well-formed: each of them may match. A field before them, and a boost
    /// behind them, are what they are in one that is.
    fn words(&mut self, text: &str) -> Result<Option<TextQuery>> {
        let (fields, text) = match text.split_once(':').map(|(name, text)| (self.searched(Some(name)), text))
        {
            Some((Ok(fields), text)) if !text.is_empty() => (fields, text),
            _ => (self.defaults(), text),
        };
        let boosted = text.rsplit_once('^').and_then(|(text, factor)| {
            Some((text, factor.parse().ok().filter(|factor| (0.0..=BOOST_MAX).contains(factor))?))
        });
        let (text, factor) = boosted.unwrap_or((text, 1.0));
        let mut queries = Vec::new();
        for (field, boost) in fields.into_iter().map(|(field, boost)| (field, boost * factor)) {
            let tokens = self.fields[field].analyzer.tokens(text);
            self.count(tokens.len())?;
            queries.extend(tokens.iter().map(|token| term_query(field, &token.term, boost)));
        }
        Ok(disjunction(queries))
    }

    /// The fields that words without a field name are searched in, each with its boost.
    fn defaults(&self) -> Vec<(usize, f32)> {
        let fields = self.fields.iter().enumerate();
        fields.filter_map(|(at, field)| Some((at, field.boost?))).collect()
    }

    /// Rows that have a text.
    fn everything(&self, boost: f32) -> TextQuery {
        TextQuery::All { fields: self.defaults().into_iter().map(|(field, _)| field).collect(), boost }
    }

    /// Clauses together; `None` if there are none. If all of them exclude, the query is for all other rows.
    fn combine(
        &self,
        mut must: Vec<TextQuery>,
        mut should: Vec<TextQuery>,
        must_not: Vec<TextQuery>,
        minimum: Option<MinimumShouldMatch>,
    ) -> Option<TextQuery> {
        if let Some(minimum) = minimum.filter(|_| should.len() > 1) {
            let queries = std::mem::take(&mut should);
            must.push(TextQuery::AtLeast { count: minimum.of(queries.len()), queries });
        }
        match (must.is_empty(), should.is_empty(), must_not.is_empty()) {
            (true, true, true) => None,
            (true, false, true) => disjunction(should),
            (true, true, false) => {
                Some(TextQuery::Bool { must: vec![self.everything(0.0)], should, must_not })
            }
            _ => Some(TextQuery::Bool { must, should, must_not }),
        }
    }

    /// Counts patterns.
    fn count_pattern(&self) -> Result<()> {
        self.patterns.set(self.patterns.get() + 1);
        match self.patterns.get() > PATTERNS_MAX {
            true => Err(Error::invalid(format!("it has more than {PATTERNS_MAX} words with wildcards"))),
            false => Ok(()),
        }
    }

    /// Counts terms.
    fn count(&mut self, terms: usize) -> Result<()> {
        self.terms += terms;
        if self.terms > TERMS_MAX {
            return Err(Error::invalid(format!("it has more than {TERMS_MAX} terms")));
        }
        Ok(())
    }

    /// Translates a node. `None` if nothing of it remains, for example because all words are stop words.
    fn lower(&mut self, ast: UserInputAst, boost: f32) -> Result<Option<TextQuery>> {
        match ast {
            UserInputAst::Boost(inner, factor) => {
                let factor = factor.into_inner() as f32;
                let boost = boost * factor;
                if !(0.0..=BOOST_MAX).contains(&boost) {
                    return Err(Error::invalid(format!(
                        "^{factor}: the product of all boosts must be from 0 to {BOOST_MAX}"
                    )));
                }
                self.lower(*inner, boost)
            }
            UserInputAst::Clause(clauses) => self.clauses(clauses, boost, None),
            UserInputAst::Leaf(leaf) => match *leaf {
                UserInputLeaf::All => Ok(Some(self.everything(boost))),
                UserInputLeaf::Literal(literal) => self.literal(literal, boost),
                UserInputLeaf::Range { .. } => {
                    Err(Error::invalid("ranges are not supported; use the SQL filter"))
                }
                UserInputLeaf::Set { field, elements } => {
                    let literal = |phrase| UserInputLiteral {
                        field_name: field.clone(),
                        phrase,
                        delimiter: Delimiter::DoubleQuotes,
                        slop: 0,
                        prefix: false,
                    };
                    let queries = elements.into_iter().map(|element| self.literal(literal(element), boost));
                    let queries = queries.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                    Ok(disjunction(queries))
                }
                UserInputLeaf::Exists { field } => Err(Error::invalid(format!(
                    "{field}:* is not supported; use IS NOT NULL in the SQL filter"
                ))),
                UserInputLeaf::Regex { field, pattern } => self.regular_expression(field, pattern, boost),
            },
        }
    }

    fn clauses(
        &mut self,
        clauses: Vec<(Option<Occur>, UserInputAst)>,
        boost: f32,
        minimum: Option<MinimumShouldMatch>,
    ) -> Result<Option<TextQuery>> {
        let (mut must, mut should, mut must_not) = (vec![], vec![], vec![]);
        for (occur, clause) in clauses {
            let Some(query) = self.lower(clause, boost)? else {
                continue;
            };
            match (occur.unwrap_or(Occur::Should), query) {
                // `alpha AND NOT beta`: what a clause only excludes, the clauses beside it must not have
                // either.
                (Occur::Must, query) if only_excludes(&query) => must_not.extend(excluded(query)),
                (Occur::Must, query) => must.push(query),
                (Occur::Should, query) => should.push(query),
                (Occur::MustNot, query) => must_not.push(query),
            }
        }
        Ok(self.combine(must, should, must_not, minimum))
    }

    fn literal(&mut self, literal: UserInputLiteral, boost: f32) -> Result<Option<TextQuery>> {
        let UserInputLiteral { field_name, phrase, delimiter, slop, prefix } = literal;
        if prefix {
            return Err(Error::invalid("a phrase with a prefix as its last word is not supported"));
        }
        let fields = self.searched(field_name.as_deref())?;
        let quoted = delimiter != Delimiter::None;
        let mut queries = Vec::new();
        let mut refusals = Vec::new();
        for (field, field_boost) in fields {
            let boost = boost * field_boost;
            let form = if quoted { None } else { self.form(field, &phrase, boost) };
            match form {
                None => queries.extend(self.terms(field, &phrase, slop, boost)?),
                Some(Ok(query)) => queries.extend(query),
                Some(Err(error)) => refusals.push((field, boost, error)),
            }
        }
        // What is no form of a word in one field may be one in another. The first has its words.
        let has_form = !queries.is_empty();
        for (field, boost, error) in refusals {
            if self.syntax == Syntax::Strict || !has_form {
                return Err(error);
            }
            let word = phrase.rsplit_once('~').map_or(phrase.as_str(), |(word, _)| word);
            queries.extend(self.terms(field, word, slop, boost)?);
        }
        let tokens = |query: &TextQuery| match query {
            TextQuery::Phrase { terms, .. } => terms.len(),
            TextQuery::Bool { must, .. } => must.len(),
            _ => 1,
        };
        self.count(queries.iter().map(tokens).sum())?;
        Ok(disjunction(queries))
    }

    /// Rows with a word that is not written out; `None` if it is.
    fn form(&self, field: usize, phrase: &str, boost: f32) -> Option<Result<Option<TextQuery>>> {
        if phrase.contains(WILDCARDS) {
            return Some(self.wildcards(field, phrase, boost).map(Some));
        }
        let (word, distance) = phrase.rsplit_once('~')?;
        Some(self.fuzzy(field, word, distance, boost))
    }

    /// The fields that a name stands for, or the default ones, each with its boost.
    fn searched(&self, name: Option<&str>) -> Result<Vec<(usize, f32)>> {
        let Some(name) = name else {
            return Ok(self.defaults());
        };
        // As in statements, where a name that is not quoted is folded to lower case.
        let named = |name: &str| self.fields.iter().position(|field| field.name == name);
        let position = named(name).or_else(|| named(&name.to_lowercase())).ok_or_else(|| {
            let named = self.fields.iter().map(|field| field.name.as_str()).filter(|name| !name.is_empty());
            let named: Vec<&str> = named.collect();
            Error::invalid(format!("column {name:?} is not searched; {} are", named.join(", ")))
        })?;
        Ok(vec![(position, self.fields[position].boost.unwrap_or(1.0))])
    }

    /// Rows that have a word of a form: `*` stands for any characters, `?` for one. What is between them goes
    /// through the analyzer as words do, but for stemming.
    fn wildcards(&self, field: usize, form: &str, boost: f32) -> Result<TextQuery> {
        if form.len() > WILDCARDS_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{form:.40}...: a word with wildcards has {WILDCARDS_BYTES_MAX} bytes at most"
            )));
        }
        let analyzer = &self.fields[field].analyzer;
        if !analyzer.has_words() && form.find(WILDCARDS) != form.rfind('*') {
            return Err(Error::invalid(format!("{form}: n-grams have no wildcards but a last *")));
        }
        // A question ends like that, so that it is no wildcard in any syntax.
        if form.ends_with('?') {
            return Err(Error::invalid(format!("{form}: a word does not end with a question mark")));
        }
        let parts: Vec<String> = form.split(WILDCARDS).map(|part| analyzer.normalize(part)).collect();
        let is_word = |part: &String| part.chars().all(char::is_alphanumeric);
        if analyzer.splits_words() && !parts.iter().all(is_word) {
            return Err(Error::invalid(format!("{form}: a form must be a single word")));
        }
        let prefix = parts.first().cloned().unwrap_or_default();
        if parts.iter().all(String::is_empty) {
            return Err(Error::invalid(format!("{form}: a form needs a character beside the wildcards")));
        }
        if let [prefix, rest] = parts.as_slice()
            && rest.is_empty()
            && form.ends_with('*')
        {
            return Ok(TextQuery::Prefix { field, prefix: prefix.clone(), boost });
        }
        self.count_pattern()?;
        let wildcards = form.matches(WILDCARDS).map(|wildcard| if wildcard == "*" { ".*" } else { "." });
        let mut expression = String::new();
        for (part, wildcard) in parts.iter().zip(wildcards.chain([""])) {
            expression.push_str(&regex::escape(part));
            expression.push_str(wildcard);
        }
        Ok(TextQuery::Pattern { field, prefix, expression, boost })
    }

    /// Rows that have a word that an expression matches as a whole. It needs the name of a field: people type
    /// paths.
    fn regular_expression(
        &mut self,
        field: Option<String>,
        expression: String,
        boost: f32,
    ) -> Result<Option<TextQuery>> {
        let Some(field) = field else {
            return Err(Error::invalid(format!(
                "/{expression}/: a regular expression needs a column before it"
            )));
        };
        self.count_pattern()?;
        Pattern::new(&expression)?;
        let fields = self.searched(Some(&field))?;
        self.count(fields.len())?;
        let query = |(field, field_boost): (usize, f32)| {
            let (prefix, expression) = (String::new(), expression.clone());
            TextQuery::Pattern { field, prefix, expression, boost: boost * field_boost }
        };
        Ok(disjunction(fields.into_iter().map(query).collect()))
    }

    fn fuzzy(&self, field: usize, word: &str, distance: &str, boost: f32) -> Result<Option<TextQuery>> {
        let parsed = match distance {
            "" => Some(1),
            text => text.parse::<u8>().ok(),
        };
        let distance = parsed.filter(|d| (1..=EDIT_DISTANCE_MAX).contains(d)).ok_or_else(|| {
            Error::invalid(format!(
                "{word}~{distance}: the edit distance must be from 1 to {EDIT_DISTANCE_MAX}"
            ))
        })?;
        Ok(match self.fields[field].analyzer.tokens(word).as_slice() {
            [] => None,
            [token] if token.term.chars().count() > FUZZY_CHARS_MAX => {
                return Err(Error::invalid(format!(
                    "{:?}~{distance}: a fuzzy word has {FUZZY_CHARS_MAX} characters at most",
                    cut(word, 40)
                )));
            }
            [token] => Some(TextQuery::Fuzzy { field, term: token.term.clone(), distance, boost }),
            _ => {
                return Err(Error::invalid(format!(
                    "{word}~{distance}: a fuzzy query must be a single word"
                )));
            }
        })
    }

    fn terms(&self, field: usize, text: &str, slop: u32, boost: f32) -> Result<Option<TextQuery>> {
        let tokens = self.fields[field].analyzer.tokens(text);
        let is_one_position = tokens.iter().all(|token| token.position == tokens[0].position);
        Ok(match tokens.as_slice() {
            [] => None,
            [token] => Some(term_query(field, &token.term, boost)),
            // All n-grams of a word have the same position. A row must have all of them.
            tokens if is_one_position => {
                let must = tokens.iter().map(|token| term_query(field, &token.term, boost)).collect();
                Some(TextQuery::Bool { must, should: vec![], must_not: vec![] })
            }
            tokens => {
                let terms = tokens.iter().map(|token| (token.position, token.term.clone())).collect();
                Some(TextQuery::Phrase { field, terms, slop, boost })
            }
        })
    }
}

/// Whether a query is for all rows but some.
fn only_excludes(query: &TextQuery) -> bool {
    match query {
        TextQuery::Bool { must, should, must_not } => {
            matches!(must.as_slice(), [TextQuery::All { .. }]) && should.is_empty() && !must_not.is_empty()
        }
        _ => false,
    }
}

/// What a query excludes.
fn excluded(query: TextQuery) -> Vec<TextQuery> {
    match query {
        TextQuery::Bool { must_not, .. } => must_not,
        _ => vec![],
    }
}

/// A query for one term.
fn term_query(field: usize, term: &str, boost: f32) -> TextQuery {
    TextQuery::Term { term: ScoredTerm { field, term: term.to_owned() }, boost }
}

/// A disjunction of queries; `None` if there are none.
fn disjunction(mut queries: Vec<TextQuery>) -> Option<TextQuery> {
    match queries.len() {
        0 => None,
        1 => queries.pop(),
        _ => Some(TextQuery::Bool { must: vec![], should: queries, must_not: vec![] }),
    }
}

#[cfg(test)]
mod tests;
