//! Shifts and rotates. Where the manual leaves a flag undefined for counts past one, the value is
//! what the operation's last step gives.

use cpu::Bus;

use crate::block::Op;
use crate::core::{Core, RCX};
use crate::fault::Done;
use crate::lazy_flags::LazyFlags;
use crate::ops::operand::modify;
use crate::width::Width;

/// A shift or rotate by a count that is already masked to 5 or 6 bits and is not zero.
pub(crate) trait Shift {
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T;
}

pub(crate) struct Shl;
pub(crate) struct Shr;
pub(crate) struct Sar;
pub(crate) struct Rol;
pub(crate) struct Ror;
pub(crate) struct Rcl;
pub(crate) struct Rcr;

#[inline(always)]
fn top<T: Width>(value: u64) -> bool {
    value >> (T::BITS - 1) & 1 != 0
}

impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let wide = u128::from(value.zero_extended()) << count;
        let result = T::of(wide as u64);
        let carry = wide >> T::BITS & 1 != 0;
        let overflow = carry != top::<T>(result.zero_extended());
        flags.set_parts(result, carry, overflow, false);
        result
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let old = value.zero_extended();
        let result = T::of(old >> count);
        let carry = old >> (count - 1) & 1 != 0;
        // The top two bits of what the last step saw decide: for a count of one, the old sign.
        let overflow = top::<T>(old >> (count - 1));
        flags.set_parts(result, carry, overflow, false);
        result
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let old = value.sign_extended() as i64;
        let result = T::of((old >> count.min(63)) as u64);
        let carry = old >> (count - 1).min(63) & 1 != 0;
        flags.set_parts(result, carry, false, false);
        result
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let old = value.zero_extended();
        let by = count % T::BITS;
        let result = if by == 0 { old } else { old << by | old >> (T::BITS - by) };
        let result = T::of(result);
        let carry = result.zero_extended() & 1 != 0;
        flags.set_carry_overflow(carry, carry != top::<T>(result.zero_extended()));
        result
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let old = value.zero_extended();
        let by = count % T::BITS;
        let result = if by == 0 { old } else { old >> by | old << (T::BITS - by) };
        let result = T::of(result);
        let bits = result.zero_extended();
        let carry = top::<T>(bits);
        flags.set_carry_overflow(carry, carry != top::<T>(bits << 1));
        result
    }
}

impl Shift for Rcl {
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let by = count % (T::BITS + 1);
        let mut bits = value.zero_extended();
        let mut carry = flags.carry();
        for _ in 0..by {
            let out = top::<T>(bits);
            bits = T::of(bits << 1 | u64::from(carry)).zero_extended();
            carry = out;
        }
        flags.set_carry_overflow(carry, carry != top::<T>(bits));
        T::of(bits)
    }
}

impl Shift for Rcr {
    fn apply<T: Width>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let by = count % (T::BITS + 1);
        let mut bits = value.zero_extended();
        let mut carry = flags.carry();
        for _ in 0..by {
            let out = bits & 1 != 0;
            bits = bits >> 1 | u64::from(carry) << (T::BITS - 1);
            carry = out;
        }
        flags.set_carry_overflow(carry, top::<T>(bits) != top::<T>(bits << 1));
        T::of(bits)
    }
}

/// The masked count: from CL if `variant` is 1, else the immediate.
#[inline(always)]
fn count<T: Width>(core: &Core, op: &Op) -> u32 {
    let raw = if op.variant == 1 { core.register(RCX) } else { op.immediate };
    raw as u32 & if T::BITS == 64 { 63 } else { 31 }
}

pub(crate) fn register<S: Shift, T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let count = count::<T>(core, op);
    let value: T = core.get(op.first);
    if count == 0 {
        // A 32-bit destination is still written: its upper half clears.
        core.set(op.first, value);
        return Ok(());
    }
    let result = S::apply(&mut core.flags, value, count);
    core.set(op.first, result);
    Ok(())
}

pub(crate) fn memory<S: Shift, T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let count = count::<T>(core, op);
    modify::<T>(core, bus, op, |core, value| {
        if count == 0 { value } else { S::apply(&mut core.flags, value, count) }
    })
}

/// SHLD, and SHRD where `RIGHT`.
fn double<T: Width, const RIGHT: bool>(flags: &mut LazyFlags, value: T, fill: T, count: u32) -> T {
    let (old, fill) = (value.zero_extended(), fill.zero_extended());
    // For 16 bits a count past 16 goes on with the fill and then the value again, as the
    // processors that the field knows do.
    let bits = T::BITS;
    let (result, carry) = if RIGHT {
        let wide =
            u128::from(old) | u128::from(fill) << bits | u128::from(old) << (2 * bits).min(127);
        (T::of((wide >> count) as u64), wide >> (count - 1) & 1 != 0)
    } else if bits == 16 {
        let wide = u64::from(u16::MAX) & old;
        let all = wide << 32 | fill << 16 | wide;
        (T::of(all << count >> 32), all >> (48 - count) & 1 != 0)
    } else {
        let wide = u128::from(old) << bits | u128::from(fill);
        (T::of((wide << count >> bits) as u64), wide >> (2 * bits - count) & 1 != 0)
    };
    let overflow = top::<T>(old) != top::<T>(result.zero_extended());
    flags.set_parts(result, carry, overflow, false);
    result
}

pub(crate) fn double_register<T: Width, const RIGHT: bool>(
    core: &mut Core,
    _: &mut dyn Bus,
    op: &Op,
) -> Done {
    let count = count::<T>(core, op);
    let value: T = core.get(op.first);
    let fill: T = core.get(op.second);
    if count == 0 {
        core.set(op.first, value);
        return Ok(());
    }
    let result = double::<T, RIGHT>(&mut core.flags, value, fill, count);
    core.set(op.first, result);
    Ok(())
}

pub(crate) fn double_memory<T: Width, const RIGHT: bool>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let count = count::<T>(core, op);
    let fill: T = core.get(op.second);
    modify::<T>(core, bus, op, |core, value| {
        if count == 0 { value } else { double::<T, RIGHT>(&mut core.flags, value, fill, count) }
    })
}
