//! Where the operands of SIMD instructions are.

use iced_x86::{Instruction, OpKind, Register};

/// A place that a SIMD instruction reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Nothing; reads as 0.
    None,
    /// All 16 bytes of an XMM register.
    Xmm(u8),
    /// The low `bytes` (4 or 8) of an XMM register. A write leaves the rest alone.
    XmmLow {
        /// Register number.
        index: u8,
        /// 4 or 8.
        bytes: u8,
    },
    /// The high 8 bytes of an XMM register, read as if they were the low ones. A write leaves the
    /// low 8 bytes alone.
    XmmHigh(u8),
    /// An MMX register, 8 bytes. A write also sets bits 64..80 of the x87 register.
    Mmx(u8),
    /// A general register. A 4-byte write clears the upper half of the 64-bit register.
    Gpr {
        /// Register number, as encoded (RAX, RCX, RDX, RBX, RSP, ...).
        index: u8,
        /// 4 or 8.
        bytes: u8,
    },
    /// The instruction's memory operand.
    Memory {
        /// 1, 2, 4, 8 or 16.
        bytes: u8,
    },
}

impl Operand {
    /// Operand `index` of `instruction` as a whole register or as memory; `None` where there is
    /// no such operand or it is an immediate.
    pub(super) fn of(instruction: &Instruction, index: u32) -> Operand {
        match instruction.try_op_kind(index) {
            Ok(OpKind::Register) => Operand::register(instruction.op_register(index)),
            Ok(OpKind::Memory) => Operand::Memory { bytes: instruction.memory_size().size() as u8 },
            _ => Operand::None,
        }
    }

    fn register(register: Register) -> Operand {
        let index = register.number() as u8;
        if register.is_xmm() {
            Operand::Xmm(index)
        } else if register.is_mm() {
            Operand::Mmx(index)
        } else if register.is_gpr32() || register.is_gpr64() {
            Operand::Gpr { index, bytes: register.size() as u8 }
        } else {
            Operand::None
        }
    }

    /// Whether this is an MMX register.
    pub fn is_mmx(&self) -> bool {
        matches!(self, Operand::Mmx(_))
    }

    /// Whether this is an XMM register or a part of one.
    pub fn is_xmm(&self) -> bool {
        matches!(self, Operand::Xmm(_) | Operand::XmmLow { .. } | Operand::XmmHigh(_))
    }

    /// Whether this is memory.
    pub fn is_memory(&self) -> bool {
        matches!(self, Operand::Memory { .. })
    }

    /// The low `bytes` of an XMM register; any other operand as it is.
    pub(super) fn low(self, bytes: u8) -> Operand {
        match self {
            Operand::Xmm(index) => Operand::XmmLow { index, bytes },
            other => other,
        }
    }

    /// The high half of an XMM register; any other operand as it is.
    pub(super) fn high(self) -> Operand {
        match self {
            Operand::Xmm(index) => Operand::XmmHigh(index),
            other => other,
        }
    }
}
