//! From a decoded instruction to the handler that runs it and the operands as it wants them.

use cpu::CpuState;
use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register as R};

use crate::block::{Block, Handler, Op};
use crate::core::{BLOCK_RIP, Mode, NO_SEGMENT, ZERO};
use crate::ops::arithmetic as alu;
use crate::ops::operand::{Immediate, Memory, Register};
use crate::ops::{bits, control, data, far, multiply, shift, stack, string, system};
use crate::simd::{self, SimdInstruction};
use crate::width::HIGH_BYTE;
use crate::x87::{self, X87Instruction};
use crate::{float, vector};

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

pub(crate) struct Lowering {
    mode: Mode,
    flat: bool,
    ops: Vec<Op>,
    vectors: Vec<SimdInstruction>,
    floats: Vec<X87Instruction>,
}

/// The number of a general register, with [`HIGH_BYTE`] for AH and its kin.
fn general(register: R) -> u8 {
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

fn segment_number(register: R) -> u8 {
    match register {
        R::ES => CpuState::ES as u8,
        R::CS => CpuState::CS as u8,
        R::SS => CpuState::SS as u8,
        R::FS => CpuState::FS as u8,
        R::GS => CpuState::GS as u8,
        _ => CpuState::DS as u8,
    }
}

fn is_string_memory(kind: OpKind) -> bool {
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
fn address_size(instruction: &Instruction, mode: Mode) -> u8 {
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

impl Lowering {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
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
        if i.has_lock_prefix() && !to_memory {
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

    fn branches(&self, i: &Instruction, op: &mut Op) -> Option<Handler> {
        let kind = if i.op_count() > 0 { i.op0_kind() } else { OpKind::Register };
        let far_memory = matches!(
            i.memory_size(),
            MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
        ) && kind == OpKind::Memory;
        let far_size = match i.memory_size() {
            MemorySize::SegPtr16 => 2,
            MemorySize::SegPtr32 => 4,
            _ => 8,
        };
        let code = i.code();
        Some(match i.mnemonic() {
            Mnemonic::Jmp => match kind {
                OpKind::FarBranch16 | OpKind::FarBranch32 => far::jump_immediate,
                OpKind::Memory if far_memory => {
                    op.operand_size = far_size;
                    wide!(far_size, |T| far::jump_memory::<T>)
                }
                OpKind::Register | OpKind::Memory => {
                    op.second = op.first;
                    let size = operand_size(i, 0);
                    from!(kind, |S| wide!(size, |T| control::jump_indirect::<T, S>))
                }
                _ => control::jump,
            },
            Mnemonic::Call => match kind {
                OpKind::FarBranch16 => far::call_immediate::<u16>,
                OpKind::FarBranch32 => far::call_immediate::<u32>,
                OpKind::Memory if far_memory => {
                    op.operand_size = far_size;
                    wide!(far_size, |T| far::call_memory::<T>)
                }
                OpKind::Register | OpKind::Memory => {
                    op.second = op.first;
                    let size = operand_size(i, 0);
                    from!(kind, |S| wide!(size, |T| control::call_indirect::<T, S>))
                }
                OpKind::NearBranch16 => control::call::<u16>,
                OpKind::NearBranch32 => control::call::<u32>,
                _ => control::call::<u64>,
            },
            Mnemonic::Ret => match code {
                Code::Retnw | Code::Retnw_imm16 => control::ret::<u16>,
                Code::Retnd | Code::Retnd_imm16 => control::ret::<u32>,
                _ => control::ret::<u64>,
            },
            Mnemonic::Retf => match code {
                Code::Retfw | Code::Retfw_imm16 => far::ret::<u16>,
                Code::Retfd | Code::Retfd_imm16 => far::ret::<u32>,
                _ => far::ret::<u64>,
            },
            Mnemonic::Iret => far::interrupt_return::<u16>,
            Mnemonic::Iretd => far::interrupt_return::<u32>,
            Mnemonic::Iretq => far::interrupt_return::<u64>,
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
                op.variant = match i.mnemonic() {
                    Mnemonic::Loope => 1,
                    Mnemonic::Loopne => 2,
                    _ => 0,
                };
                wide!(counter_size(code), |T| control::loop_while::<T>)
            }
            Mnemonic::Jcxz => control::jump_if_no_count::<u16>,
            Mnemonic::Jecxz => control::jump_if_no_count::<u32>,
            Mnemonic::Jrcxz => control::jump_if_no_count::<u64>,
            Mnemonic::Int => control::interrupt,
            Mnemonic::Int3 => {
                op.immediate = 3;
                control::interrupt
            }
            Mnemonic::Int1 => {
                op.immediate = 1;
                variant(op, 1, control::interrupt)
            }
            Mnemonic::Into => control::interrupt_on_overflow,
            Mnemonic::Syscall => far::system_call,
            Mnemonic::Sysret => {
                op.operand_size = 4;
                far::system_return
            }
            Mnemonic::Sysretq => {
                op.operand_size = 8;
                far::system_return
            }
            Mnemonic::Sysenter => far::fast_enter,
            Mnemonic::Sysexit | Mnemonic::Sysexitq => far::fast_exit,
            _ if i.is_jcc_short_or_near() => jump_if(i.condition_code() as u8 - 1),
            _ => return None,
        })
    }

    fn system(&self, i: &Instruction, op: &mut Op, size: usize) -> Option<Handler> {
        let kind = if i.op_count() > 0 { i.op0_kind() } else { OpKind::Register };
        let to_memory = kind == OpKind::Memory;
        Some(match i.mnemonic() {
            Mnemonic::Lgdt | Mnemonic::Lidt => {
                op.operand_size = if i.memory_size() == MemorySize::Fword6 { 4 } else { 8 };
                if matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
                    op.operand_size = 2;
                }
                variant(op, u8::from(i.mnemonic() == Mnemonic::Lidt), system::load_table)
            }
            Mnemonic::Sgdt => system::store_table,
            Mnemonic::Sidt => variant(op, 1, system::store_table),
            Mnemonic::Lldt => {
                op.second = op.first;
                from!(kind, |S| system::load_local_table::<S> as Handler)
            }
            Mnemonic::Ltr => {
                op.second = op.first;
                from!(kind, |S| system::load_task::<S> as Handler)
            }
            Mnemonic::Sldt | Mnemonic::Str => {
                op.variant = u8::from(i.mnemonic() == Mnemonic::Str);
                if to_memory {
                    system::store_selector_memory
                } else {
                    wide!(size, |T| system::store_selector_register::<T>)
                }
            }
            Mnemonic::Verr | Mnemonic::Verw => {
                op.second = op.first;
                op.variant = u8::from(i.mnemonic() == Mnemonic::Verw);
                from!(kind, |S| system::verify::<S> as Handler)
            }
            Mnemonic::Lar | Mnemonic::Lsl => {
                op.variant = u8::from(i.mnemonic() == Mnemonic::Lsl);
                from!(i.op1_kind(), |S| wide!(size, |T| system::load_rights::<T, S>))
            }
            Mnemonic::Arpl if to_memory => system::adjust_privilege::<true>,
            Mnemonic::Arpl => system::adjust_privilege::<false>,
            Mnemonic::Lmsw => {
                op.second = op.first;
                from!(kind, |S| system::load_status_word::<S> as Handler)
            }
            Mnemonic::Smsw if to_memory => system::store_status_word_memory,
            Mnemonic::Smsw => wide!(size, |T| system::store_status_word_register::<T>),
            Mnemonic::Clts => system::clear_task_switched,
            Mnemonic::Invd | Mnemonic::Wbinvd => system::invalidate_caches,
            Mnemonic::Invlpg => system::invalidate_page,
            Mnemonic::Rdmsr => system::read_msr,
            Mnemonic::Wrmsr => system::write_msr,
            Mnemonic::Rdtsc => system::read_time,
            Mnemonic::Rdpmc => system::read_counter,
            Mnemonic::Cpuid => system::identify,
            Mnemonic::Swapgs => system::swap_gs,
            Mnemonic::Cli => system::disable_interrupts,
            Mnemonic::Sti => system::enable_interrupts,
            Mnemonic::Hlt => system::halt,
            Mnemonic::Pause => system::pause,
            Mnemonic::In => {
                op.variant = u8::from(i.op1_kind() == OpKind::Register);
                wide!(size, |T| system::input::<T>)
            }
            Mnemonic::Out => {
                op.variant = u8::from(i.op0_kind() == OpKind::Register);
                wide!(operand_size(i, 1), |T| system::output::<T>)
            }
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
                op.variant = segment_number(match i.mnemonic() {
                    Mnemonic::Lds => R::DS,
                    Mnemonic::Les => R::ES,
                    Mnemonic::Lfs => R::FS,
                    Mnemonic::Lgs => R::GS,
                    _ => R::SS,
                });
                wide!(size, |T| far::load_far_pointer::<T>)
            }
            _ => return None,
        })
    }

    fn string(&self, i: &Instruction, op: &mut Op) -> Option<Handler> {
        let repeat = if i.has_repne_prefix() {
            string::REPEAT_NOT_EQUAL
        } else if i.has_rep_prefix() {
            string::REPEAT
        } else {
            string::ONCE
        };
        macro_rules! string {
            ($step:ident, $size:expr) => {
                wide!($size, |T| string::run::<string::$step, T>)
            };
        }
        let handler = match i.mnemonic() {
            Mnemonic::Movsb => string!(Move, 1),
            Mnemonic::Movsw => string!(Move, 2),
            Mnemonic::Movsd if i.is_string_instruction() => string!(Move, 4),
            Mnemonic::Movsq => string!(Move, 8),
            Mnemonic::Stosb => string!(Store, 1),
            Mnemonic::Stosw => string!(Store, 2),
            Mnemonic::Stosd => string!(Store, 4),
            Mnemonic::Stosq => string!(Store, 8),
            Mnemonic::Lodsb => string!(Load, 1),
            Mnemonic::Lodsw => string!(Load, 2),
            Mnemonic::Lodsd => string!(Load, 4),
            Mnemonic::Lodsq => string!(Load, 8),
            Mnemonic::Scasb => string!(Scan, 1),
            Mnemonic::Scasw => string!(Scan, 2),
            Mnemonic::Scasd => string!(Scan, 4),
            Mnemonic::Scasq => string!(Scan, 8),
            Mnemonic::Cmpsb => string!(Compare, 1),
            Mnemonic::Cmpsw => string!(Compare, 2),
            Mnemonic::Cmpsd if i.is_string_instruction() => string!(Compare, 4),
            Mnemonic::Cmpsq => string!(Compare, 8),
            Mnemonic::Insb => string!(Input, 1),
            Mnemonic::Insw => string!(Input, 2),
            Mnemonic::Insd => string!(Input, 4),
            Mnemonic::Outsb => string!(Output, 1),
            Mnemonic::Outsw => string!(Output, 2),
            Mnemonic::Outsd => string!(Output, 4),
            _ => return None,
        };
        op.variant = repeat;
        Some(handler)
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

fn variant(op: &mut Op, value: u8, handler: Handler) -> Handler {
    op.variant = value;
    handler
}

fn operand_size(i: &Instruction, index: u32) -> usize {
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
fn stack_operand(i: &Instruction, mode: Mode) -> usize {
    let moved = i.stack_pointer_increment().unsigned_abs() as usize;
    if moved != 0 { moved } else { usize::from(mode.bits / 8) }
}

/// Operand size of LEAVE and ENTER.
fn by_suffix(i: &Instruction) -> usize {
    match i.code() {
        Code::Leavew | Code::Enterw_imm16_imm8 => 2,
        Code::Leaved | Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    }
}

fn counter_size(code: Code) -> usize {
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

fn two<A: alu::Alu>(i: &Instruction, size: usize) -> Handler {
    if i.op0_kind() == OpKind::Memory {
        return match i.op1_kind() {
            OpKind::Register => wide!(size, |T| alu::to_memory::<A, T, Register>),
            _ => wide!(size, |T| alu::to_memory::<A, T, Immediate>),
        };
    }
    from!(i.op1_kind(), |S| wide!(size, |T| alu::to_register::<A, T, S>))
}

fn one<U: alu::Unary>(memory: bool, size: usize) -> Handler {
    if memory {
        wide!(size, |T| alu::unary_memory::<U, T>)
    } else {
        wide!(size, |T| alu::unary_register::<U, T>)
    }
}

fn multiply_one(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.second = op.first;
    let kind = i.op0_kind();
    match i.mnemonic() {
        Mnemonic::Mul => from!(kind, |S| wide!(size, |T| multiply::unsigned::<T, S>)),
        Mnemonic::Imul => from!(kind, |S| wide!(size, |T| multiply::signed::<T, S>)),
        Mnemonic::Div => from!(kind, |S| wide!(size, |T| multiply::divide::<T, S>)),
        _ => from!(kind, |S| wide!(size, |T| multiply::signed_divide::<T, S>)),
    }
}

fn shifted<S: shift::Shift>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.variant = u8::from(i.op1_kind() == OpKind::Register);
    if i.op0_kind() == OpKind::Memory {
        wide!(size, |T| shift::memory::<S, T>)
    } else {
        wide!(size, |T| shift::register::<S, T>)
    }
}

fn double<const RIGHT: bool>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.variant = u8::from(i.op2_kind() == OpKind::Register);
    if i.op0_kind() == OpKind::Memory {
        wide!(size, |T| shift::double_memory::<T, RIGHT>)
    } else {
        wide!(size, |T| shift::double_register::<T, RIGHT>)
    }
}

fn bit<const WHAT: u8>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    let by_register = i.op1_kind() == OpKind::Register;
    op.variant = u8::from(by_register);
    match (i.op0_kind() == OpKind::Memory, by_register) {
        (true, true) => wide!(size, |T| bits::memory::<WHAT, T, Register>),
        (true, false) => wide!(size, |T| bits::memory::<WHAT, T, Immediate>),
        (false, true) => wide!(size, |T| bits::register::<WHAT, T, Register>),
        (false, false) => wide!(size, |T| bits::register::<WHAT, T, Immediate>),
    }
}

fn jump_if(condition: u8) -> Handler {
    macro_rules! table {
        ($($code:literal)*) => {
            [$(control::jump_if::<$code> as Handler),*]
        };
    }
    table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)[usize::from(condition & 15)]
}

fn is_conditional_move(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cmovo
            | Mnemonic::Cmovno
            | Mnemonic::Cmovb
            | Mnemonic::Cmovae
            | Mnemonic::Cmove
            | Mnemonic::Cmovne
            | Mnemonic::Cmovbe
            | Mnemonic::Cmova
            | Mnemonic::Cmovs
            | Mnemonic::Cmovns
            | Mnemonic::Cmovp
            | Mnemonic::Cmovnp
            | Mnemonic::Cmovl
            | Mnemonic::Cmovge
            | Mnemonic::Cmovle
            | Mnemonic::Cmovg
    )
}

