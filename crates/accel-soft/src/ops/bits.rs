//! Bit tests, scans and counts, and checksums.

use cpu::{Bus, flags as f};

use crate::block::Op;
use crate::core::Core;
use crate::fault::Done;
use crate::lazy_flags::LazyFlags;
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

/// POPCNT: how many bits are set. Zero is told by ZF; the other flags are cleared.
pub(crate) fn count<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let source: T = S::get(core, bus, op)?;
    let bits = source.zero_extended();
    core.set(op.first, T::of(u64::from(bits.count_ones())));
    core.flags = LazyFlags::from_bits(if bits == 0 { f::ZF } else { 0 });
    Ok(())
}

/// CRC32: the checksum in the destination goes on over the source, lowest byte first. The
/// polynomial is 0x11edc6f41, bits reversed (Intel SDM volume 2).
pub(crate) fn checksum<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let source: T = S::get(core, bus, op)?;
    let mut sum: u32 = core.get(op.first);
    for byte in source.zero_extended().to_le_bytes().into_iter().take(T::BYTES) {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    core.set(op.first, sum);
    Ok(())
}
