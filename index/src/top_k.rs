//! The `k` best hits of a stream, with all hits that tie with the last of them.

/// Ties of the `k`-th hit that are kept at most. It bounds the memory when very many rows score the same.
const TIES_MAX: usize = 100_000;

/// Collects the `k` hits with the highest scores.
///
/// All hits that tie with the `k`-th are kept too (up to 100,000 of them): the caller breaks ties, because
/// only it knows an order of the rows that does not depend on their distribution over segments.
///
/// ```
/// let mut top = plexus_index::TopK::new(2);
/// for (score, row) in [(1.0, "a"), (3.0, "b"), (2.0, "c"), (2.0, "d")] {
///     top.push(score, row);
/// }
/// let mut hits = top.into_sorted();
/// hits.sort_by_key(|(_, row)| *row);
/// assert_eq!(hits, [(3.0, "b"), (2.0, "c"), (2.0, "d")]);
/// ```
#[derive(Clone, Debug)]
pub struct TopK<T> {
    k: usize,
    hits: Vec<(f32, T)>,
    /// Number of hits at which those below the threshold are dropped.
    compact_at: usize,
    threshold: f32,
}

impl<T> TopK<T> {
    /// An empty collector of `k` hits.
    pub fn new(k: usize) -> Self {
        // The first compaction comes early: only then is there a threshold.
        let compact_at = k.saturating_add((k / 2).max(6));
        let threshold = if k == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { k, hits: Vec::new(), compact_at, threshold }
    }

    /// A lower bound of the score of the `k`-th best hit. Hits below it are ignored.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Raises the threshold to a bound from elsewhere, such as another segment. A lower bound has no effect.
    pub fn raise_threshold(&mut self, threshold: f32) {
        self.threshold = self.threshold.max(threshold);
    }

    /// Adds a hit. Returns the new threshold.
    pub fn push(&mut self, score: f32, hit: T) -> f32 {
        if score >= self.threshold {
            self.hits.push((score, hit));
            if self.hits.len() >= self.compact_at {
                self.compact();
                // With many ties nothing was dropped. Doubling keeps the amortized cost constant.
                self.compact_at = self.compact_at.max(self.hits.len() * 2);
            }
        }
        self.threshold
    }

    fn compact(&mut self) {
        if self.k == 0 || self.hits.len() < self.k {
            return;
        }
        let (_, kth, _) = self.hits.select_nth_unstable_by(self.k - 1, |a, b| b.0.total_cmp(&a.0));
        let kth_score = kth.0;
        self.raise_threshold(kth_score);
        let threshold = self.threshold;
        self.hits.retain(|(score, _)| *score >= threshold);
        if self.hits.len() > self.k.saturating_add(TIES_MAX) {
            self.hits.sort_by(|a, b| b.0.total_cmp(&a.0));
            self.hits.truncate(self.k + TIES_MAX);
        }
    }

    /// The `k` best hits and the ties of the last, best first. The order of ties is unspecified.
    pub fn into_sorted(mut self) -> Vec<(f32, T)> {
        self.compact();
        self.hits.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_best_hits_and_their_ties_are_kept(
            scores in proptest::collection::vec((0u8..30).prop_map(f32::from), 0..500),
            k in 0usize..40,
        ) {
            let mut top = TopK::new(k);
            for (hit, score) in scores.iter().enumerate() {
                top.push(*score, hit);
            }
            let mut expected: Vec<(f32, usize)> = scores.iter().copied().zip(0..).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            let kth = k.checked_sub(1).and_then(|last| expected.get(last)).map(|e| e.0);
            expected.retain(|e| k > 0 && kth.is_none_or(|kth| e.0 >= kth));
            let mut found = top.into_sorted();
            prop_assert!(found.is_sorted_by(|a, b| a.0 >= b.0));
            let by_hit = |a: &(f32, usize), b: &(f32, usize)| a.1.cmp(&b.1);
            found.sort_by(by_hit);
            expected.sort_by(by_hit);
            prop_assert_eq!(found, expected);
        }
    }
}
