//! String instructions. A repetition counts as one instruction; REP stops at the end of the budget,
//! after an access to a device, or after a store to code, with the registers exact, and goes on
//! from there.

use cpu::Bus;
use cpu::flags as f;

use crate::access::Through;
use crate::block::Op;
use crate::core::{BLOCK_RIP, Core, RAX, RCX, RDI, RDX, RSI};
use crate::fault::Done;
use crate::ops::arithmetic::{Alu, Cmp};
use crate::width::Width;

/// No REP prefix.
pub(crate) const ONCE: u8 = 0;
/// REP or REPE.
pub(crate) const REPEAT: u8 = 1;
/// REPNE.
pub(crate) const REPEAT_NOT_EQUAL: u8 = 2;

/// What one repetition does.
pub(crate) trait Step {
    /// CMPS and SCAS: REPE and REPNE look at the zero flag.
    const COMPARES: bool = false;
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done;
}

pub(crate) struct Move;
pub(crate) struct Store;
pub(crate) struct Load;
pub(crate) struct Scan;
pub(crate) struct Compare;
pub(crate) struct Input;
pub(crate) struct Output;

#[inline(always)]
fn source<T: Width>(core: &mut Core, op: &Op) -> Done<u64> {
    let offset = core.register(RSI) & op.address_mask();
    core.segment_address(op.segment, offset, T::BYTES, false)
}

#[inline(always)]
fn destination<T: Width>(core: &mut Core, op: &Op, write: bool) -> Done<u64> {
    let offset = core.register(RDI) & op.address_mask();
    core.segment_address(cpu::CpuState::ES as u8, offset, T::BYTES, write)
}

#[inline(always)]
fn advance<T: Width>(core: &mut Core, op: &Op, register: u8) {
    let by = T::BYTES as u64;
    let old = core.register(register);
    let new = if core.flag(f::DF) { old.wrapping_sub(by) } else { old.wrapping_add(by) };
    set_masked(core, op, register, new);
}

#[inline(always)]
fn set_masked(core: &mut Core, op: &Op, register: u8, value: u64) {
    match op.address_size {
        8 => core.set(register, value),
        4 => core.set(register, value as u32),
        _ => core.set(register, value as u16),
    }
}

impl Step for Move {
    #[inline(always)]
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let from = source::<T>(core, op)?;
        let to = destination::<T>(core, op, true)?;
        let value: T = core.load_linear(bus, from, op.through())?;
        core.store_linear(bus, to, value, Through::Data)?;
        advance::<T>(core, op, RSI);
        advance::<T>(core, op, RDI);
        Ok(())
    }
}

impl Step for Store {
    #[inline(always)]
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let to = destination::<T>(core, op, true)?;
        let value: T = core.get(RAX);
        core.store_linear(bus, to, value, Through::Data)?;
        advance::<T>(core, op, RDI);
        Ok(())
    }
}

impl Step for Load {
    #[inline(always)]
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let from = source::<T>(core, op)?;
        let value: T = core.load_linear(bus, from, op.through())?;
        core.set(RAX, value);
        advance::<T>(core, op, RSI);
        Ok(())
    }
}

impl Step for Scan {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let to = destination::<T>(core, op, false)?;
        let value: T = core.load_linear(bus, to, Through::Data)?;
        let accumulator: T = core.get(RAX);
        Cmp::apply(&mut core.flags, accumulator, value);
        advance::<T>(core, op, RDI);
        Ok(())
    }
}

impl Step for Compare {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let from = source::<T>(core, op)?;
        let to = destination::<T>(core, op, false)?;
        let left: T = core.load_linear(bus, from, op.through())?;
        let right: T = core.load_linear(bus, to, Through::Data)?;
        Cmp::apply(&mut core.flags, left, right);
        advance::<T>(core, op, RSI);
        advance::<T>(core, op, RDI);
        Ok(())
    }
}

impl Step for Input {
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let port = core.register(RDX) as u16;
        core.check_port(port, T::BYTES as u8)?;
        let to = destination::<T>(core, op, true)?;
        let place = core.place::<T>(to, Through::Data)?;
        let at = core.at();
        let value = bus.port_in(at, port, T::BYTES as u8);
        core.stop = true;
        core.store_place(bus, &place, T::of(u64::from(value)));
        advance::<T>(core, op, RDI);
        Ok(())
    }
}

impl Step for Output {
    fn step<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
        let port = core.register(RDX) as u16;
        core.check_port(port, T::BYTES as u8)?;
        let from = source::<T>(core, op)?;
        let value: T = core.load_linear(bus, from, op.through())?;
        let at = core.at();
        bus.port_out(at, port, T::BYTES as u8, value.zero_extended() as u32);
        core.stop = true;
        advance::<T>(core, op, RSI);
        Ok(())
    }
}

/// Runs a string instruction; the repeat prefix is in `variant`. It ends its block, so that going
/// round again is a matter of RIP.
pub(crate) fn run<S: Step, T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    if op.variant == ONCE {
        return S::step::<T>(core, bus, op);
    }
    let mask = op.address_mask();
    let mut count = core.register(RCX) & mask;
    if count == 0 {
        return Ok(());
    }
    let again = core.register(BLOCK_RIP).wrapping_add(u64::from(op.start));
    let mut room = core.budget.saturating_sub(core.index() as u64).max(1);
    loop {
        // Repetitions that are done stay done; a fault restarts the rest.
        S::step::<T>(core, bus, op)?;
        count -= 1;
        set_masked(core, op, RCX, count);
        let met = match op.variant {
            REPEAT_NOT_EQUAL if S::COMPARES => !core.flags.zero(),
            _ if S::COMPARES => core.flags.zero(),
            _ => true,
        };
        if count == 0 || !met {
            return Ok(());
        }
        room -= 1;
        if room == 0 || core.stop {
            core.rip = again;
            return Ok(());
        }
        core.extra += 1;
    }
}
