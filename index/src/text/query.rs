//! The tree of a full-text query, independent of segments and statistics.

use std::collections::BTreeSet;

use plexus_model::{Error, Result, cut};
use rkyv::{Archive, Deserialize, Serialize};

use super::analyzer::Token;

/// A full-text query. Fields are given by their position in the index. `boost` is a factor of the score.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum TextQuery {
    /// Rows that have a term.
    Term {
        /// The term with its field.
        term: ScoredTerm,
        /// Factor of the BM25 score.
        boost: f32,
    },
    /// Rows that have terms in a given order and distance.
    Phrase {
        /// The field of all terms.
        field: usize,
        /// The terms, each with its position in the phrase, counted in tokens.
        terms: Vec<(u32, String)>,
        /// How far the terms may be displaced in total, in tokens.
        slop: u32,
        /// Factor of the BM25 score.
        boost: f32,
    },
    /// Rows that have a term with a given prefix. All score `boost`.
    Prefix {
        /// The field of the terms.
        field: usize,
        /// The prefix, which is not analyzed.
        prefix: String,
        /// The score of each matching row.
        boost: f32,
    },
    /// Rows that have a term within an edit distance. The nearer it is, the more of `boost` they score.
    Fuzzy {
        /// The field of the terms.
        field: usize,
        /// The term to compare with.
        term: String,
        /// The largest Damerau-Levenshtein distance.
        distance: u8,
        /// The score of rows that have the term itself.
        boost: f32,
    },
    /// Rows that have a text in any of some fields. All score `boost`.
    All {
        /// The fields.
        fields: Vec<usize>,
        /// The score of each row.
        boost: f32,
    },
    /// Rows that match all of `must`, or any of `should` if `must` is empty, and none of `not`. The score is
    /// the sum of the scores of the matching queries of `must` and `should`, in this order.
    Bool {
        /// Queries that a row must match.
        #[rkyv(omit_bounds)]
        must: Vec<TextQuery>,
        /// Queries that add to the score of a row.
        #[rkyv(omit_bounds)]
        should: Vec<TextQuery>,
        /// Queries that a row must not match.
        #[rkyv(omit_bounds)]
        must_not: Vec<TextQuery>,
    },
    /// Rows that have a term of a form. All score `boost`.
    Pattern {
        /// The field of the terms.
        field: usize,
        /// What the terms begin with.
        prefix: String,
        /// A regular expression, which [`Pattern`] compiles.
        expression: String,
        /// The score of each matching row.
        boost: f32,
    },
    /// Rows that match at least `count` of some queries. The score is the sum of the scores of those.
    AtLeast {
        /// How many of them, at least one.
        count: u32,
        /// The queries.
        #[rkyv(omit_bounds)]
        queries: Vec<TextQuery>,
    },
}

/// A term of a field.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScoredTerm {
    /// The position of the field in the index.
    pub field: usize,
    /// The term, as the analyzer gives it.
    pub term: String,
}

impl TextQuery {
    /// A query that matches no row.
    pub(crate) fn match_none() -> Self {
        Self::Bool { must: vec![], should: vec![], must_not: vec![] }
    }

    /// The terms whose document frequency the scores depend on.
    pub fn scored_terms(&self) -> BTreeSet<ScoredTerm> {
        let mut terms = BTreeSet::new();
        self.collect_scored(&mut terms);
        terms
    }

    fn collect_scored(&self, terms: &mut BTreeSet<ScoredTerm>) {
        match self {
            Self::Term { term, .. } => drop(terms.insert(term.clone())),
            Self::Phrase { field, terms: of_phrase, .. } => {
                terms.extend(
                    of_phrase.iter().map(|(_, term)| ScoredTerm { field: *field, term: term.clone() }),
                );
            }
            Self::Prefix { .. } | Self::Fuzzy { .. } | Self::Pattern { .. } | Self::All { .. } => {}
            Self::AtLeast { queries, .. } => queries.iter().for_each(|child| child.collect_scored(terms)),
            // `not` does not add to scores.
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.collect_scored(terms));
            }
        }
    }

    /// Collects what to highlight in a field.
    pub(crate) fn collect_highlights(&self, of_field: usize, found: &mut Highlights) {
        match self {
            Self::Term { term, .. } if term.field == of_field => drop(found.terms.insert(term.term.clone())),
            Self::Phrase { field, terms, slop, .. } if *field == of_field => {
                found.phrases.push((terms.clone(), *slop));
            }
            Self::Fuzzy { field, term, distance, .. } if *field == of_field => {
                found.similar.push((term.clone(), *distance));
            }
            Self::Prefix { field, prefix, .. } if *field == of_field => found.prefixes.push(prefix.clone()),
            Self::Pattern { field, expression, .. } if *field == of_field => {
                // One that could not be compiled would have failed before.
                found.patterns.extend(Pattern::new(expression).ok());
            }
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.collect_highlights(of_field, found));
            }
            Self::AtLeast { queries, .. } => {
                queries.iter().for_each(|child| child.collect_highlights(of_field, found));
            }
            _ => {}
        }
    }
}

/// What a query looks for in a field.
#[derive(Default)]
pub(crate) struct Highlights {
    terms: BTreeSet<String>,
    /// Phrases: the terms with their offsets, and how far they may be displaced.
    phrases: Vec<(Vec<(u32, String)>, u32)>,
    prefixes: Vec<String>,
    /// Terms, and the largest edit distance from each.
    similar: Vec<(String, u8)>,
    patterns: Vec<Pattern>,
}

