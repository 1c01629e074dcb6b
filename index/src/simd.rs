//! Work with the widest instructions that the processor has.

/// Calls a function that is `#[inline(always)]`, compiled for the widest instructions that are there. It must be of a
/// kind that gives the same with any of them: sums in a fixed order, each operation rounded by itself or fused by name.
macro_rules! widest {
    ($function:ident($($name:ident: $type:ty),*) -> $out:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn wide($($name: $type),*) -> $out {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn narrow($($name: $type),*) -> $out {
            $function($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        let has_512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        #[cfg(target_arch = "x86_64")]
        let found = if has_512 {
            // SAFETY: the processor has what the function is compiled for.
            #[allow(unsafe_code)]
            unsafe { wide($($name),*) }
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function is compiled for.
            #[allow(unsafe_code)]
            unsafe { narrow($($name),*) }
        } else {
            $function($($name),*)
        };
        // Other processors have what they need in what everything is compiled for.
        #[cfg(not(target_arch = "x86_64"))]
        let found = $function($($name),*);
        found
    }};
}

pub(crate) use widest;
