//! Where a handler's second operand comes from, so that each instruction is written once.

use cpu::Bus;

use crate::block::Op;
use crate::core::Core;
use crate::fault::Done;
use crate::width::Width;

/// A source operand.
pub(crate) trait Source {
    fn get<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done<T>;
}

/// The register in `second`.
pub(crate) struct Register;
/// The immediate.
pub(crate) struct Immediate;
/// The memory operand.
pub(crate) struct Memory;

impl Source for Register {
    #[inline(always)]
    fn get<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done<T> {
        Ok(core.get(op.second))
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn get<T: Width>(_: &mut Core, _: &mut dyn Bus, op: &Op) -> Done<T> {
        Ok(T::of(op.immediate))
    }
}

impl Source for Memory {
    #[inline(always)]
    fn get<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done<T> {
        let linear = core.address(op, T::BYTES, false)?;
        core.load_linear(bus, linear, op.through())
    }
}

/// Reads the memory operand, changes it, and writes it back.
#[inline(always)]
pub(crate) fn modify<T: Width>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
    change: impl FnOnce(&mut Core, T) -> T,
) -> Done {
    let linear = core.address(op, T::BYTES, true)?;
    let place = core.place::<T>(linear, op.through())?;
    let old = core.load_place(bus, &place);
    let new = change(core, old);
    core.store_place(bus, &place, new);
    Ok(())
}
