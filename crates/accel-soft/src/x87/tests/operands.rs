//! Operands: random bits mixed with the values at which arithmetic changes its ways.

use super::super::X87;
use crate::softfloat::F80;
pub(super) use crate::softfloat::tests::Random;

const INTEGER: u64 = 1 << 63;

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn significand(&mut self) -> u64 {
        let word = self.word();
        match self.below(8) {
            0 => INTEGER,
            1 => u64::MAX,
            2 => INTEGER | 1 << self.below(63),
            // Ties and near-ties of single and double precision, and of nothing.
            3 => INTEGER | word & !0x7ff | self.pick(&[0, 1, 0x3ff, 0x400, 0x401, 0x7ff]),
            4 => {
                INTEGER
                    | word & !0xff_ffff_ffff
                    | self.pick(&[0, 1, 0x80_0000_0000, 0x7f_ffff_ffff, 0x80_0000_0001])
            }
            // Short, so that products and sums are exact.
            5 => INTEGER | word & !0xffff_ffff_ffff,
            _ => INTEGER | word,
        }
    }

    /// A value of the unit: any class of encoding.
    pub(super) fn extended(&mut self) -> F80 {
        let sign = (self.word() as u16) & 0x8000;
        let word = self.word();
        let (significand, exponent) = match self.below(24) {
            0 => (0, 0),
            1 => (INTEGER, 0x7fff),
            2 => (INTEGER | word, 0x7fff),
            3 => (self.pick(&[0xc000_0000_0000_0000, 0xa000_0000_0000_0000, INTEGER | 1]), 0x7fff),
            // Denormals, pseudo-denormals and unsupported encodings.
            4 => (word >> self.below(64), 0),
            5 => (INTEGER | word >> self.below(64), 0),
            6 => (word >> 1, self.pick(&[0x7fff, 0x3fff, 1, 0x7ffe])),
            // The ends of the ranges of all formats.
            7 => (self.significand(), self.pick(&[1, 2, 0x40, 0x41, 0x7ffd, 0x7ffe])),
            8 => {
                let single = 0x3fff - 126 + self.below(4) as u16;
                (self.significand(), single.wrapping_sub(self.pick(&[0, 2, 24, 26])))
            }
            9 => {
                let double = 0x3fff - 1022 + self.below(4) as u16;
                (self.significand(), double.wrapping_sub(self.pick(&[0, 2, 53, 55])))
            }
            10 => (self.significand(), 0x3fff + self.pick(&[126, 127, 128, 1022, 1023, 1024])),
            // Whole numbers and halves around the ends of the integer formats.
            11 => {
                let value = F80::from_integer(self.word() as i64 >> self.below(64));
                (value.significand, value.exponent & 0x7fff)
            }
            12 => (self.significand(), 0x3fff + self.pick(&[14, 15, 16, 30, 31, 32, 62, 63, 64])),
            13 => (INTEGER, 0x3fff + self.below(3) as u16 - 1),
            // Around 10^18, where packed decimals end.
            14 => (self.pick(&[0xde0b_6b3a_7640_0000, 0xde0b_6b3a_763f_fff0]), 0x3fff + 59),
            15 => (self.significand(), (word >> 48) as u16 & 0x7fff),
            16 | 17 => (self.significand(), 0x3fff - 8 + self.below(80) as u16),
            _ => (self.significand(), 0x3fff - 3 + self.below(7) as u16),
        };
        F80 { significand, exponent: exponent & 0x7fff | sign }
    }

    fn memory_single(&mut self) -> u32 {
        let special = [
            0,
            1,
            0x007f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x7fe1_2345,
            0x4f00_0000,
            0x3f00_0000,
        ];
        let word = self.word() as u32;
        let sign = word & 1 << 31;
        match self.below(3) {
            0 => sign | self.pick(&special),
            1 => sign | (0x3e00_0000 + (word >> 7 & 0x03ff_ffff)),
            _ => word,
        }
    }

    fn memory_double(&mut self) -> u64 {
        let special = [
            0,
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x7ff9_2345_6789_abcd,
            0x43e0_0000_0000_0000,
        ];
        let word = self.word();
        let sign = word & 1 << 63;
        match self.below(3) {
            0 => sign | self.pick(&special),
            1 => sign | (0x3fc0_0000_0000_0000 + (word >> 5 & 0x007f_ffff_ffff_ffff)),
            _ => word,
        }
    }

    /// Bytes of a memory operand of this many bytes.
    pub(super) fn memory(&mut self, bytes: u8, memory: &mut [u8; 128]) {
        for chunk in memory.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes());
        }
        match bytes {
            4 if self.below(3) > 0 => {
                memory[..4].copy_from_slice(&self.memory_single().to_le_bytes());
            }
            2 | 4 | 8 if self.below(4) == 0 => {
                let integer = (self.word() as i64) >> self.below(64);
                memory[..8].copy_from_slice(&integer.to_le_bytes());
            }
            8 if self.below(3) > 0 => {
                memory[..8].copy_from_slice(&self.memory_double().to_le_bytes());
            }
            10 if self.below(4) == 0 => {
                for byte in &mut memory[..9] {
                    *byte = (self.below(10) << 4 | self.below(10)) as u8;
                }
            }
            10 => self.registers(&mut memory[..10]),
            14 | 28 | 94 | 108 => {
                let short = matches!(bytes, 14 | 94);
                let (step, start) = if short { (2, 14) } else { (4, 28) };
                let status = self.status();
                memory[..2].copy_from_slice(&self.control().to_le_bytes());
                memory[step..step + 2].copy_from_slice(&status.to_le_bytes());
                if bytes > 28 {
                    self.registers(&mut memory[start..start + 80]);
                }
            }
            _ => {}
        }
    }

    fn registers(&mut self, bytes: &mut [u8]) {
        for register in bytes.chunks_mut(10) {
            let value = self.extended();
            register[..8].copy_from_slice(&value.significand.to_le_bytes());
            register[8..].copy_from_slice(&value.exponent.to_le_bytes());
        }
    }

    fn control(&mut self) -> u16 {
        let precision = self.pick(&[0, 2, 3, 3, 3, 1]) << 8;
        let rounding = (self.below(4) as u16) << 10;
        let masks = match self.below(4) {
            0 => self.word() as u16 & 0x3f,
            1 => 0x3f & !(1 << self.below(6)),
            _ => 0x3f,
        };
        (self.word() as u16 & 0x1000) | rounding | precision | 0x40 | masks
    }

    fn status(&mut self) -> u16 {
        self.word() as u16 & 0x7f7f
    }

    /// A unit in which no exception is pending, and which seldom has empty registers where it
    /// matters.
    pub(super) fn unit(&mut self) -> X87 {
        let control = self.control();
        let mut status = self.status();
        if self.below(2) == 0 {
            status &= !0x7f;
        }
        status &= control | !0x3f;
        let mut unit = X87 { control, status, ..X87::default() };
        for register in &mut unit.registers {
            *register = self.extended();
        }
        // Near each other, so that sums cancel and remainders are short.
        if self.below(3) == 0 {
            let (one, other) = (self.below(8) as usize, self.below(8) as usize);
            let exponent = unit.registers[one].exponent & 0x7fff;
            let near = exponent.saturating_sub(2) + self.below(5) as u16;
            unit.registers[other].exponent = near.min(0x7ffe) | self.word() as u16 & 0x8000;
            if near > 0 {
                unit.registers[other].significand |= INTEGER;
            }
        }
        unit.empty = match self.below(6) {
            0 => self.word() as u8,
            1 => 0,
            // The register a push takes is empty, the others full.
            _ => 1 << (unit.top().wrapping_sub(1) & 7),
        };
        unit
    }
}
