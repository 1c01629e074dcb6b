//! Scalar quantization of vectors to four bits a component, and approximate inner products with a query.
//!
//! After a random rotation, the residual of a vector from its centroid is stored as levels from 0 to 15,
//! which stand for `(level - 7.5) * scale` with a scale of its own. A query is quantized to signed eight-bit
//! levels, so that an inner product is a sum of integers and has the same value on every processor.
//!
//! These are the codes of extended RaBitQ, except that only a few scales are tried instead of searching the
//! best one (Gao et al.: "Practical and asymptotically optimal quantization of high-dimensional vectors in
//! Euclidean space for approximate nearest neighbor search", 2024; the base method is Gao and Long: "RaBitQ",
//! SIGMOD 2024).

use crate::simd::with_widest_simd;

/// Components that one step of a code dot product takes. Codes are padded to a multiple of it.
pub(super) const BLOCK_DIMENSIONS: usize = 128;
/// The level that stands for zero, between 7 and 8.
const LEVEL_ZERO: f32 = 7.5;
/// Padding of a code: level 7 in both halves of a byte. The query has level 0 there, so any value would do.
const PADDING: u8 = 0x77;
/// Scales that are tried for a vector, relative to the scale that represents its largest component exactly.
const SCALE_CANDIDATES: [f32; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];
/// The largest level of a quantized query.
const QUERY_LEVEL_MAX: f32 = 127.0;
/// Independent maxima that are computed at once, since a single running maximum would wait for each
/// comparison.
const LANES: usize = 32;
/// 1.5 * 2^23. The distance between neighboring floats is 1 there, so that adding it rounds to a whole
/// number.
const ROUNDING: f32 = 12_582_912.0;

/// Size of the code of a vector in bytes.
pub(crate) fn code_bytes(dimensions: usize) -> usize {
    dimensions.div_ceil(BLOCK_DIMENSIONS) * BLOCK_DIMENSIONS / 2
}

/// The numbers that are stored with a code.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CodeFactors {
    /// Distance between neighboring levels, chosen to minimize the squared error.
    pub(crate) scale: f32,
    /// The squared norm of the residual before quantization.
    pub(crate) norm_squared: f32,
}

/// Encodes the residual of a rotated vector from its centroid into `code`, which is [`code_bytes`] long.
pub(crate) fn encode(residual: &[f32], code: &mut [u8]) -> CodeFactors {
    let largest = residual.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let norm_squared = crate::dot(residual, residual);
    if largest == 0.0 {
        code.fill(PADDING);
        return CodeFactors { scale: 0.0, norm_squared };
    }
    let level = |x: f32, scale: f32| (x / scale + LEVEL_ZERO).round_ties_even().clamp(0.0, 15.0);
    // For the levels l of a candidate, the error |x - s*l|^2 is least for s = x.l / l.l, where it is
    // |x|^2 - (x.l)^2 / l.l. The candidate with the largest second term wins.
    let fit = |candidate: f32| {
        let scale = largest * candidate / LEVEL_ZERO;
        let (mut product, mut squares) = (0.0f32, 0.0f32);
        for x in residual {
            let centered = level(*x, scale) - LEVEL_ZERO;
            product += x * centered;
            squares += centered * centered;
        }
        (product * product / squares, scale, product / squares)
    };
    let best = SCALE_CANDIDATES.into_iter().map(fit).max_by(|a, b| a.0.total_cmp(&b.0));
    let (_, scale, fitted_scale) = best.unwrap_or_default();
    code.fill(PADDING);
    for (component, x) in residual.iter().enumerate() {
        write_level(code, component, level(*x, scale) as u8);
    }
    CodeFactors { scale: fitted_scale, norm_squared }
}

