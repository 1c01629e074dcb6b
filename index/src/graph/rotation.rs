//! Random rotation of vectors, so that all components have a similar distribution before they are quantized.

use super::random::SplitMix64;
use crate::simd::with_widest_simd;

const ROUNDS: usize = 4;

/// A random rotation, as a sequence of random sign flips and Hadamard transforms.
///
/// A transform needs a power of two. Rounds alternate between the first and the last `block` components, so
/// that all components mix (the fast Kac's walk of the RaBitQ implementations).
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    dimensions: usize,
    /// The largest power of two that is at most `dimensions`.
    block: usize,
    /// The signs of each round, one for each component.
    signs: Vec<Vec<f32>>,
}

impl Rotation {
    /// The rotation that a seed determines.
    pub(crate) fn new(dimensions: usize, seed: u64) -> Self {
        let block = if dimensions == 0 { 0 } else { 1 << dimensions.ilog2() };
        let mut random = SplitMix64::new(seed);
        let sign = |bits: u64| if bits & 1 == 1 { 1.0 } else { -1.0 };
        let signs =
            (0..ROUNDS).map(|_| (0..dimensions).map(|_| sign(random.next() >> 32)).collect()).collect();
        Self { dimensions, block, signs }
    }

    /// Rotates a vector in place. Preserves norms and inner products up to rounding.
    pub(crate) fn apply(&self, vector: &mut [f32]) {
        let rotation = self;
        with_widest_simd!(rotate(rotation: &Rotation, vector: &mut [f32]) -> ());
    }
}

#[inline(always)]
fn rotate(rotation: &Rotation, vector: &mut [f32]) {
    for (round, signs) in rotation.signs.iter().enumerate() {
        vector.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
        let start = if round % 2 == 0 { 0 } else { rotation.dimensions - rotation.block };
        hadamard_transform(&mut vector[start..start + rotation.block]);
    }
}

/// The orthonormal fast Walsh-Hadamard transform. The number of values is a power of two.
#[inline(always)]
fn hadamard_transform(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (x, y) in a.iter_mut().zip(b) {
                (*x, *y) = (*x + *y, *x - *y);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(dimensions: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-1.0f32..1.0, dimensions)
    }

    proptest! {
        #[test]
        fn rotations_preserve_inner_products(
            (a, b) in (1usize..300).prop_flat_map(|n| (vector(n), vector(n))),
            seed in any::<u64>(),
        ) {
            let rotation = Rotation::new(a.len(), seed);
            let (mut x, mut y) = (a.clone(), b.clone());
            rotation.apply(&mut x);
            rotation.apply(&mut y);
            prop_assert!((crate::dot(&a, &b) - crate::dot(&x, &y)).abs() < 1e-3);
        }
    }
}
