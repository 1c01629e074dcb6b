//! Runtime dispatch to the widest vector instructions of the processor.

/// Calls a function that is `#[inline(always)]`, compiled for the widest vector instructions of the
/// processor.
///
/// The function must give the same bits for every instruction set: sums in a fixed order, and each operation
/// either rounded by itself or explicitly fused with `mul_add`.
macro_rules! with_widest_simd {
    ($function:ident($($name:ident: $type:ty),*) -> $out:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn avx512($($name: $type),*) -> $out {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($name: $type),*) -> $out {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        #[cfg(target_arch = "x86_64")]
        let result = if has_avx512 {
            // SAFETY: the processor has the features that the function is compiled for; they were just
            // detected.
            #[allow(unsafe_code, reason = "calling a function with target features")]
            unsafe { avx512($($name),*) }
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features that the function is compiled for; they were just
            // detected.
            #[allow(unsafe_code, reason = "calling a function with target features")]
            unsafe { avx2($($name),*) }
        } else {
            $function($($name),*)
        };
        // On other architectures the baseline features already include the vector instructions.
        #[cfg(not(target_arch = "x86_64"))]
        let result = $function($($name),*);
        result
    }};
}

pub(crate) use with_widest_simd;
