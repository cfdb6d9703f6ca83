//! From a configuration to its tree.
//!
//! Interrupt cells of the 8259 pair are those of the ISA binding (input, sense), those of the I/O
//! APICs those of Linux's `intel,ce4100-ioapic` binding (pin, sense); the two number the senses
//! differently. Ports are on an `isa` bus with its three cells (1 for a port, address, length).

use std::ops::Range;

use crate::board::{self, Region};
use crate::config::{ClockMode, CpuConfig, MachineConfig, RngSource, VirtioDevice, VirtioKind};
use crate::fdt::Node;
use crate::hex;
use crate::machine_type::MachineType;
use crate::uuid::format_uuid;
use crate::virtio_interface::VirtioInterface;

const PIC_HANDLE: u32 = 1;
const IOAPIC_0_HANDLE: u32 = 2;
const IOAPIC_1_HANDLE: u32 = 3;

const PIC_EDGE_RISING: u32 = 3;
const IOAPIC_EDGE_RISING: u32 = 0;
const IOAPIC_LEVEL_HIGH: u32 = 2;

/// Before a machine type's name in the root's `compatible`.
pub(super) const TYPE_PREFIX: &str = "ferry,";
/// Second `compatible` string of every virtio device (Linux binding `virtio,mmio`).
const VIRTIO_MMIO: &str = "virtio,mmio";
pub(super) const BLOCK: &str = "ferry,virtio-block";
pub(super) const RNG: &str = "ferry,virtio-rng";
pub(super) const CONSOLE: &str = "ferry,virtio-console";
pub(super) const NET: &str = "ferry,virtio-net";
/// The virtio devices that there are.
pub(super) const VIRTIO_DEVICES: [&str; 4] = [BLOCK, RNG, CONSOLE, NET];
pub(super) const CLOCK_HOST: &str = "ferry,clock-host";
pub(super) const CLOCK_ICOUNT: &str = "ferry,clock-icount";
/// The clocks that there are.
pub(super) const CLOCKS: [&str; 2] = [CLOCK_HOST, CLOCK_ICOUNT];

/// Name of the serial port's node, below `/isa`.
pub(super) const SERIAL_NODE: &str = "serial@i3f8";
/// Name of the memory node, below the root.
pub(super) const MEMORY_NODE: &str = "memory@0";
/// What the HPET node's name starts with.
pub(super) const HPET_NODE_PREFIX: &str = "hpet@";
/// Which interface the virtio slots have, in the node `/soc`.
pub(super) const VIRTIO_INTERFACE: &str = "ferry,virtio-interface";
/// What a virtio node's name starts with.
pub(super) const VIRTIO_NODE_PREFIX: &str = "virtio@";

pub(super) fn build(config: &MachineConfig) -> Node {
    // Each part says what it takes; `validate` has been asked before.
    let MachineConfig {
        machine_type,
        name,
        uuid,
        cpus,
        memory_bytes: _,
        clock,
        hpet,
        serial_id,
        virtio_interface,
        virtio,
    } = config;
    let name_of_type = format!("{TYPE_PREFIX}{machine_type}");
    Node::new("")
        .with_cells("#address-cells", &[2])
        .with_cells("#size-cells", &[2])
        .with_strings("compatible", &[&name_of_type])
        .with_strings("model", &[&name_of_type])
        .with_strings("ferry,name", &[name])
        .with_strings("ferry,uuid", &[&format_uuid(uuid)])
        .with_child(cpus_node(cpus))
        .with_child(memory_node(&config.memory_ranges()))
        .with_child(clock_node(*clock))
        .with_child(isa_node(*machine_type, serial_id))
        .with_child(soc_node(*machine_type, *hpet, *virtio_interface, virtio))
}

