//! Pseudorandom numbers that a seed determines, so that every run measures the same data.

/// The xorshift64 generator (Marsaglia: "Xorshift RNGs", Journal of Statistical Software 8, 2003).
pub(crate) struct Random(u64);

impl Random {
    /// A generator for a seed. Zero is the generator's fixed point, so it counts as one.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`. The bias of the modulo is negligible for the small ranges used here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Approximately standard normal: the sum of twelve uniform numbers, minus their mean (Irwin-Hall).
    pub(crate) fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
        (0..12).map(|_| uniform(self.next())).sum::<f32>() - 6.0
    }

    /// `count` numbers, each approximately standard normal.
    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}
