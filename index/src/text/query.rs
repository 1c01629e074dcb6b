//! The tree of a full-text query, independent of segments and statistics.

use std::collections::BTreeSet;

use rkyv::{Archive, Deserialize, Serialize};

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
    /// Rows that have a term within an edit distance. All score `boost`.
    Fuzzy {
        /// The field of the terms.
        field: usize,
        /// The term to compare with.
        term: String,
        /// The largest Damerau-Levenshtein distance.
        distance: u8,
        /// The score of each matching row.
        boost: f32,
    },
    /// All rows. All score `boost`.
    All {
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
            Self::Prefix { .. } | Self::Fuzzy { .. } | Self::All { .. } => {}
            // `not` does not add to scores.
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.collect_scored(terms));
            }
        }
    }

    /// Collects what to highlight in a field: `exact` terms, including those of phrases and of fuzzy
    /// queries, and `prefixes` of terms.
    pub(crate) fn collect_highlights(
        &self,
        field: usize,
        exact: &mut BTreeSet<String>,
        prefixes: &mut BTreeSet<String>,
    ) {
        match self {
            Self::Term { term, .. } if term.field == field => drop(exact.insert(term.term.clone())),
            Self::Phrase { field: of, terms, .. } if *of == field => {
                exact.extend(terms.iter().map(|(_, term)| term.clone()));
            }
            Self::Fuzzy { field: of, term, .. } if *of == field => drop(exact.insert(term.clone())),
            Self::Prefix { field: of, prefix, .. } if *of == field => drop(prefixes.insert(prefix.clone())),
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.collect_highlights(field, exact, prefixes));
            }
            _ => {}
        }
    }
}
