//! Near branches, calls and returns, and the software interrupts.

use cpu::Bus;

use crate::block::Op;
use crate::core::{BLOCK_RIP, Core, RCX};
use crate::deliver::Source as EventSource;
use crate::fault::{self, Done};
use crate::ops::operand::Source;
use crate::width::Width;

impl Core {
    /// Where a direct branch goes.
    #[inline(always)]
    fn target(&self, op: &Op) -> u64 {
        let target = self.register(BLOCK_RIP).wrapping_add(op.immediate);
        self.masked_target(op, target)
    }

    #[inline(always)]
    fn masked_target(&self, op: &Op, target: u64) -> u64 {
        if self.mode.bits == 64 {
            target
        } else if op.operand_size == 2 {
            target & 0xffff
        } else {
            target & 0xffff_ffff
        }
    }
}

pub(crate) fn jump(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    core.rip = core.target(op);
    Ok(())
}

/// Jcc, one handler for each condition.
pub(crate) fn jump_if<const CONDITION: u8>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.flags.condition(CONDITION) {
        core.rip = core.target(op);
    }
    Ok(())
}

pub(crate) fn jump_indirect<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let target: T = S::get(core, bus, op)?;
    core.rip = target.zero_extended();
    Ok(())
}

pub(crate) fn call<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let back = core.next_rip(op);
    core.push(bus, T::of(back))?;
    core.rip = core.target(op);
    Ok(())
}

pub(crate) fn call_indirect<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let target: T = S::get(core, bus, op)?;
    let back = core.next_rip(op);
    core.push(bus, T::of(back))?;
    core.rip = target.zero_extended();
    Ok(())
}

/// RET, with the bytes to drop in the immediate.
pub(crate) fn ret<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let target: T = core.peek(bus, 0)?;
    core.drop_stack(T::BYTES as u64 + op.immediate);
    core.rip = target.zero_extended();
    Ok(())
}

/// LOOP, LOOPE, LOOPNE by `variant` 0, 1, 2; the counter's width is the address size.
pub(crate) fn loop_while<A: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let left = A::of(core.get::<A>(RCX).zero_extended().wrapping_sub(1));
    core.set(RCX, left);
    let met = match op.variant {
        1 => core.flags.zero(),
        2 => !core.flags.zero(),
        _ => true,
    };
    if left.zero_extended() != 0 && met {
        core.rip = core.target(op);
    }
    Ok(())
}

/// JCXZ, JECXZ, JRCXZ.
pub(crate) fn jump_if_no_count<A: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.get::<A>(RCX).zero_extended() == 0 {
        core.rip = core.target(op);
    }
    Ok(())
}

/// INT n, INT3 and INT1: the vector is the immediate; `variant` 1 for INT1, which asks no privilege.
pub(crate) fn interrupt(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let back = core.next_rip(op);
    let source = if op.variant == 1 { EventSource::Trap } else { EventSource::Software };
    core.deliver(op.immediate as u8, None, source, back)
}

/// INTO.
pub(crate) fn interrupt_on_overflow(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if core.flags.overflow() {
        let back = core.next_rip(op);
        return core.deliver(fault::OVERFLOW, None, EventSource::Software, back);
    }
    Ok(())
}
