//! PUSH, POP, the flags on the stack, ENTER and LEAVE.

use cpu::flags as f;
use cpu::{Bus, CpuState};

use crate::access::Through;
use crate::block::Op;
use crate::core::{Core, RBP, RSP};
use crate::fault::Done;
use crate::ops::operand::Source;
use crate::width::Width;

impl Core {
    #[inline(always)]
    fn stack_mask(&self) -> u64 {
        if self.mode.bits == 64 {
            u64::MAX
        } else if self.mode.wide_stack {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    #[inline(always)]
    fn stack_linear(&mut self, offset: u64, size: usize, write: bool) -> Done<u64> {
        if self.mode.bits == 64 {
            return Ok(offset);
        }
        self.segment_address(CpuState::SS as u8, offset, size, write)
    }

    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask();
        let old = self.register(RSP);
        let kept = if mask == 0xffff { old & !mask } else { 0 };
        self.set_register(RSP, kept | value & mask);
    }

    #[inline(always)]
    pub(crate) fn push<T: Width>(&mut self, bus: &mut dyn Bus, value: T) -> Done {
        let offset = self.register(RSP).wrapping_sub(T::BYTES as u64) & self.stack_mask();
        let linear = self.stack_linear(offset, T::BYTES, true)?;
        self.store_linear(bus, linear, value, Through::Stack)?;
        self.set_stack_pointer(offset);
        Ok(())
    }

    /// Reads the stack `skip` bytes above its top.
    #[inline(always)]
    pub(crate) fn peek<T: Width>(&mut self, bus: &mut dyn Bus, skip: u64) -> Done<T> {
        let offset = self.register(RSP).wrapping_add(skip) & self.stack_mask();
        let linear = self.stack_linear(offset, T::BYTES, false)?;
        self.load_linear(bus, linear, Through::Stack)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub(crate) fn drop_stack(&mut self, bytes: u64) {
        let value = self.register(RSP).wrapping_add(bytes);
        self.set_stack_pointer(value);
    }
}

pub(crate) fn push<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let value: T = S::get(core, bus, op)?;
    core.push(bus, value)
}

pub(crate) fn pop_register<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let value: T = core.peek(bus, 0)?;
    core.drop_stack(T::BYTES as u64);
    core.set(op.first, value);
    Ok(())
}

/// POP to memory: an address that uses RSP uses it after the pop.
pub(crate) fn pop_memory<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let value: T = core.peek(bus, 0)?;
    let old = core.register(RSP);
    core.drop_stack(T::BYTES as u64);
    let result = core
        .address(op, T::BYTES, true)
        .and_then(|linear| core.store_linear(bus, linear, value, op.through()));
    if result.is_err() {
        core.set_register(RSP, old);
    }
    result
}

/// PUSHA of 16 or 32 bits.
pub(crate) fn push_all<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let old = core.register(RSP);
    for register in 0..8 {
        let value: T = if register == RSP { T::of(old) } else { core.get(register) };
        if let Err(trap) = core.push(bus, value) {
            core.set_register(RSP, old);
            return Err(trap);
        }
    }
    Ok(())
}

/// POPA of 16 or 32 bits.
pub(crate) fn pop_all<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let mut values = [T::of(0); 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = core.peek(bus, (index * T::BYTES) as u64)?;
    }
    core.drop_stack(8 * T::BYTES as u64);
    for (index, value) in values.into_iter().enumerate() {
        let register = 7 - index as u8;
        if register != RSP {
            core.set(register, value);
        }
    }
    Ok(())
}

/// PUSHF.
pub(crate) fn push_flags<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let flags = core.rflags() & !(f::RF | f::VM);
    core.push(bus, T::of(flags))
}

/// POPF.
pub(crate) fn pop_flags<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let popped: T = core.peek(bus, 0)?;
    core.drop_stack(T::BYTES as u64);
    let mut may_change = f::ARITHMETIC | f::TF | f::DF | f::NT | f::AC | f::ID;
    if core.cpl == 0 || !core.protected() {
        may_change |= f::IOPL;
    }
    if core.cpl <= core.iopl() || !core.protected() {
        may_change |= f::IF;
    }
    if T::BYTES == 2 {
        may_change &= 0xffff;
    }
    let old = core.rflags() & !f::RF;
    core.set_rflags(old & !may_change | popped.zero_extended() & may_change);
    core.steps_out = old & f::TF != 0;
    Ok(())
}

/// LEAVE.
pub(crate) fn leave<T: Width>(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let frame = core.register(RBP) & core.stack_mask();
    let linear = core.stack_linear(frame, T::BYTES, false)?;
    let value: T = core.load_linear(bus, linear, Through::Stack)?;
    core.set_stack_pointer(frame.wrapping_add(T::BYTES as u64));
    core.set(RBP, value);
    Ok(())
}

/// ENTER: bytes of locals in the immediate's low half, nesting level above.
pub(crate) fn enter<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let (locals, level) = (op.immediate & 0xffff, op.immediate >> 16 & 31);
    let old_pointer = core.register(RSP);
    let old_frame = core.register(RBP);
    let result = (|| {
        core.push::<T>(bus, T::of(old_frame))?;
        let frame = core.register(RSP);
        for depth in 1..level {
            let offset = old_frame.wrapping_sub(depth * T::BYTES as u64) & core.stack_mask();
            let linear = core.stack_linear(offset, T::BYTES, false)?;
            let value: T = core.load_linear(bus, linear, Through::Stack)?;
            core.push(bus, value)?;
        }
        if level > 0 {
            core.push::<T>(bus, T::of(frame))?;
        }
        let top = core.register(RSP).wrapping_sub(locals);
        // The frame must be writable down to its last word.
        let last = core.stack_linear(top & core.stack_mask(), T::BYTES, true)?;
        core.place::<T>(last, Through::Stack)?;
        core.set_stack_pointer(top);
        Ok(frame)
    })();
    match result {
        Ok(frame) => {
            core.set(RBP, T::of(frame));
            Ok(())
        }
        Err(trap) => {
            core.set_register(RSP, old_pointer);
            Err(trap)
        }
    }
}
