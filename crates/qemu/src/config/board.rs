//! The board: what QEMU 7.2 puts on a `microvm` besides its CPUs and the virtio devices.

use machine::{VirtioInterface, board};

use super::Reasons;
use super::cpu::CPU_SUFFIX;
use super::monitor::MonitorError;
use super::qom::{Qom, Table, Want};

const ON: &[&str] = &["on", "auto"];
const OFF: &[&str] = &["off", "auto"];
const EMPTY: &[&str] = &[""];

/// Properties of the machine itself. What the firmware is given (kernel, order of booting, names in
/// tables) came to the guest long ago, and lies in memory.
pub(super) const MACHINE: Table = &[
    ("acpi", Want::Word(ON)),
    ("append", Want::Any),
    ("auto-kernel-cmdline", Want::Any),
    ("boot", Want::Any),
    ("bus-lock-ratelimit", Want::Any),
    ("confidential-guest-support", Want::Word(EMPTY)),
    ("dt-compatible", Want::Any),
    ("dtb", Want::Any),
    ("dump-guest-core", Want::Any),
    ("dumpdtb", Want::Any),
    ("firmware", Want::Any),
    ("graphics", Want::Any),
    ("hmat", Want::Flag(false)),
    ("initrd", Want::Any),
    ("ioapic2", Want::Word(ON)),
    ("isa-serial", Want::Flag(true)),
    ("kernel", Want::Any),
    ("mem-merge", Want::Any),
    // The name of the memory in the stream follows from that of what backs it.
    ("memory-backend", Want::Word(&["/objects/microvm.ram"])),
    ("memory-encryption", Want::Word(EMPTY)),
    ("memory", Want::Any),
    ("pcie", Want::Word(OFF)),
    ("phandle-start", Want::Any),
    ("pic", Want::Word(ON)),
    ("pit", Want::Word(ON)),
    ("rtc", Want::Word(ON)),
    ("rtc-time", Want::Any),
    ("sgx-epc", Want::Nothing),
    // System management mode is for firmware, and this one has none.
    ("smm", Want::Any),
    ("smp", Want::Any),
    ("suppress-vmdesc", Want::Any),
    ("usb", Want::Flag(false)),
    ("x-oem-id", Want::Any),
    ("x-oem-table-id", Want::Any),
    ("x-option-roms", Want::Flag(false)),
];

const I8259: Table = &[
    ("master", Want::Any),
    ("elcr_mask", Want::Any),
    ("elcr_addr", Want::Any),
    ("iobase", Want::Any),
];

const I8254: Table = &[("iobase", Want::Number(0x40))];

const RTC: Table = &[
    ("lost_tick_policy", Want::Word(&["discard"])),
    ("irq", Want::Number(board::RTC_IRQ as i64)),
    ("iobase", Want::Number(0x70)),
    ("base_year", Want::Number(0)),
    ("date", Want::Any),
];

const SERIAL: Table = &[
    ("irq", Want::Number(board::SERIAL_IRQ as i64)),
    ("index", Want::Number(0)),
    ("iobase", Want::Number(0x3f8)),
    ("wakeup", Want::Flag(false)),
    ("chardev", Want::Any),
    ("baudbase", Want::Number(115_200)),
];

const IOAPIC: Table = &[("version", Want::Number(0x20))];

const GED: Table = &[("ged-event", Want::Number(2))];

const FW_CFG: Table = &[
    ("acpi-mr-restore", Want::Flag(true)),
    ("x-file-slots", Want::Number(32)),
    ("dma_enabled", Want::Flag(true)),
];

const TRANSPORT: Table = &[
    ("force-legacy", Want::Any),
    ("ioeventfd", Want::Any),
    ("format_transport_address", Want::Flag(true)),
];

/// Types of devices, how many of each there are, and what makes QEMU build them.
const DEVICES: &[(&str, usize, Table, &str)] = &[
    ("acpi-ged-x86", 1, GED, "acpi=on"),
    ("fw_cfg_io", 1, FW_CFG, "microvm"),
    ("ioapic", 2, IOAPIC, "ioapic2=on"),
    ("isa-i8259", 2, I8259, "pic=on"),
    ("isa-pit", 1, I8254, "pit=on"),
    ("isa-serial", 1, SERIAL, "isa-serial=on and -serial"),
    ("isabus-bridge", 1, &[], "microvm"),
    ("kvmvapic", 1, &[], "a CPU with an APIC"),
    ("mc146818rtc", 1, RTC, "rtc=on"),
    ("virtio-mmio", board::VIRTIO_SLOTS as usize, TRANSPORT, "ioapic2=on"),
];