fn cpus_node(cpus: &CpuConfig) -> Node {
    let CpuConfig { model, count, tsc_khz, promise_tsc, promise_cpuid, host_cpuid } = cpus;
    let mut node = Node::new("cpus")
        .with_cells("#address-cells", &[1])
        .with_cells("#size-cells", &[0])
        .with_u64("timebase-frequency", tsc_khz * 1000)
        .with_strings("ferry,model", &[model]);
    if let Some(digest) = host_cpuid {
        node = node.with_strings("ferry,host-cpuid", &[&hex::format(digest)]);
    }
    if *promise_cpuid {
        node = node.with_flag("ferry,promise-cpuid");
    }
    if *promise_tsc {
        node = node.with_flag("ferry,promise-tsc");
    }
    for index in 0..*count {
        node = node.with_child(
            Node::new(format!("cpu@{index:x}"))
                .with_strings("device_type", &["cpu"])
                .with_strings("compatible", &["ferry,x86-64"])
                .with_cells("reg", &[index]),
        );
    }
    node
}

fn memory_node(ranges: &[Range<u64>]) -> Node {
    let ranges: Vec<u32> = ranges
        .iter()
        .flat_map(|range| wide(&Region { base: range.start, length: range.end - range.start }))
        .collect();
    Node::new(MEMORY_NODE).with_strings("device_type", &["memory"]).with_cells("reg", &ranges)
}

fn clock_node(clock: ClockMode) -> Node {
    let node = Node::new("clock");
    match clock {
        ClockMode::Host => node.with_strings("compatible", &[CLOCK_HOST]),
        ClockMode::Icount { shift } => node
            .with_strings("compatible", &[CLOCK_ICOUNT])
            .with_cells("ferry,shift", &[u32::from(shift)]),
    }
}

fn isa_node(machine_type: MachineType, serial_id: &str) -> Node {
    let mut node =
        Node::new("isa")
            .with_strings("device_type", &["isa"])
            .with_cells("#address-cells", &[2])
            .with_cells("#size-cells", &[1])
            .with_child(
                port_device(
                    "interrupt-controller",
                    &["intel,i8259"],
                    &[board::PIC_MASTER, board::PIC_SLAVE, board::PIC_ELCR],
                )
                .with_flag("interrupt-controller")
                .with_cells("#address-cells", &[0])
                .with_cells("#interrupt-cells", &[2])
                .with_cells("phandle", &[PIC_HANDLE]),
            )
            .with_child(
                port_device("timer", &["intel,i8254"], &[board::PIT, board::PIT_CONTROL])
                    .with_cells("clock-frequency", &[board::PIT_HZ])
                    .with_cells(
                        "interrupts-extended",
                        &legacy_interrupt(board::PIT_IRQ, board::PIT_IOAPIC_PIN),
                    ),
            )
            .with_child(port_device("rtc", &["motorola,mc146818"], &[board::RTC]).with_cells(
                "interrupts-extended",
                &legacy_interrupt(board::RTC_IRQ, board::RTC_IRQ),
            ));
    if machine_type.has_exit_port() {
        node = node.with_child(port_device("exit", &["ferry,exit"], &[board::EXIT]));
    }
    node.with_child(
        port_device("serial", &["ns16550a"], &[board::SERIAL])
            .with_cells("clock-frequency", &[board::SERIAL_HZ])
            .with_cells(
                "interrupts-extended",
                &legacy_interrupt(board::SERIAL_IRQ, board::SERIAL_IRQ),
            )
            .with_strings("ferry,id", &[serial_id]),
    )
    .with_child(port_device("fw-cfg", &["ferry,fw-cfg"], &[board::FW_CFG]))
}

fn soc_node(
    machine_type: MachineType,
    hpet: bool,
    virtio_interface: VirtioInterface,
    virtio: &[VirtioDevice],
) -> Node {
    let mut node = Node::new("soc")
        .with_strings("compatible", &["simple-bus"])
        .with_cells("#address-cells", &[2])
        .with_cells("#size-cells", &[2])
        .with_flag("ranges");
    // Said where there is a choice.
    if machine_type.has_legacy_virtio() {
        node = node.with_strings(VIRTIO_INTERFACE, &[virtio_interface.name()]);
    }
    node = node.with_child(
        memory_device("power", &["ferry,acpi-ged"], &[board::GED_EVENTS, board::GED_REGISTERS])
            .with_cells("interrupts-extended", &legacy_interrupt(board::GED_IRQ, board::GED_IRQ)),
    );
    // Devices are plugged from the top slot downwards; the tree has them by address.
    for device in virtio.iter().rev() {
        node = node.with_child(virtio_node(device));
    }
    node = node
        .with_child(ioapic(board::IOAPIC_0, IOAPIC_0_HANDLE))
        .with_child(ioapic(board::IOAPIC_1, IOAPIC_1_HANDLE));
    if hpet {
        node = node.with_child(
            memory_device("hpet", &["intel,ce4100-hpet"], &[board::HPET])
                .with_cells("clock-frequency", &[board::HPET_HZ])
                .with_cells("ferry,timers", &[board::HPET_TIMERS]),
        );
    }
    node.with_child(
        memory_device("lapic", &["intel,ce4100-lapic"], &[board::LAPIC])
            .with_cells("clock-frequency", &[board::LAPIC_HZ]),
    )
}

