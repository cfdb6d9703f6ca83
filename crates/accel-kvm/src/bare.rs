//! A bare machine for tiny guests, of probes and of tests: identity-mapped 64-bit mode, a GDT with
//! both rings, an IDT, no firmware.

use cpu::{Activity, CpuModel, CpuState, DescriptorTable, Segment, flags};
use memory::{GuestRam, MemoryError};

/// Where a program is put and starts.
pub const CODE: u64 = 0x2_0000;
/// Memory that a program may use.
pub const DATA: u64 = 0x3_0000;
/// Top of the stack in ring 0.
pub const STACK: u64 = 0x1_8000;
/// Top of the stack in ring 3.
pub const USER_STACK: u64 = 0x1_f000;
/// Bytes of RAM that the layout needs at least.
pub const RAM_BYTES: u64 = 0x20_0000;
/// Selectors of ring 0.
pub const KERNEL_CODE: u16 = 0x08;
/// Data of ring 0.
pub const KERNEL_DATA: u16 = 0x10;
/// Selectors of ring 3, as SYSRET wants them.
pub const USER_DATA: u16 = 0x23;
/// Code of ring 3.
pub const USER_CODE: u16 = 0x2b;

const TOP_TABLE: u64 = 0x1000;
const SECOND_TABLE: u64 = 0x2000;
const LOW_TABLE: u64 = 0x3000;
const HIGH_TABLE: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const TASK: u16 = 0x30;
/// Present, writable, for both rings.
const MAPPED: u64 = 7;
const LARGE: u64 = 1 << 7;

fn put(ram: &GuestRam, address: u64, value: u64) -> Result<(), MemoryError> {
    ram.write(address, &value.to_le_bytes())
}

/// Writes page tables, which map the first GiB and the last below 4 GiB to themselves, the
/// descriptor tables, and the program.
///
/// # Errors
/// If the RAM is shorter than [`RAM_BYTES`].
pub fn lay_out(ram: &GuestRam, program: &[u8]) -> Result<(), MemoryError> {
    put(ram, TOP_TABLE, SECOND_TABLE | MAPPED)?;
    put(ram, SECOND_TABLE, LOW_TABLE | MAPPED)?;
    put(ram, SECOND_TABLE + 3 * 8, HIGH_TABLE | MAPPED)?;
    for index in 0..512 {
        put(ram, LOW_TABLE + 8 * index, (index << 21) | LARGE | MAPPED)?;
        put(ram, HIGH_TABLE + 8 * index, (3 << 30) | (index << 21) | LARGE | MAPPED)?;
    }
    let tss = 0x0000_8900_0000_0067 | TSS << 16;
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        tss,
        0,
    ];
    for (slot, descriptor) in (0..).step_by(8).zip(descriptors) {
        put(ram, GDT + slot, descriptor)?;
    }
    // RSP0: where an interrupt out of ring 3 puts its frame.
    put(ram, TSS + 4, STACK)?;
    ram.write(TSS + 0x66, &0x68u16.to_le_bytes())?;
    ram.write(CODE, program)
}

/// Points a vector at a handler in ring 0, by an interrupt gate that ring 3 may use too.
///
/// # Errors
/// If the RAM is shorter than [`RAM_BYTES`].
pub fn set_gate(ram: &GuestRam, vector: u8, handler: u64) -> Result<(), MemoryError> {
    let gate = handler & 0xffff
        | u64::from(KERNEL_CODE) << 16
        | 0xee00 << 32
        | (handler >> 16 & 0xffff) << 48;
    put(ram, IDT + 16 * u64::from(vector), gate)?;
    put(ram, IDT + 16 * u64::from(vector) + 8, handler >> 32)
}

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes }
}

/// Ring 0, 64-bit mode, interrupts off, about to execute the program.
pub fn ring_0(model: &CpuModel) -> CpuState {
    let data = flat(KERNEL_DATA, 0xc93);
    let code = flat(KERNEL_CODE, 0xa9b);
    let mut state = CpuState::at_reset(model, 0);
    state.general = [0; 16];
    state.general[4] = STACK;
    state.rip = CODE;
    state.segments = [data, code, data, data, data, data];
    state.tr = Segment { selector: TASK, base: TSS, limit: 0x67, attributes: 0x8b };
    state.gdt = DescriptorTable { base: GDT, limit: 0x3f };
    state.idt = DescriptorTable { base: IDT, limit: 0xfff };
    state.cr0 = flags::CR0_PE
        | flags::CR0_MP
        | flags::CR0_ET
        | flags::CR0_NE
        | flags::CR0_WP
        | flags::CR0_PG;
    state.cr3 = TOP_TABLE;
    state.cr4 = flags::CR4_PAE | flags::CR4_OSFXSR | flags::CR4_OSXMMEXCPT;
    state.msrs.efer = flags::EFER_LME | flags::EFER_LMA | flags::EFER_NXE | flags::EFER_SCE;
    // SYSCALL comes to the code and data of ring 0, SYSRET goes back to those of ring 3.
    state.msrs.star = u64::from(KERNEL_CODE) << 32 | 0x1b << 48;
    state.activity = Activity::Running;
    state
}

/// Ring 3, 64-bit mode, about to execute the program.
pub fn ring_3(model: &CpuModel) -> CpuState {
    let data = flat(USER_DATA, 0xcf3);
    let code = flat(USER_CODE, 0xafb);
    let mut state = ring_0(model);
    state.general[4] = USER_STACK;
    state.segments = [data, code, data, data, data, data];
    state
}
