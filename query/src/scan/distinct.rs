//! How many different values a column has over several segments, from how many each of them has.
//!
//! Values of one segment are taken as drawn from a population of `p` values, all as likely: `n` draws find
//! about `p (1 - e^(-n/p))` different ones, which gives `p`. Segments whose bounds lie over each other draw from
//! the same population, those side by side from different ones: on average `f` lie over each other, where
//! `f` is the sum of their widths by the width of them all.

/// What one segment has of a column.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Values that are not null.
    pub values: f64,
    /// How many different ones.
    pub distinct: f64,
    /// How far its bounds are apart.
    pub width: Option<f64>,
}

/// The number for all segments together, whose bounds are `width` apart. `None` when nothing is known.
pub fn of_all(samples: &[Sample], width: Option<f64>) -> Option<f64> {
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
    let together = population(mean_values, mean_distinct)
        .map_or(mean_distinct * overlap, |population| drawn(population, mean_values * overlap));
    // No more than there are places between integral bounds, as far as this is one.
    Some((together * count / overlap).clamp(largest, sum))
}

/// Different values among `draws` from a population.
fn drawn(population: f64, draws: f64) -> f64 {
    -population * (-draws / population).exp_m1()
}

/// The population in which `draws` find `distinct` different values. `None` when it cannot be told from an
/// endless one.
fn population(draws: f64, distinct: f64) -> Option<f64> {
    // The counts themselves are as far off as this.
    const UNIQUE_SHARE: f64 = 0.95;
    if distinct >= draws * UNIQUE_SHARE {
        return None;
    }
    // drawn() rises with the population, from which it differs by a factor of at most 11 here.
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

    fn near(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found / wanted - 1.0).abs() < 0.05, "{found}, not {wanted}");
    }

    #[test]
    fn unique_values_add_up() {
        near(of_all(&[sample(1e6, 1e6, 1e7), sample(1e6, 0.98e6, 1e7)], Some(1e7)), 2e6);
    }

    #[test]
    fn few_values_are_the_same_everywhere() {
        near(of_all(&[sample(1e6, 7.0, 6.0); 10], Some(6.0)), 7.0);
        near(of_all(&[Sample { width: None, ..sample(1e6, 7.0, 6.0) }; 10], None), 7.0);
    }

    #[test]
    fn segments_side_by_side_have_values_of_their_own() {
        // Four lines an order, in the order of their numbers.
        near(of_all(&[sample(1e6, 0.25e6, 0.25e6); 8], Some(2e6)), 2e6);
    }

    #[test]
    fn samples_tell_of_the_population() {
        // 200,000 draws of a million values, four times.
        let distinct = drawn(1e6, 2e5);
        near(of_all(&[sample(2e5, distinct, 1e6); 4], Some(1e6)), drawn(1e6, 8e5));
    }

    #[test]
    fn nothing_is_known_of_nothing() {
        assert_eq!(of_all(&[], None), None);
        assert_eq!(of_all(&[sample(0.0, 0.0, 0.0)], Some(0.0)), Some(0.0));
    }
}
