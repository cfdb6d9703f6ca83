//! Moves, exchanges, conditional moves, extensions and the atomic read-modify-writes.

use cpu::Bus;

use crate::access::Through;
use crate::block::Op;
use crate::core::{Core, RAX, RBX, RCX, RDX};
use crate::fault::{self, Done};
use crate::ops::arithmetic::{Add, Alu, Cmp};
use crate::ops::operand::Source;
use crate::width::Width;

/// MOV to a register.
pub(crate) fn to_register<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let value: T = S::get(core, bus, op)?;
    core.set(op.first, value);
    Ok(())
}

/// MOV and MOVNTI to memory.
pub(crate) fn to_memory<T: Width, S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let value: T = S::get(core, bus, op)?;
    let linear = core.address(op, T::BYTES, true)?;
    core.store_linear(bus, linear, value, op.through())
}

/// MOVZX.
pub(crate) fn zero_extend<To: Width, From: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let value: From = S::get(core, bus, op)?;
    core.set(op.first, To::of(value.zero_extended()));
    Ok(())
}

/// MOVSX and MOVSXD.
pub(crate) fn sign_extend<To: Width, From: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let value: From = S::get(core, bus, op)?;
    core.set(op.first, To::of(value.sign_extended()));
    Ok(())
}

/// CBW, CWDE, CDQE.
pub(crate) fn widen<To: Width, From: Width>(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    let value: From = core.get(RAX);
    core.set(RAX, To::of(value.sign_extended()));
    Ok(())
}

/// CWD, CDQ, CQO.
pub(crate) fn spread_sign<T: Width>(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    let value: T = core.get(RAX);
    core.set(RDX, T::of((value.sign_extended() as i64 >> 63) as u64));
    Ok(())
}

/// LEA.
pub(crate) fn load_address<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let offset = core.offset(op);
    core.set(op.first, T::of(offset));
    Ok(())
}

/// CMOVcc with its condition in `variant`. The source is read whether or not it is moved.
pub(crate) fn conditional<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let value: T = S::get(core, bus, op)?;
    let old: T = core.get(op.first);
    let met = core.flags.condition(op.variant);
    core.set(op.first, if met { value } else { old });
    Ok(())
}

/// SETcc to a register.
pub(crate) fn set_register(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let met = core.flags.condition(op.variant);
    core.set(op.first, u8::from(met));
    Ok(())
}

/// SETcc to memory.
pub(crate) fn set_memory(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let met = core.flags.condition(op.variant);
    let linear = core.address(op, 1, true)?;
    core.store_linear(bus, linear, u8::from(met), op.through())
}

/// XCHG of registers.
pub(crate) fn exchange_registers<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let (first, second): (T, T) = (core.get(op.first), core.get(op.second));
    core.set(op.first, second);
    core.set(op.second, first);
    Ok(())
}

/// XCHG with memory.
pub(crate) fn exchange_memory<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = core.address(op, T::BYTES, true)?;
    let place = core.place::<T>(linear, op.through())?;
    let old: T = core.load_place(bus, &place);
    let new: T = core.get(op.second);
    core.store_place(bus, &place, new);
    core.set(op.second, old);
    Ok(())
}

/// XADD on registers.
pub(crate) fn add_exchange_registers<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let (left, right): (T, T) = (core.get(op.first), core.get(op.second));
    let sum = Add::apply(&mut core.flags, left, right);
    core.set(op.second, left);
    core.set(op.first, sum);
    Ok(())
}

/// XADD on memory.
pub(crate) fn add_exchange_memory<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = core.address(op, T::BYTES, true)?;
    let place = core.place::<T>(linear, op.through())?;
    let left: T = core.load_place(bus, &place);
    let right: T = core.get(op.second);
    let sum = Add::apply(&mut core.flags, left, right);
    core.store_place(bus, &place, sum);
    core.set(op.second, left);
    Ok(())
}

