//! Distances of vectors, the same bits on every processor.
//!
//! Sums are kept in 64 lanes, lane *i* taking every 64th component from *i* on, each by one fused multiplication and
//! addition, and are added up in pairs in the end. Instructions differ in how many lanes they take at once, and not in
//! what comes out.

use plexus_model::{Error, Metric, Result};

use crate::simd::widest;

const LANES: usize = 64;

/// Between two vectors of the same length. With a vector of zeros the cosine is not defined, and the distance taken to
/// be 1, as of vectors at a right angle.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Cosine => cosine(dot(a, b), dot(a, a), dot(b, b)),
        Metric::L2 => squared_l2(a, b).sqrt(),
        Metric::Dot => -dot(a, b),
    }
}

/// The distance by the cosine, from inner products.
fn cosine(product: f32, a: f32, b: f32) -> f32 {
    let lengths = (f64::from(a) * f64::from(b)).sqrt();
    if lengths == 0.0 {
        return 1.0;
    }
    (1.0 - f64::from(product) / lengths).clamp(0.0, 2.0) as f32
}

/// Distances of many vectors from one.
#[derive(Clone, Debug)]
pub struct VectorQuery {
    metric: Metric,
    vector: Vec<f32>,
    /// Inner product with itself.
    square: f32,
}

impl VectorQuery {
    /// # Errors
    /// `InvalidArgument` when a component is no finite number, or all are zero and the metric needs a direction.
    pub fn new(metric: Metric, vector: Vec<f32>) -> Result<Self> {
        if let Some(place) = vector.iter().position(|x| !x.is_finite()) {
            return Err(Error::invalid(format!(
                "component {} of the query vector is {}: finite numbers are needed",
                place + 1,
                vector[place]
            )));
        }
        let square = dot(&vector, &vector);
        if !square.is_finite() {
            return Err(Error::invalid("the query vector is too long: its square is no finite number"));
        }
        if metric == Metric::Cosine && square == 0.0 {
            return Err(Error::invalid("the query vector is zero, which has no direction for the cosine"));
        }
        Ok(Self { metric, vector, square })
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// The square of its length.
    pub fn square(&self) -> f32 {
        self.square
    }

    /// The same as [`distance`].
    pub fn distance(&self, other: &[f32]) -> f32 {
        match self.metric {
            Metric::Cosine => cosine(dot(&self.vector, other), self.square, dot(other, other)),
            metric => distance(metric, &self.vector, other),
        }
    }
}

/// The inner product of two vectors of the same length.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dispatch(a, b, Sum::Product)
}

/// The square of the Euclidean distance.
pub fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    dispatch(a, b, Sum::SquaredDifference)
}

#[derive(Clone, Copy)]
enum Sum {
    Product,
    SquaredDifference,
}

fn dispatch(a: &[f32], b: &[f32], sum: Sum) -> f32 {
    widest!(lanes(a: &[f32], b: &[f32], sum: Sum) -> f32)
}

#[inline(always)]
fn lanes(a: &[f32], b: &[f32], sum: Sum) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of different lengths");
    match sum {
        Sum::Product => sum_lanes(a, b, |x, y, sum| x.mul_add(y, sum)),
        Sum::SquaredDifference => sum_lanes(a, b, |x, y, sum| (x - y).mul_add(x - y, sum)),
    }
}

#[inline(always)]
fn sum_lanes(a: &[f32], b: &[f32], add: impl Fn(f32, f32, f32) -> f32) -> f32 {
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
    use proptest::prelude::*;

    use super::*;

    /// Two vectors of the same length.
    fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (0usize..400).prop_flat_map(|length| {
            let vector = || proptest::collection::vec(-10.0f32..10.0, length);
            (vector(), vector())
        })
    }

    proptest! {
        #[test]
        fn instructions_do_not_change_a_bit((a, b) in pair()) {
            for sum in [Sum::Product, Sum::SquaredDifference] {
                prop_assert_eq!(dispatch(&a, &b, sum).to_bits(), lanes(&a, &b, sum).to_bits());
            }
        }

        #[test]
        fn sums_are_near_those_in_double_precision((a, b) in pair()) {
            let exact = |f: fn(f64, f64) -> f64| -> f64 {
                a.iter().zip(&b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
            };
            let near = |sum: f32, exact: f64| (f64::from(sum) - exact).abs() <= 1e-2;
            prop_assert!(near(dot(&a, &b), exact(|x, y| x * y)));
            prop_assert!(near(squared_l2(&a, &b), exact(|x, y| (x - y) * (x - y))));
        }

        #[test]
        fn a_query_measures_as_its_metric_does((a, b) in pair()) {
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                if let Ok(query) = VectorQuery::new(metric, a.clone()) {
                    prop_assert_eq!(query.distance(&b).to_bits(), distance(metric, &a, &b).to_bits());
                }
            }
        }
    }

    #[test]
    fn distances_are_what_they_are_called() {
        let (a, b) = ([3.0, 0.0], [0.0, 4.0]);
        assert_eq!(distance(Metric::L2, &a, &b), 5.0);
        assert_eq!(distance(Metric::Cosine, &a, &b), 1.0);
        assert_eq!(distance(Metric::Cosine, &a, &a), 0.0);
        assert_eq!(distance(Metric::Dot, &a, &a), -9.0);
        assert_eq!(distance(Metric::Cosine, &a, &[0.0, 0.0]), 1.0);
    }

    #[test]
    fn queries_that_have_no_distance_are_refused() {
        for (metric, vector, words) in [
            (Metric::L2, vec![1.0, f32::NAN], "component 2 of the query vector is NaN"),
            (Metric::L2, vec![f32::INFINITY], "component 1 of the query vector is inf"),
            (Metric::Cosine, vec![0.0, 0.0], "no direction"),
        ] {
            let error = VectorQuery::new(metric, vector).unwrap_err();
            assert!(error.message().contains(words), "{error}");
        }
    }
}
