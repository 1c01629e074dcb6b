//! BM25 scores from statistics of the whole table.
//!
//! ```text
//! score  = weight * tf / (tf + norm)
//! weight = boost * (k1 + 1) * idf
//! idf    = ln(1 + (n - df + 0.5) / (df + 0.5))
//! norm   = k1 * (1 - b + b * length / average_length)
//! ```
//!
//! with the term frequency `tf` in the row, the document frequency `df`, the number of rows `n`, the exact
//! mean of the lengths, and the number of tokens `length` of the field in the row, rounded to a byte
//! (Robertson and Zaragoza: "The Probabilistic Relevance Framework: BM25 and Beyond", 2009). The `idf` is
//! that of Lucene, which is never negative.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::decode_length;
use super::query::ScoredTerm;

/// Saturation of the term frequency.
const K1: f32 = 1.2;
/// Strength of the length normalization.
const B: f32 = 0.75;
/// Relative error of a sum in single precision that bounds must allow for. A query has at most 1,024 terms,
/// and a score and its bound round in opposite directions in the worst case.
const ROUNDING_ERROR: f32 = 2e-4;

/// Statistics of all visible rows of a table, for the terms of one query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GlobalStatistics {
    /// Number of visible rows.
    pub rows: u64,
    /// Number of tokens of each field, as in [`TextStatistics`](super::TextStatistics).
    pub tokens: Vec<u64>,
    /// Document frequency of each scored term of the query: the number of visible rows that contain it.
    pub document_frequencies: BTreeMap<ScoredTerm, u64>,
}

impl GlobalStatistics {
    fn idf(&self, term: &ScoredTerm) -> f64 {
        let frequency = self.document_frequencies.get(term).copied().unwrap_or(0).min(self.rows);
        let odds = ((self.rows - frequency) as f64 + 0.5) / (frequency as f64 + 0.5);
        // `f64::ln` may differ in its last bits between platforms.
        libm::log(1.0 + odds)
    }

    /// The weight of a term, or of all terms of a phrase.
    pub(crate) fn weight<'a>(&self, terms: impl Iterator<Item = &'a ScoredTerm>, boost: f32) -> f32 {
        let idf: f64 = terms.map(|term| self.idf(term)).sum();
        boost * (1.0 + K1) * idf as f32
    }

    /// The norms of a field.
    pub(crate) fn norms(&self, field: usize) -> Arc<Norms> {
        let tokens = self.tokens.get(field).copied().unwrap_or(0);
        // A field without tokens has no matches, so its norms are not used.
        let average = (tokens as f64 / self.rows.max(1) as f64).max(f64::MIN_POSITIVE) as f32;
        let mut norms = [0.0; 256];
        for (code, norm) in (0..=u8::MAX).zip(&mut norms) {
            *norm = K1 * (1.0 - B + B * decode_length(code) as f32 / average);
        }
        Arc::new(Norms(norms))
    }
}

/// Whether a score that a bound limits, up to rounding, can reach a threshold.
pub(crate) fn can_reach(bound: f32, threshold: f32) -> bool {
    bound * (1.0 + ROUNDING_ERROR) >= threshold
}

/// The least score that can reach a threshold together with other scores below `others_bound`.
pub(crate) fn score_needed(threshold: f32, others_bound: f32) -> f32 {
    threshold / (1.0 + ROUNDING_ERROR) - others_bound * (1.0 + ROUNDING_ERROR)
}

/// The norms of a field by the code of a length.
#[derive(Debug)]
pub(crate) struct Norms([f32; 256]);

impl Norms {
    /// The score of a term or phrase with the given frequency in a row whose field has the given length code.
    pub(crate) fn score(&self, weight: f32, frequency: u32, length: u8) -> f32 {
        let frequency = frequency as f32;
        weight * (frequency / (frequency + self.0[usize::from(length)]))
    }
}
