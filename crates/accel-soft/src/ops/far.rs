//! Transfers that change CS or the privilege level: far jumps, calls and returns, IRET, SYSCALL,
//! SYSRET, SYSENTER, SYSEXIT; and the loads of segment registers.
//!
//! Call gates and task gates are not offered; a transfer through one raises #GP.

use cpu::flags as f;
use cpu::{Bus, CpuState, InterruptShadow, Segment};

use crate::block::Op;
use crate::core::{Core, RCX, RDX, RSP};
use crate::descriptor::Descriptor;
use crate::fault::{self, Done};
use crate::ops::operand::Source;
use crate::width::Width;

/// Register number of R11.
const R11: u8 = 11;
/// Flags that IRET and SYSRET may bring into force in ring 0.
const RETURNED_FLAGS: u64 = f::DEFINED & !(f::VM | f::VIF | f::VIP);

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes }
}

impl Core {
    /// Loads CS for a far jump or call that stays at its privilege level.
    fn enter_code(&mut self, selector: u16, offset: u64, operand: u8) -> Done<(Segment, u64)> {
        let offset = match operand {
            2 => offset & 0xffff,
            4 => offset & 0xffff_ffff,
            _ => offset,
        };
        if !self.protected() {
            let old = self.segments[CpuState::CS];
            return Ok((Segment { selector, base: u64::from(selector) << 4, ..old }, offset));
        }
        if selector & !3 == 0 {
            return Err(self.protection(0));
        }
        let code = self.read_descriptor(selector, fault::PROTECTION)?;
        let requested = selector as u8 & 3;
        let allowed = code.is_code()
            && if code.is_conforming() {
                code.privilege() <= self.cpl
            } else {
                requested <= self.cpl && code.privilege() == self.cpl
            };
        if !allowed {
            return Err(self.protection(selector));
        }
        if !code.is_present() {
            return Err(self.selector_fault(fault::NOT_PRESENT, selector));
        }
        let code = self.mark_accessed(selector, code)?;
        let segment = code.segment(selector & !3 | u16::from(self.cpl));
        self.check_offset(&segment, offset)?;
        Ok((segment, offset))
    }

    fn check_offset(&mut self, code: &Segment, offset: u64) -> Done {
        let inside = if self.long_mode() && code.attributes & Segment::LONG != 0 {
            Self::canonical(offset)
        } else {
            offset <= u64::from(code.limit)
        };
        if inside { Ok(()) } else { Err(self.protection(0)) }
    }

    /// A code segment to return to at privilege `cpl`.
    fn return_code(&mut self, selector: u16, cpl: u8) -> Done<Segment> {
        if selector & !3 == 0 {
            return Err(self.protection(0));
        }
        let code = self.read_descriptor(selector, fault::PROTECTION)?;
        let allowed = code.is_code()
            && if code.is_conforming() { code.privilege() <= cpl } else { code.privilege() == cpl };
        if !allowed || cpl < self.cpl {
            return Err(self.protection(selector));
        }
        if !code.is_present() {
            return Err(self.selector_fault(fault::NOT_PRESENT, selector));
        }
        let code = self.mark_accessed(selector, code)?;
        Ok(code.segment(selector))
    }

    /// A stack segment to return to at privilege `cpl`.
    fn return_stack(&mut self, selector: u16, cpl: u8, to_long: bool) -> Done<Segment> {
        if selector & !3 == 0 {
            if !to_long || cpl == 3 || selector as u8 & 3 != cpl {
                return Err(self.protection(0));
            }
            let attributes = u16::from(cpl) << 5;
            return Ok(Segment { selector, base: 0, limit: 0, attributes });
        }
        let stack: Descriptor = self.read_descriptor(selector, fault::PROTECTION)?;
        let fits =
            stack.is_writable_data() && stack.privilege() == cpl && selector as u8 & 3 == cpl;
        if !fits {
            return Err(self.protection(selector));
        }
        if !stack.is_present() {
            return Err(self.selector_fault(fault::STACK, selector));
        }
        let stack = self.mark_accessed(selector, stack)?;
        Ok(stack.segment(selector))
    }