impl Highlights {
    /// Whether the query looks for each token of a text.
    pub(crate) fn marks(&self, tokens: &[Token]) -> Vec<bool> {
        let mut marks: Vec<bool> = tokens.iter().map(|token| self.contains(&token.term)).collect();
        for (terms, slop) in &self.phrases {
            // For each term where it is, as the start of the phrase.
            let starts: Vec<Vec<(i64, usize)>> = terms
                .iter()
                .map(|(offset, term)| {
                    let of_term = tokens.iter().enumerate().filter(|(_, token)| token.term == *term);
                    of_term.map(|(at, token)| (i64::from(token.position) - i64::from(*offset), at)).collect()
                })
                .collect();
            let slop = i64::from(*slop);
            let is_near = |starts: &Vec<(i64, usize)>, start: i64| {
                let next = starts.partition_point(|(other, _)| *other < start - slop);
                starts.get(next).is_some_and(|(other, _)| *other <= start + slop)
            };
            for (start, at) in starts.iter().flatten() {
                marks[*at] |= starts.iter().all(|others| is_near(others, *start));
            }
        }
        marks
    }

    /// Whether the query looks for a term, other than in a phrase.
    fn contains(&self, term: &str) -> bool {
        let is_similar =
            |(other, distance): &(String, u8)| edit_distance(other, term) <= u32::from(*distance);
        self.terms.contains(term)
            || self.prefixes.iter().any(|prefix| term.starts_with(prefix.as_str()))
            || self.similar.iter().any(is_similar)
            || self.patterns.iter().any(|pattern| pattern.matches(term))
    }
}

/// The Damerau-Levenshtein distance of two terms, where a transposition counts as one edit.
pub fn edit_distance(a: &str, b: &str) -> u32 {
    // Terms of very different lengths need not be compared: it takes the product of their lengths.
    let lengths = [a, b].map(|term| term.chars().count());
    match lengths[0].abs_diff(lengths[1]) {
        difference @ 0..=8 if lengths[0] <= 1_024 => strsim::osa_distance(a, b).max(difference) as u32,
        difference => difference.max(9) as u32,
    }
}

/// A form of terms: a regular expression for whole terms, which takes linear time.
#[derive(Debug)]
pub(crate) struct Pattern(regex::Regex);

/// Size of a compiled expression in bytes at most.
const PATTERN_BYTES_MAX: usize = 1 << 17;

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, or too large.
    pub(crate) fn new(expression: &str) -> Result<Self> {
        let whole = format!("^(?s:{expression})$");
        let compiled = regex::RegexBuilder::new(&whole).size_limit(PATTERN_BYTES_MAX).build();
        // Alone, too: parentheses that are not its own would be closed by those around it.
        let alone = regex::RegexBuilder::new(expression).size_limit(PATTERN_BYTES_MAX).build();
        let invalid = |e: regex::Error| {
            let what = e.to_string();
            let reason = what.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let expression = cut(expression, 100);
            Error::invalid(format!("/{expression}/ is no regular expression: {reason}"))
        };
        alone.map_err(invalid)?;
        compiled.map(Self).map_err(invalid)
    }

    /// Whether a term has the form.
    pub(crate) fn matches(&self, term: &str) -> bool {
        self.0.is_match(term)
    }
}

/// How many of the alternatives of a query a row must match: a number of them, or a share in percent. A
/// negative one is how many it may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinimumShouldMatch {
    /// So many.
    Count(i32),
    /// A share of them, rounded down.
    Percent(i32),
}

impl MinimumShouldMatch {
    /// Reads `2`, `-1`, `75%` or `-25%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| (-100..=100).contains(percent))
                .map(Self::Percent),
            None => text.trim().parse().ok().map(Self::Count),
        }
    }

    /// How many of `alternatives`: at least one, and no more than there are.
    pub(crate) fn of(self, alternatives: usize) -> u32 {
        let all = i64::try_from(alternatives).unwrap_or(i64::MAX);
        let count = match self {
            Self::Count(count) => i64::from(count),
            // Towards zero: of five, -25% may lack one.
            Self::Percent(percent) => all.saturating_mul(i64::from(percent)) / 100,
        };
        let wanted = if count < 0 { all + count } else { count };
        u32::try_from(wanted.clamp(1, all)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimums_are_numbers_or_shares_of_the_alternatives() {
        for (text, of, expected) in [
            ("2", 5, 2),
            ("9", 5, 5),
            ("0", 5, 1),
            ("-1", 5, 4),
            ("-9", 5, 1),
            ("75%", 5, 3),
            ("100%", 5, 5),
            ("10%", 5, 1),
            ("-25%", 5, 4),
        ] {
            assert_eq!(MinimumShouldMatch::parse(text).unwrap().of(of), expected, "{text}");
        }
        for text in ["", "x", "1.5", "101%", "%"] {
            assert_eq!(MinimumShouldMatch::parse(text), None, "{text}");
        }
    }

    #[test]
    fn patterns_are_for_whole_terms() {
        assert!(Pattern::new("w.*ng").unwrap().matches("wing"));
        assert!(!Pattern::new("w.*ng").unwrap().matches("wings"));
        assert!(!Pattern::new("a|b").unwrap().matches("ab"));
        for expression in ["(", ")(", "a)|(b", "[", "(a{1000}){1000}"] {
            assert!(Pattern::new(expression).is_err(), "{expression}");
        }
    }

    #[test]
    fn edit_distances_count_transpositions_once() {
        for (a, b, distance) in
            [("wing", "wing", 0), ("wing", "wnig", 1), ("wing", "wins", 1), ("a", "wing", 4)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
        assert!(edit_distance("a", &"b".repeat(100)) > 8);
    }
}
