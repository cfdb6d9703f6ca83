//! Numbers that are the same in every run (SplitMix64, Steele, Lea and Flood 2014).

/// A generator.
pub struct Random(u64);

impl Random {
    /// A generator that starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is often small, all ones, or next to a power of two.
    pub fn edgy(&mut self) -> u64 {
        let word = self.word();
        match self.below(8) {
            0 => self.below(3),
            1 => self.below(3).wrapping_neg(),
            2 => (1u64 << self.below(64)).wrapping_sub(self.below(3)),
            3 => word as u8 as u64,
            4 => word as i8 as u64,
            5 => word as u32 as u64,
            _ => word,
        }
    }
}
