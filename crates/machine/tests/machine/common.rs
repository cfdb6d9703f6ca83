//! Machines that the tests share.

use machine::{
    ClockMode, CpuConfig, MachineConfig, MachineType, RngSource, VirtioDevice, VirtioInterface,
    VirtioKind,
};

/// A machine with one of everything, and memory on both sides of the hole.
pub fn full() -> MachineConfig {
    let mut config = MachineConfig {
        machine_type: MachineType::Ferry1,
        name: "full.machine_1-a".into(),
        uuid: *b"0123456789abcdef",
        cpus: CpuConfig {
            model: "qemu64".into(),
            count: 12,
            tsc_khz: 2_500_000,
            promise_tsc: true,
            promise_cpuid: true,
            host_cpuid: None,
        },
        memory_bytes: 5 << 30,
        clock: ClockMode::Icount { shift: 2 },
        hpet: true,
        serial_id: "com1".into(),
        virtio_interface: VirtioInterface::Modern,
        virtio: Vec::new(),
    };
    let block = |id: &str, serial: &str, read_only| VirtioKind::Block {
        id: id.into(),
        serial: serial.into(),
        sectors: 32768,
        read_only,
    };
    for kind in [
        block("disk0", "a \"quoted\\\" serial", false),
        block("disk1", "", true),
        VirtioKind::Rng { id: "rng0".into(), source: RngSource::Seeded { seed: u64::MAX } },
        VirtioKind::Console { id: "con0".into() },
        VirtioKind::Net { id: "net0".into(), mac: [0x02, 0, 0x5e, 0x10, 0, 0xff] },
    ] {
        config.plug(kind).unwrap();
    }
    config.virtio.push(VirtioDevice { slot: 0, kind: VirtioKind::Console { id: "con1".into() } });
    config
}

/// A machine of QEMU's with one of each device that it can have.
pub fn microvm(interface: VirtioInterface) -> MachineConfig {
    let mut config = MachineConfig::new("microvm", [5; 16], 64 << 20);
    config.machine_type = MachineType::Microvm;
    config.hpet = false;
    config.virtio_interface = interface;
    let (id, serial) = ("disk0".into(), String::new());
    config.plug(VirtioKind::Block { id, serial, sectors: 8192, read_only: false }).unwrap();
    config.plug(VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host }).unwrap();
    config
}

/// The smallest machine.
pub fn small() -> MachineConfig {
    MachineConfig { hpet: false, ..MachineConfig::new("vm", [0; 16], 64 << 10) }
}
