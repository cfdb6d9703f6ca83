//! Operands: random bits mixed with the values at which arithmetic changes its ways.

/// SplitMix64: small, seeded, the same on every host.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// An XMM register's worth of single-precision numbers, double-precision numbers, integers or
    /// anything.
    pub fn register(&mut self) -> u128 {
        match self.below(8) {
            0 => u128::from(self.next()) << 64 | u128::from(self.next()),
            1..=3 => (0..4).fold(0, |value, _| value << 32 | u128::from(self.single())),
            4..=6 => (0..2).fold(0, |value, _| value << 64 | u128::from(self.double())),
            // A shift count or a few bytes near the ends of their range.
            _ => {
                let low = match self.below(3) {
                    0 => self.below(70),
                    1 => self.next() & 0x8080_8080_8080_8080 | self.next() & 0x0101_0101_0101_0101,
                    _ => self.next() & 0x80ff_7f00_8001_7fff,
                };
                u128::from(self.next()) << 64 | u128::from(low)
            }
        }
    }

    /// A register of few different characters, of one byte or two, with zeroes among them.
    pub fn text(&mut self) -> u128 {
        let alphabet = [b'a', b'b', b'c', 0xe1];
        let zeroes = self.below(20);
        let wide = self.below(2) == 0;
        let mut bytes: [u8; 16] = std::array::from_fn(|_| {
            if zeroes != 0 && self.below(zeroes) == 0 { 0 } else { self.pick(&alphabet) }
        });
        if wide {
            let high = self.pick(&[0, 0, 1, 0xff]);
            bytes.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = high);
        }
        u128::from_le_bytes(bytes)
    }

    /// A length in a register: mostly one that fits, of either sign, or one that is too long.
    pub fn length(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.pick(&[1 << 31, 1 << 32, 1 << 63, u64::MAX, 0x8000_0001, 0xffff_ffff]),
            2 => self.below(20).wrapping_neg(),
            3 => u64::from((self.below(20) as u32).wrapping_neg()),
            _ => self.below(20),
        }
    }

    /// Bits of a single-precision number.
    pub fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 1 << 31;
        let bits = self.next() as u32;
        let special = [
            0x0000_0000, // zero
            0x0000_0001, // least denormal
            0x0000_0003,
            0x007f_ffff, // greatest denormal
            0x0080_0000, // least normal
            0x0080_0001,
            0x3eff_ffff, // just below a half
            0x3f00_0000, // a half
            0x3f80_0000, // one
            0x3f80_0001,
            0x3fc0_0000, // one and a half
            0x4020_0000, // two and a half
            0x4eff_ffff,
            0x4f00_0000, // 2^31
            0x4f80_0000, // 2^32
            0x5eff_ffff,
            0x5f00_0000, // 2^63
            0x5f80_0000, // 2^64
            0x7f7f_ffff, // greatest finite
            0x7f80_0000, // infinity
            0x7f80_0001, // signalling NaNs
            0x7fa5_a5a5,
            0x7fc0_0000, // quiet NaNs
            0x7fe1_2345,
        ];
        sign | match self.below(10) {
            0..=3 => self.pick(&special),
            // Near one, so that sums cancel and products stay in range.
            4 => 0x3f00_0000 + (bits & 0x00ff_ffff),
            5 => (0x3f80_0000 + (bits & 0x0fff_ffff)) & 0xffff_f000,
            // Denormal and just above.
            6 => bits & 0x01ff_ffff,
            // Square roots of the ends of the range, so that products overflow and underflow.
            7 => (if bits & 1 == 0 { 0x1f00_0000 } else { 0x5f00_0000 }) + (bits & 0x00ff_ffff),
            // Integers of any size.
            8 => (f32::to_bits((self.next() >> self.below(64)) as f32)) & 0x7fff_ffff,
            _ => bits & 0x7fff_ffff,
        }
    }

    /// Bits of a double-precision number.
    pub fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        let bits = self.next();
        let special = [
            0x0000_0000_0000_0000, // zero
            0x0000_0000_0000_0001, // least denormal
            0x000f_ffff_ffff_ffff, // greatest denormal
            0x0010_0000_0000_0000, // least normal
            0x0010_0000_0000_0001,
            0x3690_0000_0000_0000, // half the least single denormal
            0x3690_0000_0000_0001,
            0x36a0_0000_0000_0000, // least single denormal
            0x380f_ffff_ffff_ffff, // around the least single normal
            0x380f_ffff_f000_0000,
            0x380f_ffff_e000_0000,
            0x3810_0000_0000_0000,
            0x3fdf_ffff_ffff_ffff, // just below a half
            0x3fe0_0000_0000_0000, // a half
            0x3ff0_0000_0000_0000, // one
            0x3ff0_0000_0000_0001,
            0x3ff8_0000_0000_0000, // one and a half
            0x4004_0000_0000_0000, // two and a half
            0x41df_ffff_ffc0_0000, // 2^31 - 1
            0x41df_ffff_ffdf_ffff, // around 2^31 - 1/2
            0x41df_ffff_ffe0_0000,
            0x41e0_0000_0000_0000, // 2^31
            0x41e0_0000_0010_0000, // 2^31 + 1/2
            0x41e0_0000_0020_0000, // 2^31 + 1
            0x43df_ffff_ffff_ffff,
            0x43e0_0000_0000_0000, // 2^63
            0x47ef_ffff_e000_0000, // greatest finite single
            0x47ef_ffff_efff_ffff,
            0x47ef_ffff_f000_0000, // rounds to infinity
            0x47f0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff, // greatest finite
            0x7ff0_0000_0000_0000, // infinity
            0x7ff0_0000_0000_0001, // signalling NaNs
            0x7ff5_a5a5_a5a5_a5a5,
            0x7ff8_0000_0000_0000, // quiet NaNs
            0x7ffc_1234_5678_9abc,
        ];
        sign | match self.below(10) {
            0..=3 => self.pick(&special),
            4 => 0x3fe0_0000_0000_0000 + (bits & 0x001f_ffff_ffff_ffff),
            5 => (0x3ff0_0000_0000_0000 + (bits & 0x01ff_ffff_ffff_ffff)) & !0xffff_ffff,
            6 => bits & 0x003f_ffff_ffff_ffff,
            7 => {
                let half = if bits & 1 == 0 { 0x1ff0 } else { 0x5fe0 };
                (half << 48) + (bits & 0x001f_ffff_ffff_ffff)
            }
            // A single-precision number and some bits more.
            8 => {
                let narrow = f64::from(f32::from_bits(self.single())).to_bits();
                (narrow ^ bits & 0x3fff_ffff) & !(1 << 63)
            }
            _ => match self.below(2) {
                0 => f64::to_bits((self.next() >> self.below(64)) as f64 / 4.0),
                _ => bits & !(1 << 63),
            },
        }
    }

    /// A value for MXCSR without reserved bits: often the default, often anything.
    pub fn mxcsr(&mut self) -> u32 {
        let bits = self.next() as u32;
        match self.below(5) {
            // As most programs have it before long: everything masked, inexact.
            4 => 0x1fa0 | bits & 0x805f,
            // Everything masked, no flags, any rounding, DAZ and FTZ.
            0 => 0x1f80 | bits & 0xe040,
            1 => 0x1f80,
            // One exception unmasked.
            2 => (0x1f80 | bits & 0xe040) ^ 0x80 << self.below(6),
            _ => bits & 0xffff,
        }
    }
}
