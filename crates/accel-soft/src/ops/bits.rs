//! Bit tests and scans.

use cpu::Bus;

use crate::block::Op;
use crate::core::Core;
use crate::fault::Done;
use crate::ops::operand::Source;
use crate::width::Width;

pub(crate) const TEST: u8 = 0;
pub(crate) const SET: u8 = 1;
pub(crate) const RESET: u8 = 2;
pub(crate) const COMPLEMENT: u8 = 3;

#[inline(always)]
fn change<const WHAT: u8>(value: u64, bit: u32) -> u64 {
    match WHAT {
        SET => value | 1 << bit,
        RESET => value & !(1 << bit),
        COMPLEMENT => value ^ 1 << bit,
        _ => value,
    }
}

/// BT and its kin on a register; only carry changes.
pub(crate) fn register<const WHAT: u8, T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let number: T = S::get(core, bus, op)?;
    let bit = number.zero_extended() as u32 % T::BITS;
    let value = core.get::<T>(op.first).zero_extended();
    core.flags.set_carry(value >> bit & 1 != 0);
    if WHAT != TEST {
        core.set(op.first, T::of(change::<WHAT>(value, bit)));
    }
    Ok(())
}

/// BT and its kin on memory. A bit number from a register reaches past the operand.
pub(crate) fn memory<const WHAT: u8, T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let number: T = S::get(core, bus, op)?;
    let bit = number.zero_extended() as u32 % T::BITS;
    let mut op = *op;
    if op.variant == 1 {
        let element = number.sign_extended() as i64 >> T::BITS.trailing_zeros();
        op.displacement = op.displacement.wrapping_add(element * T::BYTES as i64);
    }
    let through = op.through();
    if WHAT == TEST {
        let linear = core.address(&op, T::BYTES, false)?;
        let value: T = core.load_linear(bus, linear, through)?;
        core.flags.set_carry(value.zero_extended() >> bit & 1 != 0);
    } else {
        let linear = core.address(&op, T::BYTES, true)?;
        let place = core.place::<T>(linear, through)?;
        let value = core.load_place::<T>(bus, &place).zero_extended();
        core.store_place(bus, &place, T::of(change::<WHAT>(value, bit)));
        core.flags.set_carry(value >> bit & 1 != 0);
    }
    Ok(())
}

/// BSF, and BSR where `REVERSE`. A zero source leaves the destination (AMD APM volume 3).
pub(crate) fn scan<T: Width, S: Source, const REVERSE: bool>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let source: T = S::get(core, bus, op)?;
    let bits = source.zero_extended();
    if bits == 0 {
        core.flags.set_parts(T::of(0), false, false, false);
        return Ok(());
    }
    let found = if REVERSE { 63 - bits.leading_zeros() } else { bits.trailing_zeros() };
    core.set(op.first, T::of(u64::from(found)));
    core.flags.set_parts(T::of(1), false, false, false);
    Ok(())
}
