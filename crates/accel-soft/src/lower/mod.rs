//! From a decoded instruction to the handler that runs it and the operands as it wants them.

mod control;
mod kinds;
mod select;
mod sizes;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register as R};

use crate::block::{Block, Handler, Op};
use crate::core::{BLOCK_RIP, Mode, NO_SEGMENT, ZERO};
use crate::extensions::Extensions;
use crate::ops::arithmetic as alu;
use crate::ops::operand::{Immediate, Memory, Register};
use crate::ops::{bits, data, far, multiply, shift, stack, system};
use crate::simd::{self, SimdInstruction};
use crate::x87::{self, X87Instruction};
use crate::{float, vector};

use kinds::{control_flow, ends_block, is_conditional_move, is_conditional_set, system_mnemonic};
use select::{bit, double, multiply_one, one, shifted, two, variant};
use sizes::{
    address_size, by_suffix, general, is_string_memory, operand_size, segment_number, stack_operand,
};

/// A handler for an operand of `$size` bytes.
macro_rules! wide {
    ($size:expr, |$width:ident| $handler:expr) => {
        match $size {
            1 => {
                type $width = u8;
                $handler as Handler
            }
            2 => {
                type $width = u16;
                $handler as Handler
            }
            4 => {
                type $width = u32;
                $handler as Handler
            }
            _ => {
                type $width = u64;
                $handler as Handler
            }
        }
    };
}

/// A handler by the kind of a source operand.
macro_rules! from {
    ($kind:expr, |$source:ident| $handler:expr) => {
        match $kind {
            OpKind::Register => {
                type $source = Register;
                $handler
            }
            OpKind::Memory => {
                type $source = Memory;
                $handler
            }
            _ => {
                type $source = Immediate;
                $handler
            }
        }
    };
}

use {from, wide};

pub(crate) struct Lowering {
    mode: Mode,
    extensions: Extensions,
    flat: bool,
    ops: Vec<Op>,
    vectors: Vec<SimdInstruction>,
    floats: Vec<X87Instruction>,
}

