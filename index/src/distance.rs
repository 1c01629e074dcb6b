//! Distances between vectors, bitwise identical on every processor.
//!
//! A sum is kept in 64 lanes. Lane *i* accumulates every 64th component from *i* on, one fused multiply-add
//! per component; in the end the lanes are added in pairs. Instruction sets differ in how many lanes they
//! process at once, but not in the result.

use plexus_model::{Error, Metric, Result};

use crate::simd::with_widest_simd;

const LANES: usize = 64;

/// The distance between two vectors with the same number of dimensions; smaller is nearer.
///
/// - `Cosine`: `1 - a·b / (|a| |b|)`, from 0 to 2; 1 if a vector is zero, which makes the cosine undefined.
/// - `L2`: the Euclidean distance.
/// - `Dot`: the negated inner product.
///
/// # Panics
/// When the vectors have different numbers of dimensions.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Cosine => cosine(a, dot(a, a), b),
        Metric::L2 => squared_l2(a, b).sqrt(),
        Metric::Dot => -dot(a, b),
    }
}

/// Squared norms from which 32 bits hold the products of components with enough digits.
const NORM_SQUARED_MIN: f32 = 1e-30;

/// The cosine distance between two vectors, of which the first has a known squared norm.
fn cosine(a: &[f32], a_norm_squared: f32, b: &[f32]) -> f32 {
    let b_norm_squared = dot(b, b);
    let is_safe = |norm: f32| norm.is_finite() && norm >= NORM_SQUARED_MIN;
    if is_safe(a_norm_squared) && is_safe(b_norm_squared) {
        return cosine_distance(dot(a, b), a_norm_squared, b_norm_squared);
    }
    // Products of very short or very long vectors underflow or overflow 32 bits.
    let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (sum(a, a) * sum(b, b)).sqrt();
    if norms == 0.0 {
        return 1.0;
    }
    (1.0 - sum(a, b) / norms).clamp(0.0, 2.0) as f32
}

/// The cosine distance from the inner product of two vectors and their squared norms.
fn cosine_distance(product: f32, a_norm_squared: f32, b_norm_squared: f32) -> f32 {
    let norms = (f64::from(a_norm_squared) * f64::from(b_norm_squared)).sqrt();
    if norms == 0.0 {
        return 1.0;
    }
    (1.0 - f64::from(product) / norms).clamp(0.0, 2.0) as f32
}

/// A validated query vector with its metric, for the distances of many vectors from it.
#[derive(Clone, Debug)]
pub struct VectorQuery {
    metric: Metric,
    vector: Vec<f32>,
    norm_squared: f32,
}

impl VectorQuery {
    /// Validates a query vector.
    ///
    /// # Errors
    /// `InvalidArgument` when a component or the squared norm is not finite, or when the vector is zero and
    /// the metric is `Cosine`.
    pub fn new(metric: Metric, vector: Vec<f32>) -> Result<Self> {
        if let Some(component) = vector.iter().position(|x| !x.is_finite()) {
            return Err(Error::invalid(format!(
                "component {} of the query vector is {}; components must be finite numbers",
                component + 1,
                vector[component]
            )));
        }
        let norm_squared = dot(&vector, &vector);
        if !norm_squared.is_finite() {
            return Err(Error::invalid("the norm of the query vector is too large"));
        }
        if metric == Metric::Cosine && norm_squared == 0.0 {
            return Err(Error::invalid("the query vector is zero and has no direction for the cosine"));
        }
        Ok(Self { metric, vector, norm_squared })
    }

    /// The metric of the distances.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The components of the query vector.
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// The squared Euclidean norm of the query vector.
    pub fn norm_squared(&self) -> f32 {
        self.norm_squared
    }

    /// The [`distance`] between the query and another vector with the same number of dimensions.
    pub fn distance(&self, other: &[f32]) -> f32 {
        match self.metric {
            Metric::Cosine => cosine(&self.vector, self.norm_squared, other),
            metric => distance(metric, &self.vector, other),
        }
    }
}

/// The inner product of two vectors.
///
/// # Panics
/// When the vectors have different numbers of dimensions.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dispatch(a, b, Sum::Product)
}

