//! Registers by number, and the sizes of operands and addresses.

use cpu::CpuState;
use iced_x86::{Code, Instruction, OpKind, Register as R};

use crate::core::Mode;
use crate::width::HIGH_BYTE;

/// The number of a general register, with [`HIGH_BYTE`] for AH and its kin.
pub(super) fn general(register: R) -> u8 {
    match register {
        R::AH => HIGH_BYTE,
        R::CH => HIGH_BYTE | 1,
        R::DH => HIGH_BYTE | 2,
        R::BH => HIGH_BYTE | 3,
        R::SPL => 4,
        R::BPL => 5,
        R::SIL => 6,
        R::DIL => 7,
        // Of the byte registers AH, CH, DH and BH take four numbers.
        _ if register.is_gpr8() && register.number() >= 12 => register.number() as u8 - 4,
        _ => register.number() as u8,
    }
}

pub(super) fn segment_number(register: R) -> u8 {
    match register {
        R::ES => CpuState::ES as u8,
        R::CS => CpuState::CS as u8,
        R::SS => CpuState::SS as u8,
        R::FS => CpuState::FS as u8,
        R::GS => CpuState::GS as u8,
        _ => CpuState::DS as u8,
    }
}

pub(super) fn is_string_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

/// Bytes of an address, from whatever part of the instruction tells.
pub(super) fn address_size(instruction: &Instruction, mode: Mode) -> u8 {
    let of_register = |register: R| match register {
        R::None => None,
        _ => Some(register.size() as u8),
    };
    let by_kind = (0..instruction.op_count()).find_map(|index| match instruction.op_kind(index) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        OpKind::Memory => of_register(instruction.memory_base())
            .or_else(|| of_register(instruction.memory_index()))
            .or(match instruction.memory_displ_size() {
                size @ (2 | 4 | 8) => Some(size as u8),
                _ => None,
            }),
        _ => None,
    });
    by_kind.unwrap_or(mode.bits / 8)
}

pub(super) fn operand_size(i: &Instruction, index: u32) -> usize {
    match i.op_kind(index) {
        OpKind::Register => i.op_register(index).size(),
        OpKind::Memory => i.memory_size().size(),
        kind if is_string_memory(kind) => i.memory_size().size(),
        OpKind::Immediate16 => 2,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
        OpKind::Immediate8to16 => 2,
        _ => 1,
    }
}

/// Bytes that PUSH and POP move.
pub(super) fn stack_operand(i: &Instruction, mode: Mode) -> usize {
    let moved = i.stack_pointer_increment().unsigned_abs() as usize;
    if moved != 0 { moved } else { usize::from(mode.bits / 8) }
}

/// Operand size of LEAVE and ENTER.
pub(super) fn by_suffix(i: &Instruction) -> usize {
    match i.code() {
        Code::Leavew | Code::Enterw_imm16_imm8 => 2,
        Code::Leaved | Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    }
}

pub(super) fn counter_size(code: Code) -> usize {
    use Code::{
        Loop_rel8_16_CX, Loop_rel8_16_ECX, Loop_rel8_32_CX, Loop_rel8_32_ECX, Loop_rel8_64_ECX,
        Loope_rel8_16_CX, Loope_rel8_16_ECX, Loope_rel8_32_CX, Loope_rel8_32_ECX,
        Loope_rel8_64_ECX, Loopne_rel8_16_CX, Loopne_rel8_16_ECX, Loopne_rel8_32_CX,
        Loopne_rel8_32_ECX, Loopne_rel8_64_ECX,
    };
    match code {
        Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
        | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 2,
        Loop_rel8_16_ECX | Loop_rel8_32_ECX | Loop_rel8_64_ECX | Loope_rel8_16_ECX
        | Loope_rel8_32_ECX | Loope_rel8_64_ECX | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX
        | Loopne_rel8_64_ECX => 4,
        _ => 8,
    }
}
