//! The x87 floating-point unit (Intel SDM volume 1, chapter 8): registers, status, and what each
//! instruction does to them. Memory is the caller's: it brings the bytes of an operand and takes
//! them away.

mod compare;
mod execute;
mod exponent;
mod image;
mod lookup;
#[cfg(test)]
mod tests;
mod transcendental;

pub use lookup::{MemoryUse, X87Instruction, lookup};

use crate::softfloat::{Env, F80};

/// Exception flags in the status word have the order of MXCSR's.
const EXCEPTIONS: u16 = 0x3f;
/// Stack fault.
const STACK_FAULT: u16 = 1 << 6;
/// Error summary, and its twin, busy.
const SUMMARY: u16 = 1 << 7;
const BUSY: u16 = 1 << 15;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const TOP: u16 = 7 << 11;
const INVALID: u16 = 1;

/// The unit's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word; the top of the stack is in it.
    pub status: u16,
    /// One bit for each physical register that is empty.
    pub empty: u8,
    /// The physical registers R0 to R7.
    pub registers: [F80; 8],
    /// Opcode of the last instruction that was no control instruction.
    pub last_opcode: u16,
    /// Its address.
    pub last_instruction: u64,
    /// Its code segment.
    pub last_instruction_selector: u16,
    /// Address of its memory operand.
    pub last_operand: u64,
    /// Segment of its memory operand.
    pub last_operand_selector: u16,
}

impl Default for X87 {
    fn default() -> Self {
        Self {
            control: 0x37f,
            status: 0,
            empty: 0xff,
            registers: [F80::ZERO; 8],
            last_opcode: 0,
            last_instruction: 0,
            last_instruction_selector: 0,
            last_operand: 0,
            last_operand_selector: 0,
        }
    }
}

/// What an instruction works on besides the unit's own registers.
pub struct Operands {
    /// The memory operand's bytes, in or out.
    pub memory: [u8; 128],
    /// RFLAGS in for FCMOVcc; ZF, PF and CF out for FCOMI and its kin.
    pub flags: u64,
    /// What FNSTSW AX brings.
    pub ax: u16,
}

impl X87 {
    pub(crate) fn top(&self) -> u8 {
        (self.status >> 11) as u8 & 7
    }

    fn set_top(&mut self, top: u8) {
        self.status = self.status & !TOP | u16::from(top & 7) << 11;
    }

    fn physical(&self, index: u8) -> usize {
        usize::from(self.top().wrapping_add(index) & 7)
    }

    fn is_empty(&self, index: u8) -> bool {
        self.empty >> self.physical(index) & 1 != 0
    }

    fn read(&self, index: u8) -> F80 {
        self.registers[self.physical(index)]
    }

    fn write(&mut self, index: u8, value: F80) {
        let place = self.physical(index);
        self.registers[place] = value;
        self.empty &= !(1 << place);
    }

    fn pop(&mut self) {
        let place = self.physical(0);
        self.empty |= 1 << place;
        self.set_top(self.top().wrapping_add(1));
    }

    fn set_condition(&mut self, bits: u16) {
        self.status = self.status & !(C0 | C2 | C3) | bits;
    }

    fn set_c1(&mut self, set: bool) {
        self.status = self.status & !C1 | if set { C1 } else { 0 };
    }

    /// True if an exception waits that is not masked: a waiting instruction raises #MF.
    pub fn math_fault(&self) -> bool {
        self.status & SUMMARY != 0
    }

    /// Enters exceptions. True if any of them is unmasked.
    fn raise(&mut self, exceptions: u16) -> bool {
        self.status |= exceptions & (EXCEPTIONS | STACK_FAULT);
        let unmasked = exceptions & !self.control & EXCEPTIONS != 0;
        if self.status & !self.control & EXCEPTIONS != 0 {
            self.status |= SUMMARY | BUSY;
        }
        unmasked
    }

    /// Works the summary out anew after control or status were loaded.
    fn update_summary(&mut self) {
        if self.status & !self.control & EXCEPTIONS != 0 {
            self.status |= SUMMARY | BUSY;
        } else {
            self.status &= !(SUMMARY | BUSY);
        }
    }

    /// A stack fault: C1 tells overflow from underflow. True if it is unmasked.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.set_c1(overflow);
        self.raise(INVALID | STACK_FAULT)
    }

    fn environment(&self) -> Env {
        Env::from_x87(self.control)
    }

    /// The full tag word.
    pub fn tags(&self) -> u16 {
        (0..8).fold(0, |tags, place| {
            let value = self.registers[place];
            let tag = if self.empty >> place & 1 != 0 {
                3
            } else if value.is_zero() {
                1
            } else if value.exponent & 0x7fff == 0x7fff
                || value.exponent & 0x7fff == 0
                || value.is_unsupported()
            {
                2
            } else {
                0
            };
            tags | tag << (2 * place)
        })
    }

    /// Takes a full tag word: only empty or not counts.
    pub fn set_tags(&mut self, tags: u16) {
        self.empty =
            (0..8).fold(0, |empty, place| empty | u8::from(tags >> (2 * place) & 3 == 3) << place);
    }

    /// An MMX register.
    pub fn mmx_read(&self, index: u8) -> u64 {
        self.registers[usize::from(index & 7)].significand
    }

    /// Writes an MMX register.
    pub fn mmx_write(&mut self, index: u8, value: u64) {
        self.registers[usize::from(index & 7)] = F80 { significand: value, exponent: 0xffff };
    }

    /// What every MMX instruction does: the top of the stack is 0, all registers are valid.
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        self.empty = 0;
    }

    /// EMMS.
    pub fn emms(&mut self) {
        self.set_top(0);
        self.empty = 0xff;
    }

    /// FNINIT.
    fn initialise(&mut self) {
        let registers = self.registers;
        *self = Self { registers, ..Self::default() };
    }
}
