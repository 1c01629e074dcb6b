//! The language of queries.
//!
//! `wing flutter`: either word. `+wing -flutter`, `AND`, `OR`, `NOT`, parentheses. `"wing flutter"`: beside each other;
//! `"wing flutter"~2`: not far from each other. `flut*`: words that begin so. `flutter~1`: words that differ in a
//! letter. `title:wing`: in one column. `wing^2`: counts twice. Words of several tokens are phrases.

use plexus_model::{Error, Result};
use tantivy::query_grammar::{
    Delimiter, Occur, UserInputAst, UserInputLeaf, UserInputLiteral, parse_query as parse_strict,
    parse_query_lenient,
};

use super::Analyzer;
use super::query::{ScoredTerm, TextQuery};

/// Length of a query in bytes: people do not write longer ones, and tokens are counted after it.
const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Parentheses inside each other: the grammar calls itself for each.
const NESTING_MAX: usize = 32;
/// Terms of a query: each has a cursor in every segment.
const TERMS_MAX: usize = 1_024;
/// How much more than others a word may count.
const BOOST_MAX: f32 = 1e6;
/// Letters in which a fuzzy word may differ.
const DISTANCE_MAX: u8 = 2;

/// Reads a query over fields with these names. What names no field is looked for in the `defaults`, each counted by
/// its boost.
///
/// # Errors
/// `InvalidArgument` says what is wrong with the query, and where.
pub fn parse_query(
    text: &str,
    analyzer: &Analyzer,
    fields: &[String],
    defaults: &[(usize, f32)],
) -> Result<TextQuery> {
    let fail = |what: String| Error::invalid(format!("text query {:.80?}: {what}", text));
    if text.len() > QUERY_BYTES_MAX {
        return Err(fail(format!("{} bytes are more than {QUERY_BYTES_MAX}", text.len())));
    }
    if let Some(position) = too_deep(text) {
        return Err(fail(format!("it is nested more than {NESTING_MAX} times, at character {position}")));
    }
    let ast = parse_strict(text).map_err(|_| {
        let errors = parse_query_lenient(text).1;
        match errors.into_iter().next() {
            Some(error) => {
                let before = text.get(..error.pos.min(text.len())).unwrap_or(text);
                fail(format!("{} at character {}", error.message, before.chars().count() + 1))
            }
            None => fail("it cannot be read".to_owned()),
        }
    })?;
    let mut lowering = Lowering { analyzer, fields, defaults, terms: 0 };
    let query = lowering.lower(ast, 1.0).map_err(|e| fail(e.message().to_owned()))?;
    Ok(query.unwrap_or_else(TextQuery::nothing))
}

/// The first place, counted from 1, where parentheses or exclusions are too many inside each other.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut last = ' ';
    for (position, letter) in text.chars().enumerate() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            // Signs in a row are parsed inside each other.
            '-' | '+' if last == letter => depth += 1,
            _ => {}
        }
        last = letter;
        if depth > NESTING_MAX {
            return Some(position + 1);
        }
    }
    // NOT NOT NOT is nested as well.
    let negations = text.split_whitespace().filter(|word| *word == "NOT").count();
    (negations > NESTING_MAX).then_some(1)
}

struct Lowering<'a> {
    analyzer: &'a Analyzer,
    fields: &'a [String],
    defaults: &'a [(usize, f32)],
    terms: usize,
}

