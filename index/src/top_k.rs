//! The best of many hits.

/// Hits that are equal to the last that counts, and are kept: of more, those that come first stay.
const EQUALS_MAX: usize = 100_000;

/// Keeps hits that may be among the best `k` of all, by a score of which more is better. Where several have the
/// lowest score that counts, all of them are kept: who comes first among equals is decided by whoever knows the rows.
#[derive(Clone, Debug)]
pub struct TopK<T> {
    k: usize,
    hits: Vec<(f32, T)>,
    /// When so many are there, those that cannot count go.
    full: usize,
    threshold: f32,
}

impl<T> TopK<T> {
    pub fn new(k: usize) -> Self {
        // The first time soon, so that there is a threshold.
        let full = k.saturating_add((k / 2).max(6));
        let threshold = if k == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { k, hits: Vec::new(), full, threshold }
    }

    /// A hit below it is not among the best.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Takes note that hits below a score are not among the best, as it is known from elsewhere.
    pub fn raise(&mut self, threshold: f32) {
        self.threshold = self.threshold.max(threshold);
    }

    /// Takes a hit, and gives the threshold from now on.
    pub fn push(&mut self, score: f32, hit: T) -> f32 {
        if score >= self.threshold {
            self.hits.push((score, hit));
            if self.hits.len() >= self.full {
                self.cut();
                // With many equals at the end there is nothing to cut: look again when there are twice as many.
                self.full = self.full.max(self.hits.len() * 2);
            }
        }
        self.threshold
    }

    fn cut(&mut self) {
        if self.k == 0 || self.hits.len() < self.k {
            return;
        }
        let (_, lowest, _) = self.hits.select_nth_unstable_by(self.k - 1, |a, b| b.0.total_cmp(&a.0));
        let lowest = lowest.0;
        self.raise(lowest);
        let threshold = self.threshold;
        self.hits.retain(|(score, _)| *score >= threshold);
        if self.hits.len() > self.k.saturating_add(EQUALS_MAX) {
            self.hits.sort_by(|a, b| b.0.total_cmp(&a.0));
            self.hits.truncate(self.k + EQUALS_MAX);
        }
    }

    /// The best, the best first; after the `k`-th those that are equal to it.
    pub fn into_sorted(mut self) -> Vec<(f32, T)> {
        self.cut();
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
        fn the_best_and_their_equals_are_kept(
            scores in proptest::collection::vec((0u8..30).prop_map(f32::from), 0..500),
            k in 0usize..40,
        ) {
            let mut top = TopK::new(k);
            for (hit, score) in scores.iter().enumerate() {
                top.push(*score, hit);
            }
            let mut expected: Vec<(f32, usize)> = scores.iter().copied().zip(0..).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            let lowest = k.checked_sub(1).and_then(|last| expected.get(last)).map(|e| e.0);
            expected.retain(|e| k > 0 && lowest.is_none_or(|lowest| e.0 >= lowest));
            let mut found = top.into_sorted();
            prop_assert!(found.is_sorted_by(|a, b| a.0 >= b.0));
            let by_hit = |a: &(f32, usize), b: &(f32, usize)| a.1.cmp(&b.1);
            found.sort_by(by_hit);
            expected.sort_by(by_hit);
            prop_assert_eq!(found, expected);
        }
    }
}