/// Stores the level of a component. The first half of each block of components is in the lower four bits of
/// its bytes, the second half in the upper four: one load and a mask then give 64 consecutive components.
fn write_level(code: &mut [u8], component: usize, level: u8) {
    let (block, offset) = (component / BLOCK_DIMENSIONS, component % BLOCK_DIMENSIONS);
    let byte = &mut code[block * BLOCK_DIMENSIONS / 2 + offset % (BLOCK_DIMENSIONS / 2)];
    *byte = match offset < BLOCK_DIMENSIONS / 2 {
        true => (*byte & 0xf0) | level,
        false => (*byte & 0x0f) | (level << 4),
    };
}

/// A query that is quantized for inner products with codes.
#[derive(Clone, Debug)]
pub(crate) struct QuantizedQuery {
    /// Components as levels from -127 to 127, padded with zeros to a multiple of [`BLOCK_DIMENSIONS`].
    levels: Vec<i8>,
    /// The value of level 1.
    scale: f32,
    /// The sum of the levels times [`LEVEL_ZERO`]: what the offset of the code levels adds to each product.
    offset: f32,
}

impl QuantizedQuery {
    /// Quantizes `rotated - origin`.
    pub(crate) fn new(rotated: &[f32], origin: &[f32]) -> Self {
        let mut levels = vec![0i8; rotated.len().div_ceil(BLOCK_DIMENSIONS) * BLOCK_DIMENSIONS];
        let to = levels.as_mut_slice();
        let (scale, sum) =
            with_widest_simd!(quantize(rotated: &[f32], origin: &[f32], to: &mut [i8]) -> (f32, i32));
        Self { levels, scale, offset: sum as f32 * LEVEL_ZERO }
    }

    /// The approximate inner product with the residual behind a code. `code_dot` comes from
    /// [`with_code_dot`](super::code_dot::with_code_dot).
    #[inline(always)]
    pub(crate) fn inner_product(
        &self,
        code: &[u8],
        code_scale: f32,
        code_dot: impl Fn(&[u8], &[i8]) -> i32,
    ) -> f32 {
        (code_dot(code, &self.levels) as f32 - self.offset) * self.scale * code_scale
    }
}

/// Quantizes `vector - origin` to `levels`. Returns the value of level 1 and the sum of the levels.
#[inline(always)]
fn quantize(vector: &[f32], origin: &[f32], levels: &mut [i8]) -> (f32, i32) {
    let mut largest = [f32::MIN_POSITIVE; LANES];
    for (x, c) in vector.chunks(LANES).zip(origin.chunks(LANES)) {
        for (largest, (x, c)) in largest.iter_mut().zip(x.iter().zip(c)) {
            let size = (x - c).abs();
            *largest = if size > *largest { size } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(0.0f32, f32::max);
    if largest <= f32::MIN_POSITIVE {
        levels.fill(0);
        return (0.0, 0);
    }
    let levels_per_unit = QUERY_LEVEL_MAX / largest;
    let mut sum = 0i32;
    for (to, (x, c)) in levels.iter_mut().zip(vector.iter().zip(origin)) {
        // The lowest mantissa bits of the sum hold the rounded level. Unlike a conversion to an integer with
        // its saturation, this compiles to few vector instructions.
        let level =
            (((x - c) * levels_per_unit + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32);
        *to = level as i8;
        sum += level;
    }
    (largest / QUERY_LEVEL_MAX, sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::code_dot::code_dot_portable;
    use super::*;

    fn vector(dimensions: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-1.0f32..1.0, dimensions)
    }

    proptest! {
        #[test]
        fn inner_products_of_codes_are_near_the_exact_ones(a in vector(384), b in vector(384)) {
            let mut code = vec![0; code_bytes(384)];
            let factors = encode(&a, &mut code);
            let query = QuantizedQuery::new(&b, &[0.0; 384]);
            let exact = crate::dot(&a, &b);
            let error = (query.inner_product(&code, factors.scale, code_dot_portable) - exact).abs();
            // An error of up to a sixteenth of the range for each component, with random signs.
            prop_assert!(error < 3.0, "for {exact}");
        }
    }
}
