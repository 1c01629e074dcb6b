//! About how far each centroid is from a query: by codes of the centroids. Reading the centroids themselves took a fifth of the time
//! of a walk among 500,000 vectors, and more of a short one.

use super::centroids::Centroids;
use super::quantization::{Factors, QuantizedQuery, code_bytes, encode, with_sum};

/// Codes of centroids, as differences from the point in the middle of all.
#[derive(Clone, Debug)]
pub struct CentroidCodes {
    middle: Vec<f32>,
    code_bytes: usize,
    codes: Vec<u8>,
    factors: Vec<Factors>,
}

impl CentroidCodes {
    pub fn new(centroids: &Centroids, length: usize) -> Self {
        let mut sums = vec![0.0f64; length];
        for centroid in centroids.all() {
            sums.iter_mut().zip(centroid).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let count = centroids.len().max(1) as f64;
        let middle: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
        let code_bytes = code_bytes(length);
        let mut codes = vec![0; centroids.len() * code_bytes];
        let encoded =
            centroids.all().zip(codes.chunks_exact_mut(code_bytes.max(1))).map(|(centroid, code)| {
                let difference: Vec<f32> = centroid.iter().zip(&middle).map(|(x, m)| x - m).collect();
                encode(&difference, code)
            });
        let factors = encoded.collect();
        Self { middle, code_bytes, codes, factors }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.factors.len() * size_of::<Factors>() + self.middle.len() * 4
    }

    /// About the inner product of a rotated query with each centroid, its sign changed.
    pub fn products(&self, rotated: &[f32], found: &mut Vec<f32>) {
        let query = QuantizedQuery::new(rotated, &vec![0.0; rotated.len()]);
        let first = crate::dot(&self.middle, rotated);
        self.each(&query, found);
        found.iter_mut().for_each(|product| *product = -first - *product);
    }

    /// About the square of the distance of a rotated query from each centroid.
    pub fn squares(&self, rotated: &[f32], found: &mut Vec<f32>) {
        let query = QuantizedQuery::new(rotated, &self.middle);
        let first = crate::squared_l2(&self.middle, rotated);
        self.each(&query, found);
        let with = found.iter_mut().zip(&self.factors);
        with.for_each(|(product, factors)| *product = first + factors.square - 2.0 * *product);
    }

    /// About the products of a query with what codes stand for.
    fn each(&self, query: &QuantizedQuery, found: &mut Vec<f32>) {
        let centroid_codes = self;
        with_sum!(products(centroid_codes: &CentroidCodes, query: &QuantizedQuery, found: &mut Vec<f32>));
    }
}

#[inline(always)]
fn products(
    centroid_codes: &CentroidCodes,
    query: &QuantizedQuery,
    found: &mut Vec<f32>,
    sum: impl Fn(&[u8], &[i8]) -> i32,
) {
    let codes =
        centroid_codes.codes.chunks_exact(centroid_codes.code_bytes.max(1)).zip(&centroid_codes.factors);
    found.clear();
    found.extend(codes.map(|(code, factors)| query.product(code, factors.scale, &sum)));
}

#[cfg(test)]
mod tests {
    use super::super::quantization::Random;
    use super::*;

    #[test]
    fn distances_are_about_those_of_the_centres() {
        const LENGTH: usize = 200;
        let mut random = Random::new(7);
        let mut vector = || -> Vec<f32> {
            (0..LENGTH).map(|_| (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.3).collect()
        };
        let centroids = Centroids::new(LENGTH, (0..50).flat_map(|_| vector()).collect());
        let (centroid_codes, query) = (CentroidCodes::new(&centroids, LENGTH), vector());
        let (mut squares, mut products) = (vec![], vec![]);
        centroid_codes.squares(&query, &mut squares);
        centroid_codes.products(&query, &mut products);
        assert_eq!((squares.len(), products.len()), (50, 50));
        for ((centroid, square), product) in centroids.all().zip(squares).zip(products) {
            let (exact, near) = (crate::squared_l2(centroid, &query), crate::dot(centroid, &query));
            assert!((square - exact).abs() < 0.02 * exact, "{square} for {exact}");
            assert!((-product - near).abs() < 0.05 * near.abs() + 0.5, "{product} for {near}");
        }
    }
}