fn is_conditional_set(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Seto
            | Mnemonic::Setno
            | Mnemonic::Setb
            | Mnemonic::Setae
            | Mnemonic::Sete
            | Mnemonic::Setne
            | Mnemonic::Setbe
            | Mnemonic::Seta
            | Mnemonic::Sets
            | Mnemonic::Setns
            | Mnemonic::Setp
            | Mnemonic::Setnp
            | Mnemonic::Setl
            | Mnemonic::Setge
            | Mnemonic::Setle
            | Mnemonic::Setg
    )
}

fn control_flow(i: &Instruction) -> bool {
    i.is_jcc_short_or_near()
        || matches!(
            i.mnemonic(),
            Mnemonic::Jmp
                | Mnemonic::Call
                | Mnemonic::Ret
                | Mnemonic::Retf
                | Mnemonic::Iret
                | Mnemonic::Iretd
                | Mnemonic::Iretq
                | Mnemonic::Loop
                | Mnemonic::Loope
                | Mnemonic::Loopne
                | Mnemonic::Jcxz
                | Mnemonic::Jecxz
                | Mnemonic::Jrcxz
                | Mnemonic::Int
                | Mnemonic::Int3
                | Mnemonic::Int1
                | Mnemonic::Into
                | Mnemonic::Syscall
                | Mnemonic::Sysret
                | Mnemonic::Sysretq
                | Mnemonic::Sysenter
                | Mnemonic::Sysexit
                | Mnemonic::Sysexitq
        )
}

