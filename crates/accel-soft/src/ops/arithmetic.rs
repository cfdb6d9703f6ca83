//! Addition, subtraction, logic, comparison, and the one-operand forms.

use cpu::Bus;
use cpu::flags as f;

use crate::block::Op;
use crate::core::{Core, RAX};
use crate::fault::{self, Done};
use crate::lazy_flags::LazyFlags;
use crate::ops::operand::{Source, modify};
use crate::width::Width;

/// A two-operand operation that sets the arithmetic flags.
pub(crate) trait Alu {
    const WRITES: bool = true;
    fn apply<T: Width>(flags: &mut LazyFlags, left: T, right: T) -> T;
}

macro_rules! alu {
    ($name:ident, $writes:expr, |$flags:ident, $left:ident, $right:ident| $body:expr) => {
        pub(crate) struct $name;

        impl Alu for $name {
            const WRITES: bool = $writes;

            #[inline(always)]
            fn apply<T: Width>($flags: &mut LazyFlags, $left: T, $right: T) -> T {
                $body
            }
        }
    };
}

#[inline(always)]
fn sum<T: Width>(left: T, right: T, carry: bool) -> T {
    T::of(left.zero_extended().wrapping_add(right.zero_extended()).wrapping_add(carry.into()))
}

#[inline(always)]
fn difference<T: Width>(left: T, right: T, borrow: bool) -> T {
    T::of(left.zero_extended().wrapping_sub(right.zero_extended()).wrapping_sub(borrow.into()))
}

#[inline(always)]
fn logic<T: Width>(flags: &mut LazyFlags, value: u64) -> T {
    let result = T::of(value);
    flags.set_logic(result);
    result
}

alu!(Add, true, |flags, left, right| {
    let result = sum(left, right, false);
    flags.set_add(left, right, result);
    result
});
alu!(Adc, true, |flags, left, right| {
    let result = sum(left, right, flags.carry());
    flags.set_add(left, right, result);
    result
});
alu!(Sub, true, |flags, left, right| {
    let result = difference(left, right, false);
    flags.set_sub(left, right, result);
    result
});
alu!(Sbb, true, |flags, left, right| {
    let result = difference(left, right, flags.carry());
    flags.set_sub(left, right, result);
    result
});
alu!(Cmp, false, |flags, left, right| {
    let result = difference(left, right, false);
    flags.set_sub(left, right, result);
    result
});
alu!(And, true, |flags, left, right| logic(flags, left.zero_extended() & right.zero_extended()));
alu!(Or, true, |flags, left, right| logic(flags, left.zero_extended() | right.zero_extended()));
alu!(Xor, true, |flags, left, right| logic(flags, left.zero_extended() ^ right.zero_extended()));
alu!(Test, false, |flags, left, right| logic(flags, left.zero_extended() & right.zero_extended()));

/// `register op= source`.
pub(crate) fn to_register<A: Alu, T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let right: T = S::get(core, bus, op)?;
    let left = core.get(op.first);
    let result = A::apply(&mut core.flags, left, right);
    if A::WRITES {
        core.set(op.first, result);
    }
    Ok(())
}

/// `memory op= source`, the source being no memory.
pub(crate) fn to_memory<A: Alu, T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let right: T = S::get(core, bus, op)?;
    if A::WRITES {
        modify(core, bus, op, |core, left| A::apply(&mut core.flags, left, right))
    } else {
        let linear = core.address(op, T::BYTES, false)?;
        let left = core.load_linear(bus, linear, op.through())?;
        A::apply(&mut core.flags, left, right);
        Ok(())
    }
}

/// A one-operand operation.
pub(crate) trait Unary {
    fn apply<T: Width>(flags: &mut LazyFlags, value: T) -> T;
}