    /// After a return outwards, data segments that the new level may not use become null.
    fn drop_inner_segments(&mut self) {
        for index in [CpuState::ES, CpuState::DS, CpuState::FS, CpuState::GS] {
            let segment = self.segments[index];
            let conforming = segment.attributes & 0x1c == 0x1c;
            if segment.is_present() && !conforming && segment.privilege() < self.cpl {
                self.set_segment(index, Segment::default());
            }
        }
    }
}

/// JMP far with its target in memory: offset, then selector.
fn far_pointer<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done<(u64, u16)> {
    let linear = core.address(op, T::BYTES + 2, false)?;
    let offset: T = core.load_linear(bus, linear, op.through())?;
    let selector: u16 =
        core.load_linear(bus, linear.wrapping_add(T::BYTES as u64), op.through())?;
    Ok((offset.zero_extended(), selector))
}

fn jump_to(core: &mut Core, op: &Op, offset: u64, selector: u16) -> Done {
    let (segment, offset) = core.enter_code(selector, offset, op.operand_size)?;
    core.set_segment(CpuState::CS, segment);
    core.rip = offset;
    Ok(())
}

fn call_to<T: Width>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
    offset: u64,
    selector: u16,
) -> Done {
    let (segment, offset) = core.enter_code(selector, offset, op.operand_size)?;
    let old_pointer = core.register(RSP);
    let old_selector = core.segments[CpuState::CS].selector;
    let back = core.next_rip(op);
    core.push(bus, T::of(u64::from(old_selector)))?;
    if let Err(trap) = core.push(bus, T::of(back)) {
        core.set_register(RSP, old_pointer);
        return Err(trap);
    }
    core.set_segment(CpuState::CS, segment);
    core.rip = offset;
    Ok(())
}

/// JMP ptr16:16 and ptr16:32: the selector lies above the offset's 32 bits in the immediate.
pub(crate) fn jump_immediate(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    jump_to(core, op, op.immediate & 0xffff_ffff, (op.immediate >> 32) as u16)
}

pub(crate) fn call_immediate<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    call_to::<T>(core, bus, op, op.immediate & 0xffff_ffff, (op.immediate >> 32) as u16)
}

pub(crate) fn jump_memory<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let (offset, selector) = far_pointer::<T>(core, bus, op)?;
    jump_to(core, op, offset, selector)
}

pub(crate) fn call_memory<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let (offset, selector) = far_pointer::<T>(core, bus, op)?;
    call_to::<T>(core, bus, op, offset, selector)
}

/// RETF, with the bytes to drop in the immediate.
pub(crate) fn ret<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let size = T::BYTES as u64;
    let offset = core.peek::<T>(bus, 0)?.zero_extended();
    let selector = core.peek::<T>(bus, size)?.zero_extended() as u16;
    if !core.protected() {
        core.drop_stack(2 * size + op.immediate);
        let old = core.segments[CpuState::CS];
        let base = u64::from(selector) << 4;
        core.set_segment(CpuState::CS, Segment { selector, base, ..old });
        core.rip = offset;
        return Ok(());
    }
    let cpl = selector as u8 & 3;
    let code = core.return_code(selector, cpl)?;
    core.check_offset(&code, offset)?;
    if cpl == core.cpl {
        core.drop_stack(2 * size + op.immediate);
        core.set_segment(CpuState::CS, code);
        core.rip = offset;
        return Ok(());
    }
    let pointer = core.peek::<T>(bus, 2 * size + op.immediate)?.zero_extended();
    let stack_selector = core.peek::<T>(bus, 3 * size + op.immediate)?.zero_extended() as u16;
    let to_long = core.long_mode() && code.attributes & Segment::LONG != 0;
    let stack = core.return_stack(stack_selector, cpl, to_long)?;
    core.set_cpl(cpl);
    core.set_segment(CpuState::CS, code);
    core.set_segment(CpuState::SS, stack);
    core.set_stack_pointer(pointer.wrapping_add(op.immediate));
    core.rip = offset;
    core.drop_inner_segments();
    Ok(())
}

