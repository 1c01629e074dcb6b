//! The inner product of a four-bit code and an eight-bit query: the inner loop of every vector search.
//!
//! The sum is over integers, so all variants give the same result.

use super::quantization::BLOCK_DIMENSIONS;

/// Calls a function that is `#[inline(always)]` with the fastest code dot product of the processor as its
/// last argument, compiled into it. A call through a pointer would cost about as much as the product itself.
macro_rules! with_code_dot {
    ($function:ident($($name:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn avx512($($name: $type),*) {
            $function($($name,)* |code: &[u8], levels: &[i8]| {
                $crate::graph::code_dot::code_dot_avx512(code, levels)
            })
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2($($name: $type),*) {
            $function($($name,)* $crate::graph::code_dot::code_dot_portable)
        }
        #[cfg(target_arch = "x86_64")]
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bw");
        #[cfg(target_arch = "x86_64")]
        if has_avx512 {
            // SAFETY: the processor has the features that the function is compiled for; they were just
            // detected.
            #[allow(unsafe_code, reason = "calling a function with target features")]
            unsafe { avx512($($name),*) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function is compiled for; it was just detected.
            #[allow(unsafe_code, reason = "calling a function with target features")]
            unsafe { avx2($($name),*) }
        } else {
            $function($($name,)* $crate::graph::code_dot::code_dot_portable)
        }
        #[cfg(not(target_arch = "x86_64"))]
        $function($($name,)* $crate::graph::code_dot::code_dot_portable);
    }};
}

pub(super) use with_code_dot;

/// The sum of the products of code levels (0 to 15) and query levels (-127 to 127). The compiler vectorizes
/// it.
#[inline(always)]
pub(super) fn code_dot_portable(code: &[u8], levels: &[i8]) -> i32 {
    assert_eq!(code.len() * 2, levels.len(), "code and query have different dimensions");
    let mut sum = 0;
    for (bytes, levels) in code.chunks_exact(BLOCK_DIMENSIONS / 2).zip(levels.chunks_exact(BLOCK_DIMENSIONS))
    {
        let (low, high) = levels.split_at(BLOCK_DIMENSIONS / 2);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            sum += i32::from(byte & 15) * i32::from(*low) + i32::from(byte >> 4) * i32::from(*high);
        }
    }
    sum
}

/// The same with the VNNI instructions, which multiply and add four bytes a lane.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[allow(unsafe_code, reason = "unaligned loads of vector registers")]
#[inline]
pub(super) fn code_dot_avx512(code: &[u8], levels: &[i8]) -> i32 {
    use std::arch::x86_64::*;
    let low_bits = _mm512_set1_epi8(15);
    let (mut low_sums, mut high_sums) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (bytes, levels) in code.chunks_exact(BLOCK_DIMENSIONS / 2).zip(levels.chunks_exact(BLOCK_DIMENSIONS))
    {
        // SAFETY: the chunks are 64 and 128 bytes long, which is exactly what the three loads read.
        let (bytes, low, high) = unsafe {
            (
                _mm512_loadu_si512(bytes.as_ptr().cast()),
                _mm512_loadu_si512(levels.as_ptr().cast()),
                _mm512_loadu_si512(levels.as_ptr().add(BLOCK_DIMENSIONS / 2).cast()),
            )
        };
        low_sums = _mm512_dpbusd_epi32(low_sums, _mm512_and_si512(bytes, low_bits), low);
        let upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low_bits);
        high_sums = _mm512_dpbusd_epi32(high_sums, upper, high);
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(low_sums, high_sums))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::random::SplitMix64;
    use super::*;

    #[inline(always)]
    fn apply(code: &[u8], levels: &[i8], result: &mut i32, code_dot: impl Fn(&[u8], &[i8]) -> i32) {
        *result = code_dot(code, levels);
    }

    proptest! {
        #[test]
        fn code_dots_do_not_depend_on_the_instruction_set(
            code in proptest::collection::vec(any::<u8>(), 192),
            seed in any::<u64>(),
        ) {
            let mut random = SplitMix64::new(seed);
            let levels: Vec<i8> = (0..384).map(|_| (random.next() % 255) as i16 as i8).collect();
            let (code, levels, mut result) = (&code[..], &levels[..], 0);
            let to = &mut result;
            with_code_dot!(apply(code: &[u8], levels: &[i8], to: &mut i32));
            prop_assert_eq!(result, code_dot_portable(code, levels));
        }
    }
}
