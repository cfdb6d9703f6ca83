//! Decoded code: operations that are ready to run, in runs that are entered only at the top.

use cpu::Bus;

use crate::access::Through;
use crate::core::{Core, Mode};
use crate::fault::Done;
use crate::simd::SimdInstruction;
use crate::x87::X87Instruction;

/// What carries out an operation.
pub(crate) type Handler = fn(&mut Core, &mut dyn Bus, &Op) -> Done;

/// One decoded instruction.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub(crate) run: Handler,
    /// Immediate operand, sign-extended; for branches the target less the block's address.
    pub(crate) immediate: u64,
    pub(crate) displacement: i64,
    /// Offset of this instruction from the block's address.
    pub(crate) start: u16,
    /// Offset of the next instruction.
    pub(crate) next: u16,
    /// First operand's register, where it is one.
    pub(crate) first: u8,
    /// Second operand's register.
    pub(crate) second: u8,
    pub(crate) base: u8,
    pub(crate) index: u8,
    pub(crate) scale: u8,
    /// Segment of the memory operand.
    pub(crate) segment: u8,
    /// Operand bytes, address bytes, repeat prefix and what else a handler asks for.
    pub(crate) operand_size: u8,
    pub(crate) address_size: u8,
    pub(crate) variant: u8,
    /// The address needs no mask, no base and no check.
    pub(crate) plain_address: bool,
    /// The memory operand goes through SS.
    pub(crate) stack_segment: bool,
}

impl Op {
    /// Which fault a bad address gives.
    #[inline(always)]
    pub(crate) fn through(&self) -> Through {
        if self.stack_segment { Through::Stack } else { Through::Data }
    }

    #[inline(always)]
    pub(crate) fn address_mask(&self) -> u64 {
        match self.address_size {
            8 => u64::MAX,
            4 => 0xffff_ffff,
            _ => 0xffff,
        }
    }
}

/// A run of operations in one page; only an instruction that crosses a page's end stands alone in
/// a block of two pages.
pub(crate) struct Block {
    pub(crate) ops: Vec<Op>,
    /// What its MMX and SSE instructions do.
    pub(crate) vectors: Vec<SimdInstruction>,
    /// What its x87 instructions do.
    pub(crate) floats: Vec<X87Instruction>,
    pub(crate) mode: Mode,
    /// Bytes of code.
    pub(crate) length: usize,
    /// The RAM page that holds the second part of an instruction over a page's end.
    pub(crate) second_page: Option<usize>,
}