/// IRET.
pub(crate) fn interrupt_return<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let size = T::BYTES as u64;
    let long = core.long_mode();
    let offset = core.peek::<T>(bus, 0)?.zero_extended();
    let selector = core.peek::<T>(bus, size)?.zero_extended() as u16;
    let flags = core.peek::<T>(bus, 2 * size)?.zero_extended();
    let mut may_change = RETURNED_FLAGS;
    if T::BYTES == 2 {
        may_change &= 0xffff;
    }
    if !core.protected() {
        core.drop_stack(3 * size);
        let old = core.segments[CpuState::CS];
        let base = u64::from(selector) << 4;
        core.set_segment(CpuState::CS, Segment { selector, base, ..old });
        core.rip = offset;
        let kept = core.rflags() & !may_change;
        core.set_rflags(kept | flags & may_change);
        core.nmi_blocked = false;
        return Ok(());
    }
    if core.flag(f::NT) || core.flag(f::VM) || !long && flags & f::VM != 0 && core.cpl == 0 {
        // A return to another task or to virtual-8086 mode, neither of which is offered.
        return Err(core.protection(0));
    }
    let cpl = selector as u8 & 3;
    let code = core.return_code(selector, cpl)?;
    core.check_offset(&code, offset)?;
    if core.cpl > 0 {
        may_change &= !f::IOPL;
    }
    if core.cpl > core.iopl() {
        may_change &= !f::IF;
    }
    let outward = cpl != core.cpl;
    if outward || core.mode.bits == 64 {
        let pointer = core.peek::<T>(bus, 3 * size)?.zero_extended();
        let stack_selector = core.peek::<T>(bus, 4 * size)?.zero_extended() as u16;
        let to_long = long && code.attributes & Segment::LONG != 0;
        let stack = core.return_stack(stack_selector, cpl, to_long)?;
        core.set_cpl(cpl);
        core.set_segment(CpuState::CS, code);
        core.set_segment(CpuState::SS, stack);
        core.set_stack_pointer(pointer);
        if outward {
            core.drop_inner_segments();
        }
    } else {
        core.drop_stack(3 * size);
        core.set_segment(CpuState::CS, code);
    }
    core.rip = offset;
    let kept = core.rflags() & !may_change;
    core.set_rflags(kept | flags & may_change);
    core.nmi_blocked = false;
    Ok(())
}

/// SYSCALL.
pub(crate) fn system_call(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.msrs.efer & f::EFER_SCE == 0 || !core.protected() {
        return Err(core.undefined());
    }
    let back = core.next_rip(op);
    let selector = (core.msrs.star >> 32) as u16 & !3;
    let flags = core.rflags() & !f::RF;
    if core.long_mode() {
        core.set_register(RCX, back);
        core.set_register(R11, flags);
        core.rip = if core.mode.bits == 64 { core.msrs.lstar } else { core.msrs.cstar };
        core.set_cpl(0);
        core.set_segment(CpuState::CS, flat(selector, 0xa9b));
        let mask = core.msrs.syscall_mask;
        core.set_rflags(flags & !mask);
    } else {
        core.set_register(RCX, back & 0xffff_ffff);
        core.rip = core.msrs.star & 0xffff_ffff;
        core.set_cpl(0);
        core.set_segment(CpuState::CS, flat(selector, 0xc9b));
        core.set_rflags(flags & !(f::IF | f::VM));
    }
    core.set_segment(CpuState::SS, flat(selector.wrapping_add(8), 0xc93));
    Ok(())
}

/// SYSRET.
pub(crate) fn system_return(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.msrs.efer & f::EFER_SCE == 0 || !core.protected() {
        return Err(core.undefined());
    }
    core.need_ring_0()?;
    let base = (core.msrs.star >> 48) as u16 | 3;
    let target = core.register(RCX);
    if core.long_mode() {
        let flags = core.register(R11) & RETURNED_FLAGS & !f::RF;
        let stack = flat(base.wrapping_add(8), 0xcf3);
        let (code, rip) = if op.operand_size == 8 {
            (flat(base.wrapping_add(16), 0xafb), target)
        } else {
            (flat(base, 0xcfb), target & 0xffff_ffff)
        };
        core.set_cpl(3);
        core.set_segment(CpuState::CS, code);
        core.set_segment(CpuState::SS, stack);
        core.rip = rip;
        core.set_rflags(flags | f::FIXED);
    } else {
        core.set_cpl(3);
        core.set_segment(CpuState::CS, flat(base, 0xcfb));
        core.set_segment(CpuState::SS, flat(base.wrapping_add(8), 0xcf3));
        core.rip = target & 0xffff_ffff;
        core.system_flags |= f::IF;
    }
    Ok(())
}

