//! MMX and SSE instructions: fetches and stores the operands that [`crate::simd`] names, and
//! delivers what it raises.

use cpu::Bus;
use cpu::flags as f;

use crate::block::{Handler, Op};
use crate::core::{Core, RAX, RCX, RDI, RDX};
use crate::fault::{self, Done};
use crate::lazy_flags::LazyFlags;
use crate::simd::{self, COMPARE_FLAGS, Operand, Shape, SimdEnv, SimdInstruction, StringResult};

impl Core {
    /// What every MMX or SSE instruction asks first (Intel SDM volume 3, tables 2-1 and 13-1).
    fn check_vector(&mut self, instruction: &SimdInstruction) -> Done {
        let refused = if instruction.xmm {
            self.cr0 & f::CR0_EM != 0 || self.cr4 & f::CR4_OSFXSR == 0
        } else {
            self.cr0 & f::CR0_EM != 0
        };
        if refused {
            return Err(self.undefined());
        }
        if self.cr0 & f::CR0_TS != 0 {
            return Err(self.raise(fault::NO_DEVICE, None));
        }
        if instruction.mmx {
            self.check_math_fault()?;
        }
        Ok(())
    }

    fn fetch(&mut self, bus: &mut dyn Bus, op: &Op, operand: Operand, aligned: bool) -> Done<u128> {
        Ok(match operand {
            Operand::None => 0,
            Operand::Xmm(index) => self.xmm[usize::from(index & 15)],
            Operand::XmmLow { index, bytes } => {
                let value = self.xmm[usize::from(index & 15)];
                if bytes == 4 { value & 0xffff_ffff } else { value & u128::from(u64::MAX) }
            }
            Operand::XmmHigh(index) => self.xmm[usize::from(index & 15)] >> 64,
            Operand::Mmx(index) => u128::from(self.x87.mmx_read(index)),
            Operand::Gpr { index, bytes: 4 } => u128::from(self.get::<u32>(index)),
            Operand::Gpr { index, .. } => u128::from(self.get::<u64>(index)),
            Operand::Memory { bytes } => {
                let linear = self.address(op, usize::from(bytes), false)?;
                if aligned && linear & 15 != 0 {
                    return Err(self.protection(0));
                }
                match bytes {
                    4 => u128::from(self.load_linear::<u32>(bus, linear, op.through())?),
                    8 => u128::from(self.load_linear::<u64>(bus, linear, op.through())?),
                    16 if linear & 0xfff <= 0xff0 => {
                        let low: u64 = self.load_linear(bus, linear, op.through())?;
                        let high: u64 =
                            self.load_linear(bus, linear.wrapping_add(8), op.through())?;
                        u128::from(low) | u128::from(high) << 64
                    }
                    _ => {
                        let mut all = [0; 16];
                        self.load_slow(bus, linear, &mut all[..usize::from(bytes)], op.through())?;
                        u128::from_le_bytes(all)
                    }
                }
            }
        })
    }

