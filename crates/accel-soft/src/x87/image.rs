//! The unit's state in memory: FSTENV, FSAVE and FXSAVE images (Intel SDM volume 1, figures 8-9 to
//! 8-12 and table 10-2).

use super::X87;
use crate::softfloat::F80;

fn put(memory: &mut [u8], at: usize, value: u64, bytes: usize) {
    memory[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

fn get(memory: &[u8], at: usize, bytes: usize) -> u64 {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(&memory[at..at + bytes]);
    u64::from_le_bytes(word)
}

impl X87 {
    /// Protected-mode environment, of 14 or 28 bytes.
    pub(super) fn store_environment(&self, short: bool, memory: &mut [u8; 128]) {
        let words = [
            u64::from(self.control),
            u64::from(self.status),
            u64::from(self.tags()),
            self.last_instruction,
            u64::from(self.last_instruction_selector),
            self.last_operand,
            u64::from(self.last_operand_selector),
        ];
        if short {
            for (index, word) in words.into_iter().enumerate() {
                put(memory, 2 * index, word & 0xffff, 2);
            }
            return;
        }
        for (index, word) in words.into_iter().enumerate() {
            // The upper halves of the 16-bit words are ones, but the opcode's.
            let word = match index {
                0..=2 => word | 0xffff_0000,
                4 => word | u64::from(self.last_opcode) << 16,
                6 => word | 0xffff_0000,
                _ => word & 0xffff_ffff,
            };
            put(memory, 4 * index, word, 4);
        }
    }

    pub(super) fn load_environment(&mut self, short: bool, memory: &[u8; 128]) {
        let size = if short { 2 } else { 4 };
        let word = |index: usize| get(memory, size * index, size);
        self.control = word(0) as u16 & 0x1f7f | 0x40;
        self.status = word(1) as u16;
        self.set_tags(word(2) as u16);
        self.last_instruction = word(3);
        self.last_instruction_selector = word(4) as u16;
        // The short form has no opcode.
        self.last_opcode = if short { 0 } else { (word(4) >> 16) as u16 & 0x7ff };
        self.last_operand = word(5);
        self.last_operand_selector = word(6) as u16;
        self.update_summary();
    }

    pub(super) fn save(&self, short: bool, memory: &mut [u8; 128]) {
        self.store_environment(short, memory);
        let start = if short { 14 } else { 28 };
        for index in 0..8 {
            let value = self.read(index);
            let at = start + 10 * usize::from(index);
            put(memory, at, value.significand, 8);
            put(memory, at + 8, u64::from(value.exponent), 2);
        }
    }

    pub(super) fn restore(&mut self, short: bool, memory: &[u8; 128]) {
        self.load_environment(short, memory);
        let start = if short { 14 } else { 28 };
        for index in 0..8 {
            let at = start + 10 * usize::from(index);
            let place = self.physical(index);
            self.registers[place] =
                F80 { significand: get(memory, at, 8), exponent: get(memory, at + 8, 2) as u16 };
        }
    }

    /// The unit's part of an FXSAVE image; `wide` is the form with 64-bit pointers.
    pub fn to_fxsave(&self, image: &mut [u8; 512], wide: bool) {
        put(image, 0, self.control.into(), 2);
        put(image, 2, self.status.into(), 2);
        put(image, 4, u64::from(!self.empty), 2);
        put(image, 6, self.last_opcode.into(), 2);
        if wide {
            put(image, 8, self.last_instruction, 8);
            put(image, 16, self.last_operand, 8);
        } else {
            put(image, 8, self.last_instruction & 0xffff_ffff, 4);
            put(image, 12, self.last_instruction_selector.into(), 4);
            put(image, 16, self.last_operand & 0xffff_ffff, 4);
            put(image, 20, self.last_operand_selector.into(), 4);
        }
        for index in 0..8 {
            let value = self.read(index);
            let at = 32 + 16 * usize::from(index);
            put(image, at, value.significand, 8);
            put(image, at + 8, value.exponent.into(), 8);
        }
    }

    /// Takes the unit's part of an FXSAVE image.
    pub fn load_fxsave(&mut self, image: &[u8; 512], wide: bool) {
        self.control = get(image, 0, 2) as u16 & 0x1f7f | 0x40;
        self.status = get(image, 2, 2) as u16;
        self.empty = !image[4];
        self.last_opcode = get(image, 6, 2) as u16 & 0x7ff;
        if wide {
            self.last_instruction = get(image, 8, 8);
            self.last_operand = get(image, 16, 8);
        } else {
            self.last_instruction = get(image, 8, 4);
            self.last_instruction_selector = get(image, 12, 2) as u16;
            self.last_operand = get(image, 16, 4);
            self.last_operand_selector = get(image, 20, 2) as u16;
        }
        for index in 0..8 {
            let at = 32 + 16 * usize::from(index);
            let place = self.physical(index);
            self.registers[place] =
                F80 { significand: get(image, at, 8), exponent: get(image, at + 8, 2) as u16 };
        }
        self.update_summary();
    }
}