/// Objects that are no devices.
const PARTS: &[&str] = &["container", "irq", "memory-region", "System"];

/// Where QEMU keeps the devices of a board.
const PLACES: [&str; 2] = ["/machine", "/machine/unattached"];

/// Holds all devices of the board against what Ferry has; gives the interface of the slots.
pub(super) fn check(
    qom: &mut Qom<'_>,
    memory_bytes: u64,
    reasons: &mut Reasons,
) -> Result<VirtioInterface, MonitorError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for place in PLACES {
        for property in qom.list(place)? {
            let Some(kind) = property.child() else { continue };
            let path = format!("{place}/{}", property.name);
            if kind == "memory-region" {
                check_region(qom, &property.name, &path, memory_bytes, reasons)?;
            }
            if !PARTS.contains(&kind) && !kind.ends_with(CPU_SUFFIX) {
                found.push((kind.to_owned(), path));
            }
        }
    }
    for (kind, path) in &found {
        match DEVICES.iter().find(|(known, ..)| known == kind) {
            Some((_, _, table, _)) => qom.check(kind, path, table, reasons)?,
            None => reasons.add(kind, "Ferry's microvm has no such device"),
        }
    }
    for (kind, count, _, made_by) in DEVICES {
        let there = found.iter().filter(|(found, _)| found == kind).count();
        if there != *count {
            let many = format!("QEMU has {there} of them, and has to have {count} (by {made_by})");
            reasons.add(*kind, many);
        }
    }
    let transports: Vec<_> =
        found.iter().filter(|(kind, _)| kind == "virtio-mmio").map(|(_, path)| path).collect();
    check_transports(qom, &transports, reasons)
}

/// Where memory and firmware lie.
fn check_region(
    qom: &mut Qom<'_>,
    name: &str,
    path: &str,
    memory_bytes: u64,
    reasons: &mut Reasons,
) -> Result<(), MonitorError> {
    let memory = board::microvm_memory_ranges(memory_bytes);
    let (start, length) = match name {
        "ram-below-4g[0]" => (memory[0].start, memory[0].end),
        "ram-above-4g[0]" => match memory.get(1) {
            Some(high) => (high.start, high.end - high.start),
            None => {
                reasons.add("memory", "QEMU has some above 4 GiB, and Ferry has not");
                return Ok(());
            }
        },
        "pc.bios[0]" => (board::FIRMWARE_HIGH.base, board::FIRMWARE_HIGH.length),
        "isa-bios[0]" => (board::FIRMWARE.base, board::FIRMWARE.length),
        _ => return Ok(()),
    };
    let there = (qom.number(path, "addr")?, qom.number(path, "size")?);
    if there != (start, length) {
        let (address, size) = there;
        reasons.add(
            name.trim_end_matches("[0]"),
            format!(
                "{size:#x} bytes lie at {address:#x} in QEMU, and {length:#x} at {start:#x} in Ferry"
            ),
        );
    }
    Ok(())
}

fn check_transports(
    qom: &mut Qom<'_>,
    transports: &[&String],
    reasons: &mut Reasons,
) -> Result<VirtioInterface, MonitorError> {
    let mut legacy = 0;
    for path in transports {
        let parts = qom.list(path)?;
        let slot = parts
            .iter()
            .find_map(|part| part.name.strip_prefix("virtio-mmio-bus.")?.parse::<u8>().ok());
        let Some(slot) = slot.filter(|slot| *slot < board::VIRTIO_SLOTS) else {
            reasons.add("virtio-mmio", format!("{path} has no bus of a number that Ferry has"));
            continue;
        };
        let address = qom.number(&format!("{path}/virtio-mmio[0]"), "addr")?;
        let ours = board::virtio_region(slot).base;
        if address != ours {
            let reason =
                format!("slot {slot} is at {address:#x} in QEMU, and at {ours:#x} in Ferry");
            reasons.add("virtio-mmio", reason);
        }
        legacy += usize::from(qom.get(path, "force-legacy")?.as_bool() == Some(true));
    }
    if legacy == 0 {
        return Ok(VirtioInterface::Modern);
    }
    if legacy != transports.len() {
        let reason = "force-legacy differs between the slots, and Ferry has one interface for all";
        reasons.add("virtio-mmio", reason);
    }
    Ok(VirtioInterface::Legacy)
}
