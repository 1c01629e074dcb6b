//! Vectors in four bits a component, and how near they are to a query as far as that tells.
//!
//! A vector is turned by a random rotation, after which its components are alike, and stored as its difference from a
//! centroid near it: whole numbers from 0 to 15 around 7.5, times a scale of its own. The inner product with a query, whose
//! components are whole numbers of eight bits, is a sum of integers, the same on every processor (after Gao et al.:
//! "Practical and asymptotically optimal quantization of high-dimensional vectors", 2024, whose codes these are but for the
//! search for the best scale).

use crate::simd::widest;

/// Components that one step takes: codes are padded to a multiple of it.
const STEP: usize = 128;
const MIDDLE: f32 = 7.5;
/// Scales that are tried for a vector, as shares of the one that its largest component needs.
const SHARES: [f32; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];

/// A random rotation of vectors of some length: signs and Hadamard transforms, alternately of the first and the last
/// components (after Kac's walk).
#[derive(Clone, Debug)]
pub struct Rotation {
    length: usize,
    /// The largest power of two that is not above the length.
    block: usize,
    signs: Vec<Vec<f32>>,
}

const ROUNDS: usize = 4;

impl Rotation {
    pub fn new(length: usize, seed: u64) -> Self {
        let block = if length == 0 { 0 } else { 1 << length.ilog2() };
        let mut random = Random::new(seed);
        let sign = |bits: u64| if bits & 1 == 1 { 1.0 } else { -1.0 };
        let signs = (0..ROUNDS).map(|_| (0..length).map(|_| sign(random.next() >> 32)).collect()).collect();
        Self { length, block, signs }
    }

    /// Turns a vector. Lengths and inner products stay as they are, but for rounding.
    pub fn apply(&self, vector: &mut [f32]) {
        let rotation = self;
        widest!(rotate(rotation: &Rotation, vector: &mut [f32]) -> ());
    }
}

#[inline(always)]
fn rotate(rotation: &Rotation, vector: &mut [f32]) {
    for (round, signs) in rotation.signs.iter().enumerate() {
        vector.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
        let start = if round % 2 == 0 { 0 } else { rotation.length - rotation.block };
        hadamard(&mut vector[start..start + rotation.block]);
    }
}

#[inline(always)]
fn hadamard(values: &mut [f32]) {
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

/// Numbers that a seed decides (Steele, Lea and Flood: "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Bytes of the code of a vector.
pub fn code_bytes(length: usize) -> usize {
    length.div_ceil(STEP) * STEP / 2
}

/// What goes with a code: its scale, and the square of the length of what it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    pub scale: f32,
    pub square: f32,
}

/// Encodes the difference of a rotated vector from its centroid.
pub fn encode(difference: &[f32], code: &mut [u8]) -> Factors {
    let largest = difference.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let square = crate::dot(difference, difference);
    if largest == 0.0 {
        code.fill(0x77);
        return Factors { scale: 0.0, square };
    }
    let level = |x: f32, scale: f32| (x / scale + MIDDLE).round_ties_even().clamp(0.0, 15.0);
    // The scale that leaves least of the vector out, given the levels that it leads to.
    let fit = |share: f32| {
        let scale = largest * share / MIDDLE;
        let (mut product, mut squares) = (0.0f32, 0.0f32);
        for x in difference {
            let centred = level(*x, scale) - MIDDLE;
            product += x * centred;
            squares += centred * centred;
        }
        (product * product / squares, scale, product / squares)
    };
    let best = SHARES.into_iter().map(fit).max_by(|a, b| a.0.total_cmp(&b.0));
    let (_, scale, fitted) = best.unwrap_or_default();
    code.fill(0x77);
    for (place, x) in difference.iter().enumerate() {
        put(code, place, level(*x, scale) as u8);
    }
    Factors { scale: fitted, square }
}

/// Of each step the first half of the components are in the lower halves of its bytes, the others in the upper ones.
fn put(code: &mut [u8], place: usize, level: u8) {
    let (step, inside) = (place / STEP, place % STEP);
    let byte = &mut code[step * STEP / 2 + inside % (STEP / 2)];
    *byte = match inside < STEP / 2 {
        true => (*byte & 0xf0) | level,
        false => (*byte & 0x0f) | (level << 4),
    };
}

/// A query, ready to be compared with codes.
#[derive(Clone, Debug)]
pub struct QuantizedQuery {
    /// Components as whole numbers, in the order of the codes.
    levels: Vec<i8>,
    /// What one of them stands for.
    unit: f32,
    /// Their sum, times the middle of the codes.
    middle: f32,
}

impl QuantizedQuery {
    /// Of the difference of two vectors.
    pub fn new(rotated: &[f32], middle: &[f32]) -> Self {
        let mut levels = vec![0i8; rotated.len().div_ceil(STEP) * STEP];
        let to = levels.as_mut_slice();
        let (unit, sum) = widest!(quantize(rotated: &[f32], middle: &[f32], to: &mut [i8]) -> (f32, i32));
        Self { levels, unit, middle: sum as f32 * MIDDLE }
    }

    /// About the inner product of the query with what a code stands for.
    #[inline(always)]
    pub fn product(&self, code: &[u8], scale: f32, sum: impl Fn(&[u8], &[i8]) -> i32) -> f32 {
        (sum(code, &self.levels) as f32 - self.middle) * self.unit * scale
    }
}