pub(crate) struct Inc;
pub(crate) struct Dec;
pub(crate) struct Neg;
pub(crate) struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T) -> T {
        let carry = flags.carry();
        let result = sum(value, T::of(1), false);
        flags.set_add(value, T::of(1), result);
        flags.set_carry(carry);
        result
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T) -> T {
        let carry = flags.carry();
        let result = difference(value, T::of(1), false);
        flags.set_sub(value, T::of(1), result);
        flags.set_carry(carry);
        result
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Width>(flags: &mut LazyFlags, value: T) -> T {
        let result = difference(T::of(0), value, false);
        flags.set_sub(T::of(0), value, result);
        result
    }
}

impl Unary for Not {
    #[inline(always)]
    fn apply<T: Width>(_: &mut LazyFlags, value: T) -> T {
        T::of(!value.zero_extended())
    }
}

pub(crate) fn unary_register<U: Unary, T: Width>(
    core: &mut Core,
    _: &mut dyn Bus,
    op: &Op,
) -> Done {
    let value: T = core.get(op.first);
    let result = U::apply(&mut core.flags, value);
    core.set(op.first, result);
    Ok(())
}

pub(crate) fn unary_memory<U: Unary, T: Width>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    modify::<T>(core, bus, op, |core, value| U::apply(&mut core.flags, value))
}

/// DAA and DAS (`variant` 1).
pub(crate) fn decimal_adjust(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let old: u8 = core.get(RAX);
    let old_carry = core.flags.carry();
    let subtract = op.variant == 1;
    let step =
        |value: u8, by: u8| if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    let mut value = old;
    let mut carry = false;
    let half = old & 0xf > 9 || core.flags.half_carry();
    if half {
        carry = old_carry || if subtract { old < 6 } else { old > 0xf9 };
        value = step(value, 6);
    }
    if old > 0x99 || old_carry {
        value = step(value, 0x60);
        carry = true;
    }
    core.set(RAX, value);
    core.flags.set_parts(value, carry, false, half);
    Ok(())
}

/// AAA and AAS (`variant` 1).
pub(crate) fn ascii_adjust(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let mut value: u16 = core.get(RAX);
    let adjust = value & 0xf > 9 || core.flags.half_carry();
    if adjust {
        value = if op.variant == 1 { value.wrapping_sub(0x106) } else { value.wrapping_add(0x106) };
    }
    value &= 0xff0f;
    core.set(RAX, value);
    core.flags.set_parts(value as u8, adjust, false, adjust);
    Ok(())
}

/// AAM.
pub(crate) fn ascii_adjust_multiply(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let base = op.immediate as u8;
    if base == 0 {
        return Err(core.raise(fault::DIVIDE, None));
    }
    let value: u8 = core.get(RAX);
    core.set(RAX, u16::from(value / base) << 8 | u16::from(value % base));
    core.flags.set_parts(value % base, false, false, false);
    Ok(())
}

/// AAD.
pub(crate) fn ascii_adjust_divide(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let value: u16 = core.get(RAX);
    let low = (value as u8).wrapping_add(((value >> 8) as u8).wrapping_mul(op.immediate as u8));
    core.set(RAX, u16::from(low));
    core.flags.set_parts(low, false, false, false);
    Ok(())
}

/// CLC, STC, CMC by `variant` 0, 1, 2.
pub(crate) fn carry_flag(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let carry = match op.variant {
        0 => false,
        1 => true,
        _ => !core.flags.carry(),
    };
    core.flags.set_carry(carry);
    Ok(())
}

/// CLD, STD by `variant`.
pub(crate) fn direction_flag(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if op.variant == 1 {
        core.system_flags |= f::DF;
    } else {
        core.system_flags &= !f::DF;
    }
    Ok(())
}

/// LAHF.
pub(crate) fn load_flags(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    let flags = core.rflags() as u8;
    core.set::<u8>(crate::width::HIGH_BYTE, flags);
    Ok(())
}

/// SAHF.
pub(crate) fn store_flags(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    let low: u8 = core.get(crate::width::HIGH_BYTE);
    let kept = core.flags.to_bits() & f::OF;
    let taken = u64::from(low) & (f::SF | f::ZF | f::AF | f::PF | f::CF);
    core.flags = LazyFlags::from_bits(kept | taken);
    Ok(())
}
