//! The bodies of a microvm's sections as QEMU 7.2 lays them out: field by field in the order of the
//! bytes, with QEMU's versions. Names follow QEMU's descriptions. What QEMU could send and is not
//! here ends in an error that names it.
//!
//! Facts: what QEMU writes (the description behind each stream; `tests/layout.rs` holds these
//! against it), and its documentation (`docs/devel/migration.rst`).

mod board;
mod cpu;
mod serial;
mod virtio;

use machine::{MachineConfig, VirtioKind, board as map};
use vmstate::{Schema, VmState};

pub use board::*;
pub use cpu::*;
pub use serial::*;
pub use virtio::*;

/// One section that a microvm sends.
#[derive(Clone, Debug)]
pub struct Layout {
    /// QEMU's name of the section.
    pub name: String,
    /// Its instance.
    pub instance: u32,
    /// What its body looks like.
    pub schema: Schema,
}

/// The name of the section of a virtio device in this slot.
pub fn virtio_section(slot: u8, device: &str) -> String {
    format!("virtio-mmio@{:016x}/{device}", map::virtio_region(slot).base)
}

/// QEMU's name for a device type, as the last part of the section's name.
pub fn virtio_device(kind: &VirtioKind) -> &'static str {
    match kind {
        VirtioKind::Block { .. } => "virtio-blk",
        VirtioKind::Rng { .. } => "virtio-rng",
        VirtioKind::Console { .. } => "virtio-console",
        VirtioKind::Net { .. } => "virtio-net",
    }
}

/// The sections of a QEMU microvm with this configuration, in the order in which QEMU 7.2 writes
/// them. A virtio console and a network device are not among them: what QEMU's sends is not known
/// here.
pub fn layouts(config: &MachineConfig) -> Vec<Layout> {
    let mut layouts = Vec::new();
    let mut add = |name: &str, instance: u32, schema: Schema| {
        layouts.push(Layout { name: name.to_owned(), instance, schema });
    };
    add("timer", 0, TimerLayout::schema());
    add("fw_cfg", 0, FwCfgLayout::schema());
    for cpu in 0..config.cpus.count {
        add("cpu_common", cpu, CpuCommonLayout::schema());
        add("cpu", cpu, CpuLayout::schema());
        if cpu == 0 {
            add("kvm-tpr-opt", 0, TprOptLayout::schema());
        }
        add("apic", cpu, ApicLayout::schema());
    }
    for instance in 0..2 {
        add("ioapic", instance, IoApicLayout::schema());
    }
    add("acpi-ged", 0, GedLayout::schema());
    for instance in 0..2 {
        add("i8259", instance, I8259Layout::schema());
    }
    add("i8254", 0, I8254Layout::schema());
    add("mc146818rtc", 0, RtcLayout::schema());
    add("serial", 0, SerialLayout::schema());
    for device in &config.virtio {
        let schema = match &device.kind {
            VirtioKind::Block { .. } => VirtioBlockLayout::schema(),
            VirtioKind::Rng { .. } => VirtioRngLayout::schema(),
            VirtioKind::Console { .. } | VirtioKind::Net { .. } => continue,
        };
        add(&virtio_section(device.slot, virtio_device(&device.kind)), 0, schema);
    }
    add("globalstate", 0, GlobalStateLayout::schema());
    layouts
}