/// The difference of two vectors as whole numbers: what one of them stands for, and their sum.
#[inline(always)]
fn quantize(vector: &[f32], middle: &[f32], levels: &mut [i8]) -> (f32, i32) {
    // In lanes, since a maximum of all in a row waits for each.
    let mut largest = [f32::MIN_POSITIVE; LANES];
    for (x, c) in vector.chunks(LANES).zip(middle.chunks(LANES)) {
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
    let steps = 127.0 / largest;
    let mut sum = 0i32;
    for (level, (x, c)) in levels.iter_mut().zip(vector.iter().zip(middle)) {
        // At most 127 on both sides. The number is rounded as it loses its fraction for lack of bits.
        let step = (((x - c) * steps + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32);
        *level = step as i8;
        sum += step;
    }
    (largest / 127.0, sum)
}

const LANES: usize = 32;
/// Between 2^23 and 2^24, where one number follows the other by one.
const ROUNDING: f32 = 12_582_912.0;

/// Calls a function that is `#[inline(always)]` with the fastest sum of products of levels of a code and of a query that
/// the processor has, compiled into it.
macro_rules! with_sum {
    ($function:ident($($name:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn wide($($name: $type),*) {
            $function($($name,)* |code: &[u8], levels: &[i8]| $crate::graph::quantization::sum_512(code, levels))
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn narrow($($name: $type),*) {
            $function($($name,)* $crate::graph::quantization::sum_any)
        }
        #[cfg(target_arch = "x86_64")]
        let has_512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bw");
        #[cfg(target_arch = "x86_64")]
        if has_512 {
            // SAFETY: the processor has what the function is compiled for.
            #[allow(unsafe_code)]
            unsafe { wide($($name),*) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            #[allow(unsafe_code)]
            unsafe { narrow($($name),*) }
        } else {
            $function($($name,)* $crate::graph::quantization::sum_any)
        }
        #[cfg(not(target_arch = "x86_64"))]
        $function($($name,)* $crate::graph::quantization::sum_any);
    }};
}

pub(super) use with_sum;

#[inline(always)]
pub(super) fn sum_any(code: &[u8], levels: &[i8]) -> i32 {
    assert_eq!(code.len() * 2, levels.len(), "a code of another length");
    let mut sum = 0;
    for (bytes, levels) in code.chunks_exact(STEP / 2).zip(levels.chunks_exact(STEP)) {
        let (low, high) = levels.split_at(STEP / 2);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            sum += i32::from(byte & 15) * i32::from(*low) + i32::from(byte >> 4) * i32::from(*high);
        }
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[allow(unsafe_code)]
#[inline]
pub(super) fn sum_512(code: &[u8], levels: &[i8]) -> i32 {
    use std::arch::x86_64::*;
    let low_bits = _mm512_set1_epi8(15);
    let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (bytes, levels) in code.chunks_exact(STEP / 2).zip(levels.chunks_exact(STEP)) {
        // SAFETY: a chunk of 64 bytes, and one of 128, are as long as what is read of them.
        let (bytes, low, high) = unsafe {
            (
                _mm512_loadu_si512(bytes.as_ptr().cast()),
                _mm512_loadu_si512(levels.as_ptr().cast()),
                _mm512_loadu_si512(levels.as_ptr().add(STEP / 2).cast()),
            )
        };
        even = _mm512_dpbusd_epi32(even, _mm512_and_si512(bytes, low_bits), low);
        let upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low_bits);
        odd = _mm512_dpbusd_epi32(odd, upper, high);
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(length: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-1.0f32..1.0, length)
    }

    #[inline(always)]
    fn apply(bytes: &[u8], levels: &[i8], found: &mut i32, sum: impl Fn(&[u8], &[i8]) -> i32) {
        *found = sum(bytes, levels);
    }

    proptest! {
        #[test]
        fn rotations_keep_products(
            (a, b) in (1usize..300).prop_flat_map(|n| (vector(n), vector(n))),
            seed in any::<u64>(),
        ) {
            let rotation = Rotation::new(a.len(), seed);
            let (mut x, mut y) = (a.clone(), b.clone());
            rotation.apply(&mut x);
            rotation.apply(&mut y);
            prop_assert!((crate::dot(&a, &b) - crate::dot(&x, &y)).abs() < 1e-3);
        }

        #[test]
        fn instructions_do_not_change_a_sum(bytes in proptest::collection::vec(any::<u8>(), 192), seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let levels: Vec<i8> = (0..384).map(|_| (random.next() % 255) as i16 as i8).collect();
            let (bytes, levels, mut found) = (&bytes[..], &levels[..], 0);
            let to = &mut found;
            with_sum!(apply(bytes: &[u8], levels: &[i8], to: &mut i32));
            prop_assert_eq!(found, sum_any(bytes, levels));
        }

        #[test]
        fn products_of_codes_are_near(a in vector(384), b in vector(384)) {
            let mut code = vec![0; code_bytes(384)];
            let factors = encode(&a, &mut code);
            let query = QuantizedQuery::new(&b, &[0.0; 384]);
            let exact = crate::dot(&a, &b);
            let error = (query.product(&code, factors.scale, sum_any) - exact).abs();
            // A sixteenth of the range a component, which adds up as chance does.
            prop_assert!(error < 3.0, "for {exact}");
        }
    }
}