fn system_mnemonic(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Lgdt
            | Mnemonic::Lidt
            | Mnemonic::Sgdt
            | Mnemonic::Sidt
            | Mnemonic::Lldt
            | Mnemonic::Ltr
            | Mnemonic::Sldt
            | Mnemonic::Str
            | Mnemonic::Verr
            | Mnemonic::Verw
            | Mnemonic::Lar
            | Mnemonic::Lsl
            | Mnemonic::Arpl
            | Mnemonic::Lmsw
            | Mnemonic::Smsw
            | Mnemonic::Clts
            | Mnemonic::Invd
            | Mnemonic::Wbinvd
            | Mnemonic::Invlpg
            | Mnemonic::Rdmsr
            | Mnemonic::Wrmsr
            | Mnemonic::Rdtsc
            | Mnemonic::Rdpmc
            | Mnemonic::Cpuid
            | Mnemonic::Swapgs
            | Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Hlt
            | Mnemonic::Pause
            | Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Lds
            | Mnemonic::Les
            | Mnemonic::Lfs
            | Mnemonic::Lgs
            | Mnemonic::Lss
    )
}

/// True after an instruction that may go elsewhere, or that changes what decoding hangs on.
fn ends_block(i: &Instruction) -> bool {
    let repeated = i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix());
    control_flow(i)
        || repeated
        || matches!(
            i.mnemonic(),
            Mnemonic::Hlt
                | Mnemonic::Pause
                | Mnemonic::Sti
                | Mnemonic::Cli
                | Mnemonic::Popf
                | Mnemonic::Popfd
                | Mnemonic::Popfq
                | Mnemonic::Wrmsr
                | Mnemonic::Invlpg
                | Mnemonic::Lmsw
        )
        || i.mnemonic() == Mnemonic::Mov
            && i.op0_kind() == OpKind::Register
            && i.op0_register().is_cr()
}