/// SYSENTER. AMD processors do not offer it in long mode (AMD APM volume 3).
pub(crate) fn fast_enter(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    let long = core.long_mode();
    if long && !core.extensions.long_sysenter() {
        return Err(core.undefined());
    }
    let selector = core.msrs.sysenter_cs as u16 & !3;
    if !core.protected() || selector == 0 {
        return Err(core.protection(0));
    }
    core.system_flags &= !(f::VM | f::IF | f::RF);
    core.set_cpl(0);
    let width = if long { u64::MAX } else { 0xffff_ffff };
    core.set_segment(CpuState::CS, flat(selector, if long { 0xa9b } else { 0xc9b }));
    core.set_segment(CpuState::SS, flat(selector.wrapping_add(8), 0xc93));
    core.set_register(RSP, core.msrs.sysenter_esp & width);
    core.rip = core.msrs.sysenter_eip & width;
    Ok(())
}

/// SYSEXIT: to 64-bit code if its operand has 64 bits, else to 32-bit code.
pub(crate) fn fast_exit(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.long_mode() && !core.extensions.long_sysenter() {
        return Err(core.undefined());
    }
    let selector = core.msrs.sysenter_cs as u16 & !3;
    if !core.protected() || selector == 0 || core.cpl != 0 {
        return Err(core.protection(0));
    }
    let (stack, rip) = (core.register(RCX), core.register(RDX));
    if op.operand_size == 8 {
        if !Core::canonical(stack) || !Core::canonical(rip) {
            return Err(core.protection(0));
        }
        core.set_cpl(3);
        core.set_segment(CpuState::CS, flat(selector.wrapping_add(32) | 3, 0xafb));
        core.set_segment(CpuState::SS, flat(selector.wrapping_add(40) | 3, 0xcf3));
        core.set_register(RSP, stack);
        core.rip = rip;
    } else {
        core.set_cpl(3);
        core.set_segment(CpuState::CS, flat(selector.wrapping_add(16) | 3, 0xcfb));
        core.set_segment(CpuState::SS, flat(selector.wrapping_add(24) | 3, 0xcf3));
        core.set_register(RSP, stack & 0xffff_ffff);
        core.rip = rip & 0xffff_ffff;
    }
    Ok(())
}

/// MOV to a segment register, which `first` names.
pub(crate) fn load_segment<S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let selector: u16 = S::get(core, bus, op)?;
    core.load_segment(usize::from(op.first), selector)?;
    shadow_after_stack(core, op);
    Ok(())
}

/// POP to a segment register.
pub(crate) fn pop_segment<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let selector: T = core.peek(bus, 0)?;
    core.load_segment(usize::from(op.first), selector.zero_extended() as u16)?;
    core.drop_stack(T::BYTES as u64);
    shadow_after_stack(core, op);
    Ok(())
}

fn shadow_after_stack(core: &mut Core, op: &Op) {
    if usize::from(op.first) == CpuState::SS {
        core.shadow = InterruptShadow::MovSs;
        core.stop = true;
    }
}

/// MOV from a segment register, which `second` names, to a register.
pub(crate) fn store_segment_register<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let selector = core.segments[usize::from(op.second)].selector;
    core.set(op.first, T::of(u64::from(selector)));
    Ok(())
}

/// MOV from a segment register to memory.
pub(crate) fn store_segment_memory(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let selector = core.segments[usize::from(op.second)].selector;
    let linear = core.address(op, 2, true)?;
    core.store_linear(bus, linear, selector, op.through())
}

/// PUSH of a segment register.
pub(crate) fn push_segment<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let selector = core.segments[usize::from(op.second)].selector;
    core.push(bus, T::of(u64::from(selector)))
}

/// LDS, LES, LFS, LGS, LSS: the register in `first`, the segment in `variant`.
pub(crate) fn load_far_pointer<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let (offset, selector) = far_pointer::<T>(core, bus, op)?;
    core.load_segment(usize::from(op.variant), selector)?;
    core.set(op.first, T::of(offset));
    Ok(())
}
