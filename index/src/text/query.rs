//! A query, apart from any segment.

use std::collections::BTreeSet;

use rkyv::{Archive, Deserialize, Serialize};

/// What rows are looked for. Fields are called by their place in the index.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum TextQuery {
    /// Rows that have a term.
    Term { term: ScoredTerm, boost: f32 },
    /// Rows that have terms beside each other, as they stand in the query. `slop`: how far they may be moved in all.
    Phrase { field: usize, terms: Vec<(u32, String)>, slop: u32, boost: f32 },
    /// Rows that have a term that begins so. All score the same, `boost`.
    Prefix { field: usize, prefix: String, boost: f32 },
    /// Rows that have a term that differs in at most `distance` letters. All score the same, `boost`.
    Fuzzy { field: usize, term: String, distance: u8, boost: f32 },
    /// All rows, with the same score.
    All { boost: f32 },
    /// Rows that match all of `must`, or any of `should` where there is no `must`, and none of `not`. Their score is
    /// the sum of what they match, in this order.
    Bool {
        #[rkyv(omit_bounds)]
        must: Vec<TextQuery>,
        #[rkyv(omit_bounds)]
        should: Vec<TextQuery>,
        #[rkyv(omit_bounds)]
        not: Vec<TextQuery>,
    },
}

/// A term of a field.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScoredTerm {
    pub field: usize,
    pub term: String,
}

impl TextQuery {
    /// A query that no row matches.
    pub fn nothing() -> Self {
        Self::Bool { must: vec![], should: vec![], not: vec![] }
    }

    /// The terms whose frequency in the table a score needs.
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
            // What is excluded is not scored.
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.collect_scored(terms));
            }
        }
    }

    /// Words to be marked in a text: terms, of phrases too, and beginnings of terms.
    pub fn marked(&self, field: usize, exact: &mut BTreeSet<String>, prefixes: &mut BTreeSet<String>) {
        match self {
            Self::Term { term, .. } if term.field == field => drop(exact.insert(term.term.clone())),
            Self::Phrase { field: of, terms, .. } if *of == field => {
                exact.extend(terms.iter().map(|(_, term)| term.clone()));
            }
            Self::Fuzzy { field: of, term, .. } if *of == field => drop(exact.insert(term.clone())),
            Self::Prefix { field: of, prefix, .. } if *of == field => drop(prefixes.insert(prefix.clone())),
            Self::Bool { must, should, .. } => {
                must.iter().chain(should).for_each(|child| child.marked(field, exact, prefixes));
            }
            _ => {}
        }
    }
}
