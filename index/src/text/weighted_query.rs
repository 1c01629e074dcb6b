//! Queries whose scored terms have their BM25 weights.

use super::bm25::GlobalStatistics;
use super::query::{ScoredTerm, TextQuery};

/// A [`TextQuery`] with weights from the statistics of the table.
pub(crate) enum WeightedQuery {
    Term { term: ScoredTerm, weight: f32 },
    Phrase { field: usize, terms: Vec<(u32, String)>, slop: u32, weight: f32 },
    Prefix { field: usize, prefix: String, score: f32 },
    Fuzzy { field: usize, term: String, distance: u8, boost: f32 },
    Pattern { field: usize, prefix: String, expression: String, score: f32 },
    AtLeast { count: u32, queries: Vec<WeightedQuery> },
    All { fields: Vec<usize>, score: f32 },
    Bool { must: Vec<WeightedQuery>, should: Vec<WeightedQuery>, must_not: Vec<WeightedQuery> },
}

/// A term of a query without deeper nesting.
pub(crate) struct Leaf<'a> {
    /// The child of the query that the term is in. The scores of one child are added first, as
    /// [`BoolCursor`] does.
    ///
    /// [`BoolCursor`]: super::cursor::BoolCursor
    pub(crate) group: usize,
    pub(crate) term: &'a ScoredTerm,
    pub(crate) weight: f32,
}

impl WeightedQuery {
    pub(crate) fn new(query: &TextQuery, statistics: &GlobalStatistics) -> Self {
        match query {
            TextQuery::Term { term, boost } => {
                Self::Term { term: term.clone(), weight: statistics.weight(std::iter::once(term), *boost) }
            }
            TextQuery::Phrase { field, terms, slop, boost } => {
                let scored: Vec<ScoredTerm> =
                    terms.iter().map(|(_, term)| ScoredTerm { field: *field, term: term.clone() }).collect();
                let weight = statistics.weight(scored.iter(), *boost);
                Self::Phrase { field: *field, terms: terms.clone(), slop: *slop, weight }
            }
            TextQuery::Prefix { field, prefix, boost } => {
                Self::Prefix { field: *field, prefix: prefix.clone(), score: *boost }
            }
            TextQuery::Fuzzy { field, term, distance, boost } => {
                Self::Fuzzy { field: *field, term: term.clone(), distance: *distance, boost: *boost }
            }
            TextQuery::Pattern { field, prefix, expression, boost } => Self::Pattern {
                field: *field,
                prefix: prefix.clone(),
                expression: expression.clone(),
                score: *boost,
            },
            TextQuery::AtLeast { count, queries } => Self::AtLeast {
                count: *count,
                queries: queries.iter().map(|query| Self::new(query, statistics)).collect(),
            },
            TextQuery::All { fields, boost } => Self::All { fields: fields.clone(), score: *boost },
            TextQuery::Bool { must, should, must_not } => {
                let all = |queries: &[TextQuery]| queries.iter().map(|q| Self::new(q, statistics)).collect();
                Self::Bool { must: all(must), should: all(should), must_not: all(must_not) }
            }
        }
    }

    /// The terms of a query that is a term, a disjunction of terms, or a disjunction of those; otherwise
    /// `None`.
    pub(crate) fn disjunction_leaves(&self) -> Option<Vec<Leaf<'_>>> {
        let mut leaves = Vec::new();
        for (group, child) in self.alternatives().iter().enumerate() {
            for leaf in child.alternatives() {
                let Self::Term { term, weight } = leaf else {
                    return None;
                };
                leaves.push(Leaf { group, term, weight: *weight });
            }
        }
        Some(leaves)
    }

    /// The terms of a query that is a conjunction of terms; otherwise `None`.
    pub(crate) fn conjunction_leaves(&self) -> Option<Vec<Leaf<'_>>> {
        let Self::Bool { must, should, must_not } = self else {
            return None;
        };
        if must.is_empty() || !should.is_empty() || !must_not.is_empty() {
            return None;
        }
        let mut leaves = Vec::with_capacity(must.len());
        for (group, child) in must.iter().enumerate() {
            let Self::Term { term, weight } = child else {
                return None;
            };
            leaves.push(Leaf { group, term, weight: *weight });
        }
        Some(leaves)
    }

    /// The operands of a disjunction; any other query is its own single operand.
    fn alternatives(&self) -> &[Self] {
        match self {
            Self::Bool { must, should, must_not } if must.is_empty() && must_not.is_empty() => should,
            other => std::slice::from_ref(other),
        }
    }
}