impl Lowering<'_> {
    /// `None` for what is left out, as words that the analyzer leaves out are.
    fn lower(&mut self, ast: UserInputAst, boost: f32) -> Result<Option<TextQuery>> {
        match ast {
            UserInputAst::Boost(inner, factor) => {
                let factor = factor.into_inner() as f32;
                let boost = boost * factor;
                if !(0.0..=BOOST_MAX).contains(&boost) {
                    return Err(Error::invalid(format!(
                        "^{factor}: a number from 0 to {BOOST_MAX} is needed, in all"
                    )));
                }
                self.lower(*inner, boost)
            }
            UserInputAst::Clause(clauses) => self.clauses(clauses, boost),
            UserInputAst::Leaf(leaf) => match *leaf {
                UserInputLeaf::All => Ok(Some(TextQuery::All { boost })),
                UserInputLeaf::Literal(literal) => self.literal(literal, boost),
                UserInputLeaf::Range { .. } => Err(Error::invalid("ranges belong into the SQL filter")),
                UserInputLeaf::Set { field, elements } => {
                    let literal = |phrase| UserInputLiteral {
                        field_name: field.clone(),
                        phrase,
                        delimiter: Delimiter::DoubleQuotes,
                        slop: 0,
                        prefix: false,
                    };
                    let any = elements.into_iter().map(|element| self.literal(literal(element), boost));
                    let any = any.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                    Ok(any_of(any))
                }
                UserInputLeaf::Exists { field } => {
                    Err(Error::invalid(format!("{field}:* belongs into the SQL filter, as IS NOT NULL")))
                }
                UserInputLeaf::Regex { .. } => Err(Error::invalid("regular expressions are not supported")),
            },
        }
    }

    fn clauses(
        &mut self,
        clauses: Vec<(Option<Occur>, UserInputAst)>,
        boost: f32,
    ) -> Result<Option<TextQuery>> {
        let (mut must, mut should, mut not) = (vec![], vec![], vec![]);
        let empty = clauses.is_empty();
        for (occur, clause) in clauses {
            let Some(query) = self.lower(clause, boost)? else {
                continue;
            };
            match occur.unwrap_or(Occur::Should) {
                Occur::Must => must.push(query),
                Occur::Should => should.push(query),
                Occur::MustNot => not.push(query),
            }
        }
        if must.is_empty() && should.is_empty() {
            if !empty && !not.is_empty() {
                return Err(Error::invalid("it only excludes: say what to look for, or * for all"));
            }
            return Ok(None);
        }
        if must.is_empty() && not.is_empty() {
            return Ok(any_of(should));
        }
        Ok(Some(TextQuery::Bool { must, should, not }))
    }

    fn literal(&mut self, literal: UserInputLiteral, boost: f32) -> Result<Option<TextQuery>> {
        let UserInputLiteral { field_name, phrase, delimiter, slop, prefix } = literal;
        if prefix {
            return Err(Error::invalid("a phrase whose last word is cut is not supported"));
        }
        let fields = match &field_name {
            Some(name) => {
                let field = self.fields.iter().position(|f| f == name);
                let field = field.ok_or_else(|| {
                    let named = self.fields.iter().map(String::as_str).filter(|field| !field.is_empty());
                    let named: Vec<&str> = named.collect();
                    Error::invalid(format!("column {name:?} is not searched; {} are", named.join(", ")))
                })?;
                vec![(field, 1.0)]
            }
            None => self.defaults.to_vec(),
        };
        let quoted = delimiter != Delimiter::None;
        let this = &*self;
        let queries = fields.into_iter().map(|(field, of_field)| {
            let boost = boost * of_field;
            if !quoted && let Some(stem) = phrase.strip_suffix('*').filter(|s| !s.is_empty()) {
                return Ok(Some(TextQuery::Prefix { field, prefix: stem.to_lowercase(), boost }));
            }
            if !quoted && let Some((word, distance)) = phrase.rsplit_once('~') {
                return this.fuzzy(field, word, distance, boost);
            }
            this.words(field, &phrase, slop, boost)
        });
        let queries: Vec<TextQuery> = queries.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let tokens = |query: &TextQuery| match query {
            TextQuery::Phrase { terms, .. } => terms.len(),
            TextQuery::Bool { must, .. } => must.len(),
            _ => 1,
        };
        self.terms += queries.iter().map(tokens).sum::<usize>();
        if self.terms > TERMS_MAX {
            return Err(Error::invalid(format!("it has more than {TERMS_MAX} terms")));
        }
        Ok(any_of(queries))
    }

    fn fuzzy(&self, field: usize, word: &str, distance: &str, boost: f32) -> Result<Option<TextQuery>> {
        let parsed = match distance {
            "" => Some(1),
            text => text.parse::<u8>().ok(),
        };
        let distance = parsed.filter(|d| (1..=DISTANCE_MAX).contains(d)).ok_or_else(|| {
            Error::invalid(format!("{word}~{distance}: words may differ in 1 to {DISTANCE_MAX} letters"))
        })?;
        Ok(match self.analyzer.tokens(word).as_slice() {
            [] => None,
            [token] => Some(TextQuery::Fuzzy { field, term: token.term.clone(), distance, boost }),
            _ => return Err(Error::invalid(format!("{word}~{distance}: one word is needed"))),
        })
    }

    fn words(&self, field: usize, text: &str, slop: u32, boost: f32) -> Result<Option<TextQuery>> {
        let tokens = self.analyzer.tokens(text);
        let one_place = tokens.iter().all(|token| token.position == tokens[0].position);
        Ok(match tokens.as_slice() {
            [] => None,
            [token] => Some(term(field, &token.term, boost)),
            // Parts of one word, as n-grams are: all of them.
            tokens if one_place => {
                let must = tokens.iter().map(|token| term(field, &token.term, boost)).collect();
                Some(TextQuery::Bool { must, should: vec![], not: vec![] })
            }
            tokens => {
                let terms = tokens.iter().map(|token| (token.position, token.term.clone())).collect();
                Some(TextQuery::Phrase { field, terms, slop, boost })
            }
        })
    }
}