impl Lowering {
    pub(crate) fn new(mode: Mode, extensions: Extensions) -> Self {
        Self {
            mode,
            extensions,
            flat: mode.bits == 64,
            ops: Vec::new(),
            vectors: Vec::new(),
            floats: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(crate) fn finish(self, length: usize, second_page: Option<usize>) -> Block {
        Block {
            ops: self.ops,
            vectors: self.vectors,
            floats: self.floats,
            mode: self.mode,
            length,
            second_page,
        }
    }

    /// Adds an instruction that ends `end` bytes into the block. True if the block ends with it.
    pub(crate) fn add(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        block_rip: u64,
        end: usize,
    ) -> bool {
        let mut op = self.operands(instruction, block_rip, end);
        let handler = self.handler(instruction, &mut op, bytes);
        op.run = handler.unwrap_or(data::undefined);
        self.ops.push(op);
        handler.is_none() || ends_block(instruction)
    }

    /// Everything but the handler.
    fn operands(&self, instruction: &Instruction, block_rip: u64, end: usize) -> Op {
        let length = instruction.len().max(1);
        let mut op = Op {
            run: data::undefined,
            immediate: 0,
            displacement: 0,
            start: (end - length.min(end)) as u16,
            next: end as u16,
            first: ZERO,
            second: ZERO,
            base: ZERO,
            index: ZERO,
            scale: 0,
            segment: NO_SEGMENT,
            operand_size: 0,
            address_size: address_size(instruction, self.mode),
            variant: 0,
            plain_address: false,
            stack_segment: false,
        };
        for index in 0..instruction.op_count() {
            match instruction.op_kind(index) {
                OpKind::Register => {
                    let register = instruction.op_register(index);
                    let number = if register.is_segment_register() {
                        segment_number(register)
                    } else {
                        general(register)
                    };
                    match index {
                        0 => op.first = number,
                        _ if op.second == ZERO => op.second = number,
                        _ => {}
                    }
                }
                OpKind::Memory => self.memory_operand(instruction, block_rip, &mut op),
                kind if is_string_memory(kind) => {
                    let segment = instruction.memory_segment();
                    op.segment = segment_number(segment);
                    op.stack_segment = segment == R::SS;
                }
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    op.immediate = instruction.near_branch_target().wrapping_sub(block_rip);
                    op.operand_size = match instruction.op_kind(index) {
                        OpKind::NearBranch16 => 2,
                        OpKind::NearBranch32 => 4,
                        _ => 8,
                    };
                }
                OpKind::FarBranch16 | OpKind::FarBranch32 => {
                    let wide = instruction.op_kind(index) == OpKind::FarBranch32;
                    let offset = if wide {
                        u64::from(instruction.far_branch32())
                    } else {
                        u64::from(instruction.far_branch16())
                    };
                    op.immediate = offset | u64::from(instruction.far_branch_selector()) << 32;
                    op.operand_size = if wide { 4 } else { 2 };
                }
                _ => op.immediate = instruction.immediate(index),
            }
        }
        if instruction.op_count() > 0 && op.operand_size == 0 {
            op.operand_size = operand_size(instruction, 0) as u8;
        }
        op
    }

    fn memory_operand(&self, instruction: &Instruction, block_rip: u64, op: &mut Op) {
        let segment = instruction.memory_segment();
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        op.displacement = instruction.memory_displacement64() as i64;
        match base {
            R::None => {}
            R::RIP | R::EIP => {
                op.base = BLOCK_RIP;
                op.displacement =
                    instruction.memory_displacement64().wrapping_sub(block_rip) as i64;
            }
            _ => op.base = general(base),
        }
        if index != R::None {
            op.index = general(index);
            op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        }
        op.stack_segment = segment == R::SS;
        let based = matches!(segment, R::FS | R::GS);
        op.segment = if self.flat && !based { NO_SEGMENT } else { segment_number(segment) };
        op.plain_address = self.flat && !based && op.address_size == 8;
    }

    fn handler(&mut self, i: &Instruction, op: &mut Op, bytes: &[u8]) -> Option<Handler> {
        let kind =
            |index: u32| if index < i.op_count() { i.op_kind(index) } else { OpKind::Register };
        let size = if i.op_count() > 0 { operand_size(i, 0) } else { 0 };
        let to_memory = kind(0) == OpKind::Memory;
        if i.has_lock_prefix() && !to_memory || !self.extensions.offer(i) {
            return None;
        }
        let condition = i.condition_code() as u8;
        Some(match i.mnemonic() {
            Mnemonic::Add => two::<alu::Add>(i, size),
            Mnemonic::Adc => two::<alu::Adc>(i, size),
            Mnemonic::Sub => two::<alu::Sub>(i, size),
            Mnemonic::Sbb => two::<alu::Sbb>(i, size),
            Mnemonic::And => two::<alu::And>(i, size),
            Mnemonic::Or => two::<alu::Or>(i, size),
            Mnemonic::Xor => two::<alu::Xor>(i, size),
            Mnemonic::Cmp => two::<alu::Cmp>(i, size),
            Mnemonic::Test => two::<alu::Test>(i, size),
            Mnemonic::Inc => one::<alu::Inc>(to_memory, size),
            Mnemonic::Dec => one::<alu::Dec>(to_memory, size),
            Mnemonic::Neg => one::<alu::Neg>(to_memory, size),
            Mnemonic::Not => one::<alu::Not>(to_memory, size),
            Mnemonic::Daa => alu::decimal_adjust,
            Mnemonic::Das => variant(op, 1, alu::decimal_adjust),
            Mnemonic::Aaa => alu::ascii_adjust,
            Mnemonic::Aas => variant(op, 1, alu::ascii_adjust),
            Mnemonic::Aam => alu::ascii_adjust_multiply,
            Mnemonic::Aad => alu::ascii_adjust_divide,
            Mnemonic::Clc => alu::carry_flag,
            Mnemonic::Stc => variant(op, 1, alu::carry_flag),
            Mnemonic::Cmc => variant(op, 2, alu::carry_flag),
            Mnemonic::Cld => alu::direction_flag,
            Mnemonic::Std => variant(op, 1, alu::direction_flag),
            Mnemonic::Lahf => alu::load_flags,
            Mnemonic::Sahf => alu::store_flags,

            Mnemonic::Mul | Mnemonic::Div | Mnemonic::Idiv => {
                return Some(multiply_one(i, op, size));
            }
            Mnemonic::Imul if i.op_count() == 1 => return Some(multiply_one(i, op, size)),
            Mnemonic::Imul if i.op_count() == 2 => {
                from!(kind(1), |S| wide!(size, |T| multiply::signed_two::<T, S>))
            }
            Mnemonic::Imul => from!(kind(1), |S| wide!(size, |T| multiply::signed_three::<T, S>)),

            Mnemonic::Shl | Mnemonic::Sal => shifted::<shift::Shl>(i, op, size),
            Mnemonic::Shr => shifted::<shift::Shr>(i, op, size),
            Mnemonic::Sar => shifted::<shift::Sar>(i, op, size),
            Mnemonic::Rol => shifted::<shift::Rol>(i, op, size),
            Mnemonic::Ror => shifted::<shift::Ror>(i, op, size),
            Mnemonic::Rcl => shifted::<shift::Rcl>(i, op, size),
            Mnemonic::Rcr => shifted::<shift::Rcr>(i, op, size),
            Mnemonic::Shld => double::<false>(i, op, size),
            Mnemonic::Shrd => double::<true>(i, op, size),

            Mnemonic::Bt => bit::<{ bits::TEST }>(i, op, size),
            Mnemonic::Bts => bit::<{ bits::SET }>(i, op, size),
            Mnemonic::Btr => bit::<{ bits::RESET }>(i, op, size),
            Mnemonic::Btc => bit::<{ bits::COMPLEMENT }>(i, op, size),
            Mnemonic::Bsf => from!(kind(1), |S| wide!(size, |T| bits::scan::<T, S, false>)),
            Mnemonic::Bsr => from!(kind(1), |S| wide!(size, |T| bits::scan::<T, S, true>)),
            Mnemonic::Popcnt => from!(kind(1), |S| wide!(size, |T| bits::count::<T, S>)),
            Mnemonic::Crc32 => {
                from!(kind(1), |S| wide!(operand_size(i, 1), |T| bits::checksum::<T, S>))
            }

            Mnemonic::Mov => return self.moves(i, op, size),
            Mnemonic::Movnti => wide!(size, |T| data::to_memory::<T, Register>),
            Mnemonic::Movzx => match operand_size(i, 1) {
                1 => from!(kind(1), |S| wide!(size, |T| data::zero_extend::<T, u8, S>)),
                _ => from!(kind(1), |S| wide!(size, |T| data::zero_extend::<T, u16, S>)),
            },
            Mnemonic::Movsx | Mnemonic::Movsxd => match operand_size(i, 1) {
                1 => from!(kind(1), |S| wide!(size, |T| data::sign_extend::<T, u8, S>)),
                2 => from!(kind(1), |S| wide!(size, |T| data::sign_extend::<T, u16, S>)),
                _ => from!(kind(1), |S| wide!(size, |T| data::sign_extend::<T, u32, S>)),
            },
            Mnemonic::Cbw => data::widen::<u16, u8>,
            Mnemonic::Cwde => data::widen::<u32, u16>,
            Mnemonic::Cdqe => data::widen::<u64, u32>,
            Mnemonic::Cwd => data::spread_sign::<u16>,
            Mnemonic::Cdq => data::spread_sign::<u32>,
            Mnemonic::Cqo => data::spread_sign::<u64>,
            Mnemonic::Lea => wide!(size, |T| data::load_address::<T>),
            Mnemonic::Xchg => match (kind(0), kind(1)) {
                (OpKind::Memory, _) => wide!(size, |T| data::exchange_memory::<T>),
                (_, OpKind::Memory) => {
                    op.second = op.first;
                    wide!(size, |T| data::exchange_memory::<T>)
                }
                _ => wide!(size, |T| data::exchange_registers::<T>),
            },
            Mnemonic::Xadd if to_memory => wide!(size, |T| data::add_exchange_memory::<T>),
            Mnemonic::Xadd => wide!(size, |T| data::add_exchange_registers::<T>),
            Mnemonic::Cmpxchg if to_memory => wide!(size, |T| data::compare_exchange_memory::<T>),
            Mnemonic::Cmpxchg => wide!(size, |T| data::compare_exchange_registers::<T>),
            Mnemonic::Cmpxchg8b => data::compare_exchange_pair::<u32>,
            Mnemonic::Cmpxchg16b => data::compare_exchange_pair::<u64>,
            Mnemonic::Bswap => wide!(size, |T| data::byte_swap::<T>),
            Mnemonic::Xlatb => {
                op.segment = segment_number(i.memory_segment());
                op.stack_segment = i.memory_segment() == R::SS;
                op.address_size = i.memory_base().size() as u8;
                data::translate
            }
            Mnemonic::Bound => wide!(size, |T| data::bound::<T>),
            _ if is_conditional_move(i.mnemonic()) => {
                op.variant = condition - 1;
                from!(kind(1), |S| wide!(size, |T| data::conditional::<T, S>))
            }
            _ if is_conditional_set(i.mnemonic()) => {
                op.variant = condition - 1;
                if to_memory { data::set_memory } else { data::set_register }
            }
            // PREFETCH and PREFETCHW have no register form.
            Mnemonic::Reservednop
                if !to_memory
                    && matches!(
                        i.code(),
                        Code::Reservednop_rm16_r16_0F0D
                            | Code::Reservednop_rm32_r32_0F0D
                            | Code::Reservednop_rm64_r64_0F0D
                    ) =>
            {
                return None;
            }
            Mnemonic::Nop
            | Mnemonic::Reservednop
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Endbr64
            | Mnemonic::Endbr32 => data::nothing,
            Mnemonic::Clflush => data::flush_line,

            Mnemonic::Push if i.op_register(0).is_segment_register() && !to_memory => {
                op.second = op.first;
                wide!(stack_operand(i, self.mode), |T| far::push_segment::<T>)
            }
            Mnemonic::Push => {
                op.second = op.first;
                from!(kind(0), |S| wide!(stack_operand(i, self.mode), |T| stack::push::<T, S>))
            }
            Mnemonic::Pop if i.op_register(0).is_segment_register() && !to_memory => {
                wide!(stack_operand(i, self.mode), |T| far::pop_segment::<T>)
            }
            Mnemonic::Pop if to_memory => wide!(size, |T| stack::pop_memory::<T>),
            Mnemonic::Pop => wide!(size, |T| stack::pop_register::<T>),
            Mnemonic::Pusha => stack::push_all::<u16>,
            Mnemonic::Pushad => stack::push_all::<u32>,
            Mnemonic::Popa => stack::pop_all::<u16>,
            Mnemonic::Popad => stack::pop_all::<u32>,
            Mnemonic::Pushf => stack::push_flags::<u16>,
            Mnemonic::Pushfd => stack::push_flags::<u32>,
            Mnemonic::Pushfq => stack::push_flags::<u64>,
            Mnemonic::Popf => stack::pop_flags::<u16>,
            Mnemonic::Popfd => stack::pop_flags::<u32>,
            Mnemonic::Popfq => stack::pop_flags::<u64>,
            Mnemonic::Leave => wide!(by_suffix(i), |T| stack::leave::<T>),
            Mnemonic::Enter => {
                op.immediate = u64::from(i.immediate16()) | u64::from(i.immediate8_2nd()) << 16;
                wide!(by_suffix(i), |T| stack::enter::<T>)
            }

            _ if control_flow(i) => return self.branches(i, op),
            _ if system_mnemonic(i.mnemonic()) => return self.system(i, op, size),
            _ => return self.string(i, op).or_else(|| self.other_units(i, op, bytes)),
        })
    }

    fn moves(&self, i: &Instruction, op: &mut Op, size: usize) -> Option<Handler> {
        let (to, source) = (i.op0_kind(), i.op1_kind());
        let (target, origin) = (i.op0_register(), i.op1_register());
        let to_register = to == OpKind::Register;
        let from_register = source == OpKind::Register;
        Some(if to_register && target.is_segment_register() {
            if target == R::CS {
                return None;
            }
            from!(source, |S| far::load_segment::<S> as Handler)
        } else if from_register && origin.is_segment_register() {
            if to_register {
                wide!(size, |T| far::store_segment_register::<T>)
            } else {
                far::store_segment_memory
            }
        } else if to_register && target.is_cr() {
            system::write_control
        } else if from_register && origin.is_cr() {
            system::read_control
        } else if to_register && target.is_dr() {
            system::write_debug
        } else if from_register && origin.is_dr() {
            system::read_debug
        } else if to_register {
            from!(source, |S| wide!(size, |T| data::to_register::<T, S>))
        } else {
            let _ = op;
            from!(source, |S| wide!(size, |T| data::to_memory::<T, S>))
        })
    }

    /// MMX, SSE and x87.
    fn other_units(&mut self, i: &Instruction, op: &mut Op, bytes: &[u8]) -> Option<Handler> {
        match i.code() {
            Code::Fxsave_m512byte | Code::Fxsave64_m512byte => {
                op.variant = u8::from(i.code() == Code::Fxsave64_m512byte);
                return Some(float::save_image);
            }
            Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => {
                op.variant = u8::from(i.code() == Code::Fxrstor64_m512byte);
                return Some(float::load_image);
            }
            _ => {}
        }
        if let Some(entry) = simd::lookup(i) {
            op.immediate = self.vectors.len() as u64;
            let handler = vector::handler(&entry);
            self.vectors.push(entry);
            return Some(handler);
        }
        let entry = x87::lookup(i, x87_opcode(bytes))?;
        op.immediate = self.floats.len() as u64;
        self.floats.push(entry);
        Some(float::run)
    }
}

/// The two opcode bytes of an x87 instruction as the unit keeps them.
fn x87_opcode(bytes: &[u8]) -> u16 {
    let escape = bytes.iter().position(|byte| byte & 0xf8 == 0xd8);
    match escape.and_then(|at| Some((bytes[at], *bytes.get(at + 1)?))) {
        Some((escape, second)) => u16::from(escape & 7) << 8 | u16::from(second),
        None => 0,
    }
}
