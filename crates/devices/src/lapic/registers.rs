//! Registers of the local APIC and their bits (Intel SDM volume 3, chapter 10).

pub(super) const ID: u64 = 0x020;
pub(super) const VERSION: u64 = 0x030;
pub(super) const TASK_PRIORITY: u64 = 0x080;
pub(super) const ARBITRATION_PRIORITY: u64 = 0x090;
pub(super) const PROCESSOR_PRIORITY: u64 = 0x0a0;
pub(super) const EOI: u64 = 0x0b0;
pub(super) const LOGICAL_DESTINATION: u64 = 0x0d0;
pub(super) const DESTINATION_FORMAT: u64 = 0x0e0;
pub(super) const SPURIOUS_VECTOR: u64 = 0x0f0;
pub(super) const ISR: u64 = 0x100;
pub(super) const ISR_LAST: u64 = 0x170;
pub(super) const TMR: u64 = 0x180;
pub(super) const TMR_LAST: u64 = 0x1f0;
pub(super) const IRR: u64 = 0x200;
pub(super) const IRR_LAST: u64 = 0x270;
pub(super) const ERROR_STATUS: u64 = 0x280;
pub(super) const ICR_LOW: u64 = 0x300;
pub(super) const ICR_HIGH: u64 = 0x310;
pub(super) const LVT: u64 = 0x320;
pub(super) const LVT_LAST: u64 = 0x370;
pub(super) const INITIAL_COUNT: u64 = 0x380;
pub(super) const CURRENT_COUNT: u64 = 0x390;
pub(super) const DIVIDE: u64 = 0x3e0;

/// Version 0x14, highest local vector table entry 5.
pub(super) const VERSION_VALUE: u32 = 0x5_0014;

pub(super) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(super) const BASE_ENABLED: u64 = 1 << 11;
/// The base's place out of reset.
pub(super) const BASE_ADDRESS: u64 = 0xfee0_0000;
/// Bits that are reserved: all but the flags and an address of 40 bits, the width that the CPU
/// models report. Bit 10 is x2APIC mode, which none of them reports.
pub(super) const BASE_RESERVED: u64 = !(0xff_ffff_f000 | BASE_BOOTSTRAP | BASE_ENABLED);

pub(super) const SVR_ENABLED: u32 = 1 << 8;
pub(super) const SVR_BITS: u32 = 0x3ff;

pub(super) const TIMER: usize = 0;
pub(super) const LINT0: usize = 3;
pub(super) const ERROR: usize = 5;
pub(super) const LVT_MASKED: u32 = 1 << 16;
pub(super) const LVT_PERIODIC: u32 = 1 << 17;
pub(super) const LVT_LEVEL: u32 = 1 << 15;
pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;
/// Bits of each entry that the guest writes.
pub(super) const LVT_BITS: [u32; 6] = [0x3_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// Whether an entry is of a local input in fixed mode that is level-triggered. (LINT1 is always
/// edge-triggered.)
pub(super) fn is_level(index: usize, entry: u32) -> bool {
    index == LINT0 && entry & LVT_LEVEL != 0 && entry >> 8 & 7 == 0
}

pub(super) const ERROR_SEND_VECTOR: u32 = 1 << 5;
pub(super) const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
pub(super) const ERROR_REGISTER: u32 = 1 << 7;
pub(super) const ERROR_BITS: u32 = ERROR_SEND_VECTOR | ERROR_RECEIVE_VECTOR | ERROR_REGISTER;

pub(super) const ICR_LOGICAL: u32 = 1 << 11;
pub(super) const ICR_ASSERT: u32 = 1 << 14;
pub(super) const ICR_LEVEL: u32 = 1 << 15;
pub(super) const ICR_LOW_BITS: u32 = 0xc_cfff;
pub(super) const ICR_HIGH_BITS: u32 = 0xff00_0000;