fn term(field: usize, term: &str, boost: f32) -> TextQuery {
    TextQuery::Term { term: ScoredTerm { field, term: term.to_owned() }, boost }
}

fn any_of(mut queries: Vec<TextQuery>) -> Option<TextQuery> {
    match queries.len() {
        0 => None,
        1 => queries.pop(),
        _ => Some(TextQuery::Bool { must: vec![], should: queries, not: vec![] }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<TextQuery> {
        let fields = ["title".to_owned(), "body".to_owned()];
        parse_query(text, &Analyzer::named("en_stem").unwrap(), &fields, &[(0, 2.0), (1, 1.0)])
    }

    #[test]
    fn queries_are_read() {
        let both = |word: &str| any_of(vec![term(0, word, 2.0), term(1, word, 1.0)]).unwrap();
        assert_eq!(parse("Wings").unwrap(), both("wing"));
        assert_eq!(parse("body:wings").unwrap(), term(1, "wing", 1.0));
        assert_eq!(parse("body:wings^3").unwrap(), term(1, "wing", 3.0));
        let clauses = |must, should, not| TextQuery::Bool { must, should, not };
        assert_eq!(
            parse("+body:wing body:high -body:low").unwrap(),
            clauses(vec![term(1, "wing", 1.0)], vec![term(1, "high", 1.0)], vec![term(1, "low", 1.0)])
        );
        let phrase = |slop| TextQuery::Phrase {
            field: 1,
            terms: vec![(0, "wing".to_owned()), (1, "flutter".to_owned())],
            slop,
            boost: 1.0,
        };
        assert_eq!(parse("body:\"wing flutter\"").unwrap(), phrase(0));
        assert_eq!(parse("body:\"wing flutter\"~2").unwrap(), phrase(2));
        let prefix = TextQuery::Prefix { field: 1, prefix: "flut".to_owned(), boost: 1.0 };
        assert_eq!(parse("body:Flut*").unwrap(), prefix);
        let fuzzy = TextQuery::Fuzzy { field: 1, term: "wing".to_owned(), distance: 2, boost: 1.0 };
        assert_eq!(parse("body:wing~2").unwrap(), fuzzy);
        assert_eq!(parse("").unwrap(), TextQuery::nothing());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            ("wing AND (flutter", "at character"),
            ("nocolumn:wing", "column \"nocolumn\" is not searched; title, body are"),
            ("-wing", "only excludes"),
            ("wing~9", "1 to 2 letters"),
            ("year:[1 TO 2]", "SQL filter"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message().contains(words), "{text}: {error}");
        }
        assert!(parse(&"(".repeat(10_000)).unwrap_err().message().contains("nested"));
        assert!(parse(&"a ".repeat(10_000)).unwrap_err().message().contains("bytes"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[a-c \"~*^:()+\\-\\[\\]{}0-9ANDORT]{0,60}") {
            let _ = parse(&text);
        }
    }
}