/// CMPXCHG on registers.
pub(crate) fn compare_exchange_registers<T: Width>(
    core: &mut Core,
    _: &mut dyn Bus,
    op: &Op,
) -> Done {
    let (accumulator, old): (T, T) = (core.get(RAX), core.get(op.first));
    Cmp::apply(&mut core.flags, accumulator, old);
    if accumulator == old {
        let new: T = core.get(op.second);
        core.set(op.first, new);
    } else {
        core.set(RAX, old);
    }
    Ok(())
}

/// CMPXCHG on memory, which is written either way.
pub(crate) fn compare_exchange_memory<T: Width>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    let linear = core.address(op, T::BYTES, true)?;
    let place = core.place::<T>(linear, op.through())?;
    let old: T = core.load_place(bus, &place);
    let accumulator: T = core.get(RAX);
    Cmp::apply(&mut core.flags, accumulator, old);
    if accumulator == old {
        let new: T = core.get(op.second);
        core.store_place(bus, &place, new);
    } else {
        core.store_place(bus, &place, old);
        core.set(RAX, old);
    }
    Ok(())
}

/// CMPXCHG8B; CMPXCHG16B where `T` is 64 bits. Only the zero flag changes.
pub(crate) fn compare_exchange_pair<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let size = 2 * T::BYTES;
    let linear = core.address(op, size, true)?;
    if size == 16 && linear & 15 != 0 {
        return Err(core.protection(0));
    }
    let place = core.place_slow(linear, size, op.through())?;
    let mut bytes = [0; 16];
    core.get_bytes(bus, &place, &mut bytes[..size]);
    let both = u128::from_le_bytes(bytes);
    let (old_low, old_high) = (T::of(both as u64), T::of((both >> T::BITS) as u64));
    let (low, high): (T, T) = (core.get(RAX), core.get(RDX));
    let equal = low == old_low && high == old_high;
    if equal {
        let (new_low, new_high): (T, T) = (core.get(RBX), core.get(RCX));
        let new =
            u128::from(new_low.zero_extended()) | u128::from(new_high.zero_extended()) << T::BITS;
        core.put_bytes(bus, &place, &new.to_le_bytes()[..size]);
    } else {
        core.put_bytes(bus, &place, &bytes[..size]);
        core.set(RAX, old_low);
        core.set(RDX, old_high);
    }
    let zero = cpu::flags::ZF;
    let flags = core.flags.to_bits() & !zero | if equal { zero } else { 0 };
    core.flags = crate::lazy_flags::LazyFlags::from_bits(flags);
    Ok(())
}

/// BSWAP. Of 16 bits the result is undefined; zero, as processors give.
pub(crate) fn byte_swap<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let value: T = core.get(op.first);
    let swapped = match T::BYTES {
        8 => value.zero_extended().swap_bytes(),
        4 => u64::from((value.zero_extended() as u32).swap_bytes()),
        _ => 0,
    };
    core.set(op.first, T::of(swapped));
    Ok(())
}

/// XLATB.
pub(crate) fn translate(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let table = core.register(RBX);
    let index: u8 = core.get(RAX);
    let offset = table.wrapping_add(u64::from(index)) & op.address_mask();
    let linear = core.segment_address(op.segment, offset, 1, false)?;
    let value: u8 = core.load_linear(bus, linear, op.through())?;
    core.set(RAX, value);
    Ok(())
}

/// BOUND.
pub(crate) fn bound<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = core.address(op, 2 * T::BYTES, false)?;
    let low: T = core.load_linear(bus, linear, Through::Data)?;
    let high: T = core.load_linear(bus, linear + T::BYTES as u64, Through::Data)?;
    let value = core.get::<T>(op.first).sign_extended() as i64;
    if value < low.sign_extended() as i64 || value > high.sign_extended() as i64 {
        return Err(core.raise(fault::BOUND, None));
    }
    Ok(())
}

/// Instructions that have nothing to do here: NOP, prefetches, fences, cache line flushes.
pub(crate) fn nothing(_: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    Ok(())
}

/// #UD.
pub(crate) fn undefined(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    Err(core.undefined())
}

/// CLFLUSH: reads its operand's address for faults.
pub(crate) fn flush_line(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = core.address(op, 1, false)?;
    core.load_linear::<u8>(bus, linear, op.through()).map(|_| ())
}
