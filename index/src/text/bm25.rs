//! BM25, from statistics of the whole table.
//!
//! `weight * tf / (tf + norm)` with `weight = boost * (k1 + 1) * idf`, `idf = ln(1 + (n - df + 1/2) / (df + 1/2))`,
//! `norm = k1 * (1 - b + b * length / average)` (Robertson and Zaragoza: "The Probabilistic Relevance Framework: BM25 and
//! Beyond", 2009, with the idf of Lucene, which is never negative). Lengths are rounded to a byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::length_of;
use super::query::ScoredTerm;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// What is known of all rows that a version sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GlobalStatistics {
    pub rows: u64,
    /// Tokens of each field, as [`super::TextStatistics`] counts them.
    pub tokens: Vec<u64>,
    /// Rows that have each of the terms of the query.
    pub frequencies: BTreeMap<ScoredTerm, u64>,
}

impl GlobalStatistics {
    fn idf(&self, term: &ScoredTerm) -> f64 {
        let frequency = self.frequencies.get(term).copied().unwrap_or(0).min(self.rows);
        let odds = ((self.rows - frequency) as f64 + 0.5) / (frequency as f64 + 0.5);
        libm::log(1.0 + odds)
    }

    /// The weight of terms that count together.
    pub fn weight<'a>(&self, terms: impl Iterator<Item = &'a ScoredTerm>, boost: f32) -> f32 {
        let idf: f64 = terms.map(|term| self.idf(term)).sum();
        boost * (1.0 + K1) * idf as f32
    }

    /// The norm of each length of a field, by its code.
    pub fn norms(&self, field: usize) -> Arc<Norms> {
        let tokens = self.tokens.get(field).copied().unwrap_or(0);
        // Without tokens no row has a term, and none of these is asked for.
        let average = (tokens as f64 / self.rows.max(1) as f64).max(f64::MIN_POSITIVE) as f32;
        let mut norms = [0.0; 256];
        for (code, norm) in (0..=u8::MAX).zip(&mut norms) {
            *norm = K1 * (1.0 - B + B * length_of(code) as f32 / average);
        }
        Arc::new(Norms(norms))
    }
}

/// Relative error of two sums of up to [`super::parse`]'s number of terms in single precision, which may err against each
/// other.
const ROUNDING: f32 = 2e-4;

/// Whether scores below a bound, but for rounding, can be as high as a threshold.
pub fn reaches(bound: f32, threshold: f32) -> bool {
    bound * (1.0 + ROUNDING) >= threshold
}

/// The lowest score that reaches a threshold together with others below a bound.
pub fn least(threshold: f32, others: f32) -> f32 {
    threshold / (1.0 + ROUNDING) - others * (1.0 + ROUNDING)
}

/// Norms by the code of a length.
#[derive(Debug)]
pub struct Norms([f32; 256]);

impl Norms {
    pub fn score(&self, weight: f32, frequency: u32, length: u8) -> f32 {
        let frequency = frequency as f32;
        weight * (frequency / (frequency + self.0[usize::from(length)]))
    }
}