fn ioapic(region: Region, handle: u32) -> Node {
    memory_device("interrupt-controller", &["intel,ce4100-ioapic"], &[region])
        .with_flag("interrupt-controller")
        .with_cells("#address-cells", &[0])
        .with_cells("#interrupt-cells", &[2])
        .with_cells("phandle", &[handle])
        .with_cells("ferry,pins", &[board::IOAPIC_PINS])
}

/// The name of the node of virtio-mmio slot `slot`.
pub(super) fn virtio_node_name(slot: u8) -> String {
    format!("{VIRTIO_NODE_PREFIX}{:x}", board::virtio_region(slot).base)
}

fn virtio_node(device: &VirtioDevice) -> Node {
    let VirtioDevice { slot, kind } = device;
    let compatible = match kind {
        VirtioKind::Block { .. } => BLOCK,
        VirtioKind::Rng { .. } => RNG,
        VirtioKind::Console { .. } => CONSOLE,
        VirtioKind::Net { .. } => NET,
    };
    let pin = board::virtio_gsi(*slot) - board::IOAPIC_1_GSI;
    let region = board::virtio_region(*slot);
    let node = memory_device("virtio", &[compatible, VIRTIO_MMIO], &[region])
        .with_cells("interrupt-parent", &[IOAPIC_1_HANDLE])
        .with_cells("interrupts", &[pin, IOAPIC_LEVEL_HIGH])
        .with_strings("ferry,id", &[kind.id()]);
    match kind {
        VirtioKind::Block { id: _, serial, sectors, read_only } => {
            let mut node = node.with_u64("ferry,sectors", *sectors);
            if !serial.is_empty() {
                node = node.with_strings("ferry,serial", &[serial]);
            }
            if *read_only {
                node = node.with_flag("ferry,read-only");
            }
            node
        }
        VirtioKind::Rng { id: _, source } => match source {
            RngSource::Host => node,
            RngSource::Seeded { seed } => node.with_u64("ferry,seed", *seed),
        },
        VirtioKind::Console { id: _ } => node,
        // Bytes, as in the binding of all Ethernet devices.
        VirtioKind::Net { id: _, mac } => node.with("local-mac-address", *mac),
    }
}

fn port_device(name: &str, compatible: &[&str], regions: &[Region]) -> Node {
    let reg: Vec<u32> =
        regions.iter().flat_map(|region| [1, region.base as u32, region.length as u32]).collect();
    Node::new(format!("{name}@i{:x}", regions[0].base))
        .with_strings("compatible", compatible)
        .with_cells("reg", &reg)
}

fn memory_device(name: &str, compatible: &[&str], regions: &[Region]) -> Node {
    let reg: Vec<u32> = regions.iter().flat_map(wide).collect();
    Node::new(format!("{name}@{:x}", regions[0].base))
        .with_strings("compatible", compatible)
        .with_cells("reg", &reg)
}

/// Two cells of address, two of length.
fn wide(region: &Region) -> [u32; 4] {
    let Region { base, length } = *region;
    [(base >> 32) as u32, base as u32, (length >> 32) as u32, length as u32]
}

/// A legacy interrupt, at the 8259 pair and at I/O APIC 0.
fn legacy_interrupt(input: u32, pin: u32) -> [u32; 6] {
    [PIC_HANDLE, input, PIC_EDGE_RISING, IOAPIC_0_HANDLE, pin, IOAPIC_EDGE_RISING]
}
