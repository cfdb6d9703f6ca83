//! Multiplication and division.

use cpu::Bus;

use crate::block::Op;
use crate::core::{Core, RAX, RDX};
use crate::fault::{self, Done};
use crate::ops::operand::Source;
use crate::width::Width;

/// Writes a double-width product to DX:AX and its wider and narrower kin.
fn set_product<T: Width>(core: &mut Core, product: u128) {
    if T::BITS == 8 {
        core.set(RAX, product as u16);
    } else {
        core.set(RAX, T::of(product as u64));
        core.set(RDX, T::of((product >> T::BITS) as u64));
    }
}

/// The double-width dividend.
fn dividend<T: Width>(core: &Core) -> u128 {
    if T::BITS == 8 {
        u128::from(core.get::<u16>(RAX))
    } else {
        let low: T = core.get(RAX);
        let high: T = core.get(RDX);
        u128::from(high.zero_extended()) << T::BITS | u128::from(low.zero_extended())
    }
}

fn set_quotient<T: Width>(core: &mut Core, quotient: u64, remainder: u64) {
    if T::BITS == 8 {
        core.set(RAX, (quotient & 0xff) as u16 | (remainder as u16) << 8);
    } else {
        core.set(RAX, T::of(quotient));
        core.set(RDX, T::of(remainder));
    }
}

/// MUL.
pub(crate) fn unsigned<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let right: T = S::get(core, bus, op)?;
    let left: T = core.get(RAX);
    let product = u128::from(left.zero_extended()) * u128::from(right.zero_extended());
    set_product::<T>(core, product);
    let carry = product >> T::BITS != 0;
    core.flags.set_parts(T::of(product as u64), carry, carry, false);
    Ok(())
}

fn signed_product<T: Width>(left: T, right: T) -> (i128, bool) {
    let product =
        i128::from(left.sign_extended() as i64) * i128::from(right.sign_extended() as i64);
    let truncated = T::of(product as u64).sign_extended() as i64;
    (product, i128::from(truncated) != product)
}

/// IMUL with one operand.
pub(crate) fn signed<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let right: T = S::get(core, bus, op)?;
    let left: T = core.get(RAX);
    let (product, overflow) = signed_product(left, right);
    set_product::<T>(core, product as u128);
    core.flags.set_parts(T::of(product as u64), overflow, overflow, false);
    Ok(())
}

/// IMUL with two operands.
pub(crate) fn signed_two<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let right: T = S::get(core, bus, op)?;
    let left: T = core.get(op.first);
    let (product, overflow) = signed_product(left, right);
    core.set(op.first, T::of(product as u64));
    core.flags.set_parts(T::of(product as u64), overflow, overflow, false);
    Ok(())
}

/// IMUL with three operands.
pub(crate) fn signed_three<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let left: T = S::get(core, bus, op)?;
    let (product, overflow) = signed_product(left, T::of(op.immediate));
    core.set(op.first, T::of(product as u64));
    core.flags.set_parts(T::of(product as u64), overflow, overflow, false);
    Ok(())
}

/// DIV. The flags are undefined and stay.
pub(crate) fn divide<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let divisor: T = S::get(core, bus, op)?;
    let divisor = u128::from(divisor.zero_extended());
    let dividend = dividend::<T>(core);
    if divisor == 0 || (dividend / divisor) >> T::BITS != 0 {
        return Err(core.raise(fault::DIVIDE, None));
    }
    set_quotient::<T>(core, (dividend / divisor) as u64, (dividend % divisor) as u64);
    Ok(())
}

/// IDIV.
pub(crate) fn signed_divide<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let divisor: T = S::get(core, bus, op)?;
    let divisor = i128::from(divisor.sign_extended() as i64);
    let unused = 128 - 2 * T::BITS;
    let dividend = (dividend::<T>(core) << unused) as i128 >> unused;
    let quotient = dividend.checked_div(divisor);
    let fits = |value: i128| i128::from(T::of(value as u64).sign_extended() as i64) == value;
    let Some(quotient) = quotient.filter(|quotient| fits(*quotient)) else {
        return Err(core.raise(fault::DIVIDE, None));
    };
    set_quotient::<T>(core, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}