/// The squared Euclidean distance between two vectors.
///
/// # Panics
/// When the vectors have different numbers of dimensions.
pub fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    dispatch(a, b, Sum::SquaredDifference)
}

/// What is summed over the components of two vectors.
#[derive(Clone, Copy)]
enum Sum {
    Product,
    SquaredDifference,
}

fn dispatch(a: &[f32], b: &[f32], sum: Sum) -> f32 {
    with_widest_simd!(sum_components(a: &[f32], b: &[f32], sum: Sum) -> f32)
}

#[inline(always)]
fn sum_components(a: &[f32], b: &[f32], sum: Sum) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions");
    match sum {
        Sum::Product => sum_in_lanes(a, b, |x, y, sum| x.mul_add(y, sum)),
        Sum::SquaredDifference => sum_in_lanes(a, b, |x, y, sum| (x - y).mul_add(x - y, sum)),
    }
}

#[inline(always)]
fn sum_in_lanes(a: &[f32], b: &[f32], add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        for lane in 0..LANES {
            sums[lane] = add(x[lane], y[lane], sums[lane]);
        }
    }
    for (lane, (x, y)) in rest_a.iter().zip(rest_b).enumerate() {
        sums[lane] = add(*x, *y, sums[lane]);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cosine_of_very_short_and_very_long_vectors_is_exact() {
        let right = [1.0, 0.0];
        for (vector, expected) in [
            ([1e-23f32, 0.0], 0.0),
            ([2e19, 0.0], 0.0),
            ([0.0, 3e37], 1.0),
            ([-1e20, 0.0], 2.0),
            ([1e-21, 1e-21], 0.292_893_2),
        ] {
            let found = super::distance(plexus_model::Metric::Cosine, &vector, &right);
            assert!((found - expected).abs() < 1e-6, "{vector:?}: {found}");
        }
    }

    use proptest::prelude::*;

    use super::*;

    /// Two vectors with the same number of dimensions.
    fn vector_pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (0usize..400).prop_flat_map(|dimensions| {
            let vector = || proptest::collection::vec(-10.0f32..10.0, dimensions);
            (vector(), vector())
        })
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_the_instruction_set((a, b) in vector_pair()) {
            for sum in [Sum::Product, Sum::SquaredDifference] {
                prop_assert_eq!(dispatch(&a, &b, sum).to_bits(), sum_components(&a, &b, sum).to_bits());
            }
        }

        #[test]
        fn sums_are_near_those_in_double_precision((a, b) in vector_pair()) {
            let exact = |f: fn(f64, f64) -> f64| -> f64 {
                a.iter().zip(&b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
            };
            let near = |sum: f32, exact: f64| (f64::from(sum) - exact).abs() <= 1e-2;
            prop_assert!(near(dot(&a, &b), exact(|x, y| x * y)));
            prop_assert!(near(squared_l2(&a, &b), exact(|x, y| (x - y) * (x - y))));
        }

        #[test]
        fn a_query_gives_the_distance_of_its_metric((a, b) in vector_pair()) {
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                if let Ok(query) = VectorQuery::new(metric, a.clone()) {
                    prop_assert_eq!(query.distance(&b).to_bits(), distance(metric, &a, &b).to_bits());
                }
            }
        }
    }

    #[test]
    fn distances_of_simple_vectors() {
        let (a, b) = ([3.0, 0.0], [0.0, 4.0]);
        assert_eq!(distance(Metric::L2, &a, &b), 5.0);
        assert_eq!(distance(Metric::Cosine, &a, &b), 1.0);
        assert_eq!(distance(Metric::Cosine, &a, &a), 0.0);
        assert_eq!(distance(Metric::Dot, &a, &a), -9.0);
        assert_eq!(distance(Metric::Cosine, &a, &[0.0, 0.0]), 1.0);
    }

    #[test]
    fn invalid_query_vectors_are_rejected() {
        for (metric, vector, expected) in [
            (Metric::L2, vec![1.0, f32::NAN], "component 2 of the query vector is NaN"),
            (Metric::L2, vec![f32::INFINITY], "component 1 of the query vector is inf"),
            (Metric::Cosine, vec![0.0, 0.0], "no direction"),
        ] {
            let error = VectorQuery::new(metric, vector).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        }
    }
}