    fn put(
        &mut self,
        bus: &mut dyn Bus,
        op: &Op,
        operand: Operand,
        value: u128,
        aligned: bool,
    ) -> Done {
        match operand {
            Operand::None => {}
            Operand::Xmm(index) => self.xmm[usize::from(index & 15)] = value,
            Operand::XmmLow { index, bytes } => {
                let mask = if bytes == 4 { 0xffff_ffff } else { u128::from(u64::MAX) };
                let register = &mut self.xmm[usize::from(index & 15)];
                *register = *register & !mask | value & mask;
            }
            Operand::XmmHigh(index) => {
                let register = &mut self.xmm[usize::from(index & 15)];
                *register = *register & u128::from(u64::MAX) | value << 64;
            }
            Operand::Mmx(index) => self.x87.mmx_write(index, value as u64),
            Operand::Gpr { index, bytes: 4 } => self.set(index, value as u32),
            Operand::Gpr { index, .. } => self.set(index, value as u64),
            Operand::Memory { bytes } => {
                let linear = self.address(op, usize::from(bytes), true)?;
                if aligned && linear & 15 != 0 {
                    return Err(self.protection(0));
                }
                match bytes {
                    4 => self.store_linear(bus, linear, value as u32, op.through())?,
                    8 => self.store_linear(bus, linear, value as u64, op.through())?,
                    16 if linear & 0xfff <= 0xff0 => {
                        // Both halves lie in one page: if the first store does not fault, the
                        // second does not.
                        self.store_linear(bus, linear, value as u64, op.through())?;
                        let high = (value >> 64) as u64;
                        self.store_linear(bus, linear.wrapping_add(8), high, op.through())?;
                    }
                    _ => {
                        let all = value.to_le_bytes();
                        self.store_slow(bus, linear, &all[..usize::from(bytes)], op.through())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends a computation that may have raised SIMD exceptions.
    fn finish_vector(&mut self, environment: &SimdEnv) -> Done {
        self.mxcsr = environment.mxcsr;
        if environment.unmasked() {
            let handled = self.cr4 & f::CR4_OSXMMEXCPT != 0;
            return Err(self.raise(if handled { fault::SIMD } else { fault::UNDEFINED }, None));
        }
        Ok(())
    }
}

/// What runs a table entry; the operation's immediate is the entry's place in its block.
pub(crate) fn handler(instruction: &SimdInstruction) -> Handler {
    match instruction.shape {
        Shape::Copy { .. } => copy,
        Shape::Compute { .. } => compute,
        Shape::Blend { .. } => blend,
        Shape::Compare { .. } => compare,
        Shape::CompareStrings { .. } => compare_strings,
        Shape::MaskedStore { .. } => masked_store,
        Shape::LoadMxcsr => load_mxcsr,
        Shape::StoreMxcsr => store_mxcsr,
        Shape::Fence => crate::ops::data::nothing,
        Shape::Emms => empty_mmx,
    }
}

fn entry(core: &Core, op: &Op) -> SimdInstruction {
    core.running_block().vectors[op.immediate as usize]
}

fn copy(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::Copy { destination, source } = instruction.shape else { unreachable!("a copy") };
    core.check_vector(&instruction)?;
    let value = core.fetch(bus, op, source, instruction.aligned)?;
    core.put(bus, op, destination, value, instruction.aligned)?;
    if instruction.mmx {
        core.x87.enter_mmx();
    }
    Ok(())
}

fn compute(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::Compute { destination, source, run } = instruction.shape else {
        unreachable!("a computation")
    };
    core.check_vector(&instruction)?;
    let right = core.fetch(bus, op, source, instruction.aligned)?;
    let left = if destination.is_memory() { 0 } else { core.fetch(bus, op, destination, false)? };
    let mut environment = SimdEnv::new(core.mxcsr);
    let result = run(&mut environment, left, right, instruction.imm);
    if instruction.may_fault_simd {
        core.finish_vector(&environment)?;
    }
    core.put(bus, op, destination, result, false)?;
    if instruction.mmx {
        core.x87.enter_mmx();
    }
    Ok(())
}

fn compare(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::Compare { left, source, run } = instruction.shape else {
        unreachable!("a comparison")
    };
    core.check_vector(&instruction)?;
    let right = core.fetch(bus, op, source, instruction.aligned)?;
    let left = core.fetch(bus, op, left, false)?;
    let mut environment = SimdEnv::new(core.mxcsr);
    let result = run(&mut environment, left, right, 0);
    core.finish_vector(&environment)?;
    core.flags = LazyFlags::from_bits(result as u64 & COMPARE_FLAGS);
    Ok(())
}

fn blend(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::Blend { destination, source, run } = instruction.shape else {
        unreachable!("a blend")
    };
    core.check_vector(&instruction)?;
    let right = core.fetch(bus, op, source, instruction.aligned)?;
    let left = core.fetch(bus, op, destination, false)?;
    let result = run(left, right, core.xmm[0]);
    core.put(bus, op, destination, result, false)
}

fn compare_strings(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::CompareStrings { left, source, explicit, result } = instruction.shape else {
        unreachable!("a comparison of strings")
    };
    core.check_vector(&instruction)?;
    let right = core.fetch(bus, op, source, instruction.aligned)?;
    let left = core.fetch(bus, op, left, false)?;
    let lengths = explicit.map(|bytes| {
        [RAX, RDX].map(|register| match bytes {
            4 => i64::from(core.get::<u32>(register) as i32),
            _ => core.get::<u64>(register) as i64,
        })
    });
    let found = simd::compare_strings(left, right, lengths, instruction.imm);
    match result {
        StringResult::Index => core.set(RCX, u32::from(found.index)),
        StringResult::Mask => core.xmm[0] = found.mask,
    }
    core.flags = LazyFlags::from_bits(found.flags);
    Ok(())
}

fn masked_store(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    let Shape::MaskedStore { data, mask, bytes } = instruction.shape else {
        unreachable!("a masked store")
    };
    core.check_vector(&instruction)?;
    let data = core.fetch(bus, op, data, false)?.to_le_bytes();
    let mask = simd::byte_mask(core.fetch(bus, op, mask, false)?);
    let offset = core.register(RDI) & op.address_mask();
    let linear = core.segment_address(op.segment, offset, usize::from(bytes), true)?;
    if mask != 0 {
        let place = core.place_slow(linear, usize::from(bytes), op.through())?;
        let mut old = [0; 16];
        let old = &mut old[..usize::from(bytes)];
        core.get_bytes(bus, &place, old);
        for (index, byte) in old.iter_mut().enumerate() {
            if mask >> index & 1 != 0 {
                *byte = data[index];
            }
        }
        core.put_bytes(bus, &place, old);
    }
    if instruction.mmx {
        core.x87.enter_mmx();
    }
    Ok(())
}

fn load_mxcsr(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    core.check_vector(&instruction)?;
    let linear = core.address(op, 4, false)?;
    let value: u32 = core.load_linear(bus, linear, op.through())?;
    match simd::check_mxcsr(value) {
        Ok(value) => core.mxcsr = value,
        Err(_) => return Err(core.protection(0)),
    }
    Ok(())
}

fn store_mxcsr(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    core.check_vector(&instruction)?;
    let linear = core.address(op, 4, true)?;
    core.store_linear(bus, linear, core.mxcsr, op.through())
}

fn empty_mmx(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let instruction = entry(core, op);
    core.check_vector(&instruction)?;
    core.check_math_fault()?;
    core.x87.emms();
    Ok(())
}
