//! x87 instructions and FXSAVE images: brings operands to the unit in [`crate::x87`] and takes them
//! away.

use cpu::flags as f;
use cpu::{Bus, X87State};

use crate::block::Op;
use crate::core::{BLOCK_RIP, Core, NO_SEGMENT, RAX};
use crate::fault::{self, Done};
use crate::lazy_flags::LazyFlags;
use crate::simd;
use crate::softfloat::F80;
use crate::x87::{MemoryUse, Operands, X87};

/// Bytes of an FXSAVE image that are written: the rest is the program's (AMD APM volume 2, figure
/// 11-8).
const IMAGE: usize = 416;

impl Core {
    /// Raises #MF if an unmasked x87 exception waits.
    pub(crate) fn check_math_fault(&mut self) -> Done {
        if !self.x87.math_fault() {
            return Ok(());
        }
        // Without CR0.NE the exception would be an interrupt of the 8259A pair, which this board
        // does not wire; the fault comes all the same.
        Err(self.raise(fault::MATH, None))
    }

    fn check_x87(&mut self, wait: bool) -> Done {
        let absent = if wait {
            self.cr0 & f::CR0_MP != 0 && self.cr0 & f::CR0_TS != 0
        } else {
            self.cr0 & (f::CR0_EM | f::CR0_TS) != 0
        };
        if absent { Err(self.raise(fault::NO_DEVICE, None)) } else { Ok(()) }
    }

    fn selector_of(&self, segment: u8) -> u16 {
        let index = if segment == NO_SEGMENT { cpu::CpuState::DS } else { segment.into() };
        self.segments[index].selector
    }
}

/// Any x87 instruction; the immediate is its place in the block.
pub(crate) fn run(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let instruction = core.running_block().floats[op.immediate as usize];
    core.check_x87(instruction.is_wait())?;
    if instruction.waits {
        core.check_math_fault()?;
    }
    let mut operands = Operands { memory: [0; 128], flags: core.rflags(), ax: core.get(RAX) };
    let mut linear = 0;
    match instruction.memory {
        MemoryUse::None => {}
        MemoryUse::Load(bytes) => {
            linear = core.address(op, bytes.into(), false)?;
            core.load_slow(bus, linear, &mut operands.memory[..bytes.into()], op.through())?;
        }
        MemoryUse::Store(bytes) => {
            linear = core.address(op, bytes.into(), true)?;
            // A store that faults must leave the unit as it was: look for room first.
            let place = core.place_slow(linear, bytes.into(), op.through())?;
            let pointers = pointers(core, op, linear);
            let stored = core.x87.run(&instruction, &mut operands);
            if stored {
                core.put_bytes(bus, &place, &operands.memory[..bytes.into()]);
            }
            note(core, &instruction, pointers);
            return Ok(());
        }
    }
    let pointers = pointers(core, op, linear);
    core.x87.run(&instruction, &mut operands);
    core.set(RAX, operands.ax);
    if instruction.sets_flags() {
        core.flags = LazyFlags::from_bits(operands.flags);
    }
    note(core, &instruction, pointers);
    Ok(())
}

/// Addresses of this instruction and of its operand.
fn pointers(core: &Core, op: &Op, linear: u64) -> (u64, u64, u16) {
    let rip = core.register(BLOCK_RIP).wrapping_add(op.start.into());
    (rip, linear, core.selector_of(op.segment))
}

/// Keeps the pointers of the last instruction that was no control instruction.
fn note(core: &mut Core, instruction: &crate::x87::X87Instruction, pointers: (u64, u64, u16)) {
    if instruction.control {
        return;
    }
    let (rip, linear, selector) = pointers;
    let long = core.mode.bits == 64;
    core.x87.last_instruction = rip;
    core.x87.last_instruction_selector =
        if long { 0 } else { core.segments[cpu::CpuState::CS].selector };
    core.x87.last_opcode = instruction.opcode;
    if instruction.memory != MemoryUse::None {
        core.x87.last_operand = linear;
        core.x87.last_operand_selector = if long { 0 } else { selector };
    }
}

fn image_address(core: &mut Core, op: &Op, write: bool) -> Done<u64> {
    if core.cr0 & f::CR0_EM != 0 {
        return Err(core.undefined());
    }
    if core.cr0 & f::CR0_TS != 0 {
        return Err(core.raise(fault::NO_DEVICE, None));
    }
    let linear = core.address(op, 512, write)?;
    if linear & 15 != 0 {
        return Err(core.protection(0));
    }
    Ok(linear)
}

fn xmm_registers(core: &Core) -> usize {
    if core.mode.bits == 64 { 16 } else { 8 }
}

/// FXSAVE, and FXSAVE64 by `variant`.
pub(crate) fn save_image(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = image_address(core, op, true)?;
    let place = core.place_slow(linear, 512, op.through())?;
    let mut image = [0; 512];
    core.get_bytes(bus, &place, &mut image);
    image[..IMAGE].fill(0);
    core.x87.to_fxsave(&mut image, op.variant == 1);
    let registers = xmm_registers(core);
    simd::store_image(&mut image, core.mxcsr, &core.xmm[..registers]);
    core.put_bytes(bus, &place, &image);
    Ok(())
}

/// FXRSTOR, and FXRSTOR64 by `variant`.
pub(crate) fn load_image(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = image_address(core, op, false)?;
    let mut image = [0; 512];
    core.load_slow(bus, linear, &mut image, op.through())?;
    let registers = xmm_registers(core);
    let mut xmm = core.xmm;
    match simd::load_image(&image, &mut xmm[..registers]) {
        Ok(mxcsr) => core.mxcsr = mxcsr,
        Err(_) => return Err(core.protection(0)),
    }
    core.xmm = xmm;
    core.x87.load_fxsave(&image, op.variant == 1);
    Ok(())
}

/// The unit from a saved state.
pub(crate) fn x87_from_state(state: &X87State) -> X87 {
    let X87State {
        control,
        status,
        tags,
        last_opcode,
        last_instruction_selector,
        last_instruction,
        last_operand_selector,
        last_operand,
        significands,
        exponents,
    } = state.clone();
    let mut unit = X87 {
        control,
        status,
        empty: 0,
        registers: std::array::from_fn(|index| F80 {
            significand: significands[index],
            exponent: exponents[index],
        }),
        last_opcode,
        last_instruction,
        last_instruction_selector,
        last_operand,
        last_operand_selector,
    };
    unit.set_tags(tags);
    unit
}

/// The saved state of the unit.
pub(crate) fn x87_to_state(unit: &X87) -> X87State {
    let X87 {
        control,
        status,
        empty: _,
        registers,
        last_opcode,
        last_instruction,
        last_instruction_selector,
        last_operand,
        last_operand_selector,
    } = unit;
    X87State {
        control: *control,
        status: *status,
        tags: unit.tags(),
        last_opcode: *last_opcode,
        last_instruction_selector: *last_instruction_selector,
        last_instruction: *last_instruction,
        last_operand_selector: *last_operand_selector,
        last_operand: *last_operand,
        significands: registers.map(|value| value.significand),
        exponents: registers.map(|value| value.exponent),
    }
}
