//! Branches, system instructions and string instructions.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register as R};

use super::select::{jump_if, variant};
use super::sizes::{counter_size, operand_size, segment_number};
use super::{Lowering, from, wide};
use crate::block::{Handler, Op};
use crate::ops::operand::{Immediate, Memory, Register};
use crate::ops::{control, far, string, system};

impl Lowering {
    pub(super) fn branches(&self, i: &Instruction, op: &mut Op) -> Option<Handler> {
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
            Mnemonic::Sysexit => {
                op.operand_size = 4;
                far::fast_exit
            }
            Mnemonic::Sysexitq => {
                op.operand_size = 8;
                far::fast_exit
            }
            _ if i.is_jcc_short_or_near() => jump_if(i.condition_code() as u8 - 1),
            _ => return None,
        })
    }

    pub(super) fn system(&self, i: &Instruction, op: &mut Op, size: usize) -> Option<Handler> {
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

    pub(super) fn string(&self, i: &Instruction, op: &mut Op) -> Option<Handler> {
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
}
