//! The board that all machine types share: addresses, ports and interrupts, laid out as QEMU's
//! `microvm` machine lays them out (measured on QEMU 7.2).
//!
//! Legacy interrupt `n` is input `n` of the 8259 pair and pin `n` of I/O APIC 0, except interrupt
//! 0, which reaches the I/O APIC at pin 2 (the usual wiring; MultiProcessor Specification 1.4,
//! section 5.1). Global system interrupts 0 to 23 are the pins of I/O APIC 0, 24 to 47 those of
//! I/O APIC 1.

use std::ops::Range;

/// A range of port or memory addresses: first address and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Region {
    const fn new(base: u64, length: u64) -> Self {
        Region { base, length }
    }

    /// Whether `address` lies in the region.
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.length
    }
}

/// Master 8259A (ports).
pub const PIC_MASTER: Region = Region::new(0x20, 2);
/// Slave 8259A (ports), on input 2 of the master.
pub const PIC_SLAVE: Region = Region::new(0xa0, 2);
/// Edge/level control registers of the 8259A pair (ports).
pub const PIC_ELCR: Region = Region::new(0x4d0, 2);
/// 8254 timer (ports).
pub const PIT: Region = Region::new(0x40, 4);
/// Gate and output of the 8254's channel 2 (port).
pub const PIT_CONTROL: Region = Region::new(0x61, 1);
/// MC146818 real-time clock (ports).
pub const RTC: Region = Region::new(0x70, 2);
/// Exit device (port): a byte written is the machine's exit code.
pub const EXIT: Region = Region::new(0xf4, 1);
/// First serial port (ports).
pub const SERIAL: Region = Region::new(0x3f8, 8);
/// Firmware configuration (ports): selector, data at +1, DMA address at +4.
pub const FW_CFG: Region = Region::new(0x510, 12);

/// Where firmware lies in memory, in machine types that have it.
pub const FIRMWARE: Region = Region::new(0xf_0000, 0x1_0000);
/// Where the same firmware shows below 4 GiB (memory).
pub const FIRMWARE_HIGH: Region = Region::new(0xffff_0000, 0x1_0000);

/// I/O APIC 0 (memory).
pub const IOAPIC_0: Region = Region::new(0xfec0_0000, 0x1000);
/// I/O APIC 1 (memory).
pub const IOAPIC_1: Region = Region::new(0xfec1_0000, 0x1000);
/// Local APIC, at the same address for each CPU (memory).
pub const LAPIC: Region = Region::new(0xfee0_0000, 0x1000);
/// HPET (memory), where the configuration has one.
pub const HPET: Region = Region::new(0xfed0_0000, 0x400);
/// Event selector of the ACPI generic event device (memory).
pub const GED_EVENTS: Region = Region::new(0xfea0_0000, 4);
/// Sleep control, sleep status and reset registers of the ACPI generic event device (memory).
pub const GED_REGISTERS: Region = Region::new(0xfea0_0200, 3);

/// Pins of each I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// First global system interrupt of I/O APIC 1.
pub const IOAPIC_1_GSI: u32 = 24;
/// Legacy interrupt of the 8254's channel 0; pin 2 of I/O APIC 0.
pub const PIT_IRQ: u32 = 0;
/// Pin of I/O APIC 0 that legacy interrupt 0 reaches.
pub const PIT_IOAPIC_PIN: u32 = 2;
/// Legacy interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// Legacy interrupt of the real-time clock.
pub const RTC_IRQ: u32 = 8;
/// Legacy interrupt of the ACPI generic event device.
pub const GED_IRQ: u32 = 9;

/// Input clock of the 8254, in hertz.
pub const PIT_HZ: u32 = 1_193_182;
/// Input clock of the serial port, in hertz (1.8432 MHz; 115200 baud at divisor 1).
pub const SERIAL_HZ: u32 = 1_843_200;
/// Main counter of the HPET, in hertz (a period of 10 ns).
pub const HPET_HZ: u32 = 100_000_000;
/// Timers of the HPET.
pub const HPET_TIMERS: u32 = 3;
/// Clock of the local APIC timer before its divider, in hertz.
pub const LAPIC_HZ: u32 = 1_000_000_000;

/// Number of virtio-mmio slots.
pub const VIRTIO_SLOTS: u8 = 24;
/// Address of virtio-mmio slot 0.
pub const VIRTIO_BASE: u64 = 0xfeb0_0000;
/// Distance from one virtio-mmio slot to the next, and the length of each.
pub const VIRTIO_SLOT_BYTES: u64 = 0x200;

/// The registers of virtio-mmio slot `slot` (memory), for a slot below [`VIRTIO_SLOTS`].
pub const fn virtio_region(slot: u8) -> Region {
    Region::new(VIRTIO_BASE + VIRTIO_SLOT_BYTES * slot as u64, VIRTIO_SLOT_BYTES)
}

/// The global system interrupt of virtio-mmio slot `slot`: a pin of I/O APIC 1, level-triggered.
pub const fn virtio_gsi(slot: u8) -> u32 {
    IOAPIC_1_GSI + slot as u32
}

/// End of the memory below the hole for devices.
pub const LOW_MEMORY_END: u64 = 0xe000_0000;
/// Start of the memory above the hole.
pub const HIGH_MEMORY_START: u64 = 1 << 32;

/// Where memory of `bytes` lies in guest-physical space: from 0 up to the hole, the rest from
/// 4 GiB. One range or two.
pub fn memory_ranges(bytes: u64) -> Vec<Range<u64>> {
    ranges_up_to(LOW_MEMORY_END, bytes)
}

fn ranges_up_to(low_end: u64, bytes: u64) -> Vec<Range<u64>> {
    let low = bytes.min(low_end);
    let high = bytes - low;
    let mut ranges = vec![Range { start: 0, end: low }];
    if high > 0 {
        let end = HIGH_MEMORY_START.saturating_add(high);
        ranges.push(Range { start: HIGH_MEMORY_START, end });
    }
    ranges
}

/// End of a `microvm`'s memory below the hole, as QEMU lays it out: the rest is above 4 GiB.
pub const MICROVM_LOW_MEMORY_END: u64 = 0xc000_0000;

/// The same for a `microvm`. Its firmware is part of it.
pub fn microvm_memory_ranges(bytes: u64) -> Vec<Range<u64>> {
    ranges_up_to(MICROVM_LOW_MEMORY_END, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_slot_is_where_qemu_has_it() {
        assert_eq!(virtio_region(23), Region::new(0xfeb0_2e00, 0x200));
        assert_eq!(virtio_gsi(23), 47);
        assert!(virtio_region(23).contains(0xfeb0_2fff));
        assert!(!virtio_region(23).contains(0xfeb0_3000));
    }

    #[test]
    fn a_microvms_memory_goes_on_above_4_gib_where_qemus_does() {
        let ranges = |bytes| {
            let ranges = microvm_memory_ranges(bytes);
            ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        let high = (1 << 32, (1 << 32) + (1 << 20));
        assert_eq!(ranges((3 << 30) + (1 << 20)), [(0, 3 << 30), high]);
    }

    #[test]
    fn memory_leaves_the_hole_free() {
        let ranges = |bytes| {
            memory_ranges(bytes).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(65536), [(0, 65536)]);
        assert_eq!(ranges(LOW_MEMORY_END), [(0, LOW_MEMORY_END)]);
        assert_eq!(
            ranges(LOW_MEMORY_END + 4096),
            [(0, LOW_MEMORY_END), (1 << 32, (1 << 32) + 4096)]
        );
    }
}
