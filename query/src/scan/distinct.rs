//! Estimates the number of distinct values of a column over several segments, from the number in each of
//! them.
//!
//! The values of a segment are modeled as drawn uniformly from a population of `p` values: `n` draws find
//! about `p (1 - e^(-n/p))` distinct ones, which determines `p`. Segments whose bounds overlap draw from the
//! same population, segments side by side from different ones. On average `f` segments overlap, where `f` is
//! the sum of their widths divided by the width of all of them together.

/// What one segment knows of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Number of values that are not null.
    pub values: f64,
    /// Number of distinct values.
    pub distinct: f64,
    /// Distance between the bounds.
    pub width: Option<f64>,
}

/// The estimate for all segments together, whose bounds are `width` apart. `None` without samples.
pub(crate) fn estimate(samples: &[Sample], width: Option<f64>) -> Option<f64> {
    let count = samples.len() as f64;
    let sum: f64 = samples.iter().map(|s| s.distinct).sum();
    let largest = samples.iter().map(|s| s.distinct).fold(f64::NEG_INFINITY, f64::max);
    if samples.is_empty() {
        return None;
    }
    let widths: Option<f64> = samples.iter().map(|s| s.width).sum();
    let overlap = match (widths, width) {
        (Some(sum), Some(all)) if all > 0.0 => (sum / all).clamp(1.0, count),
        _ => count,
    };
    let values: f64 = samples.iter().map(|s| s.values).sum();
    let (mean_values, mean_distinct) = (values / count, sum / count);
    let distinct = population(mean_values, mean_distinct)
        .map_or(mean_distinct * overlap, |population| drawn(population, mean_values * overlap));
    // At least as many as in the largest segment, at most as many as if all values differed.
    Some((distinct * count / overlap).clamp(largest, sum))
}

/// The expected number of distinct values among `draws` from a population.
fn drawn(population: f64, draws: f64) -> f64 {
    -population * (-draws / population).exp_m1()
}

/// The size of the population in which `draws` find `distinct` distinct values. `None` when it is too large
/// to be distinguished from an infinite one.
fn population(draws: f64, distinct: f64) -> Option<f64> {
    // The distinct counts are estimates with an error of about this size.
    const UNIQUE_SHARE: f64 = 0.95;
    if distinct >= draws * UNIQUE_SHARE {
        return None;
    }
    // Bisection: drawn() grows with the population, which here is at most 11 times as large as its result.
    let (mut low, mut high) = (distinct, distinct * 11.0 + 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if drawn(middle, draws) < distinct { low = middle } else { high = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: f64, distinct: f64, width: f64) -> Sample {
        Sample { values, distinct, width: Some(width) }
    }

    fn assert_near(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found / wanted - 1.0).abs() < 0.05, "{found} is not near {wanted}");
    }

    #[test]
    fn unique_values_add_up() {
        assert_near(estimate(&[sample(1e6, 1e6, 1e7), sample(1e6, 0.98e6, 1e7)], Some(1e7)), 2e6);
    }

    #[test]
    fn few_values_are_the_same_in_all_segments() {
        assert_near(estimate(&[sample(1e6, 7.0, 6.0); 10], Some(6.0)), 7.0);
        assert_near(estimate(&[Sample { width: None, ..sample(1e6, 7.0, 6.0) }; 10], None), 7.0);
    }

    #[test]
    fn segments_side_by_side_have_different_values() {
        // For example four lines per order, sorted by the order number.
        assert_near(estimate(&[sample(1e6, 0.25e6, 0.25e6); 8], Some(2e6)), 2e6);
    }

    #[test]
    fn overlapping_segments_share_a_population() {
        // Four times 200,000 draws from a million values.
        let distinct = drawn(1e6, 2e5);
        assert_near(estimate(&[sample(2e5, distinct, 1e6); 4], Some(1e6)), drawn(1e6, 8e5));
    }

    #[test]
    fn without_samples_there_is_no_estimate() {
        assert_eq!(estimate(&[], None), None);
        assert_eq!(estimate(&[sample(0.0, 0.0, 0.0)], Some(0.0)), Some(0.0));
    }
}
