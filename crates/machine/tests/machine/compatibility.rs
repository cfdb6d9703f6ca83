//! Every reason for which a host is refused, in the words that an operator reads.

use std::collections::{BTreeMap, BTreeSet};

use machine::{
    AcceleratorOffer, ClockMode, CpuModelOffer, Difference, DiskOffer, HostOffer, MachineConfig,
    MachineType, NetOffer, TscOffer, VirtioInterface, check,
};

use crate::common;

/// A host that has exactly what the full machine needs.
fn host() -> HostOffer {
    let disk = |writable| DiskOffer { path: "/images/x".into(), sectors: 32768, writable };
    HostOffer {
        machine_types: MachineType::ALL.to_vec(),
        accelerator: AcceleratorOffer {
            cpu_models: vec![CpuModelOffer { name: "qemu64".into(), lacks: Vec::new() }],
            max_cpus: 12,
            host_cpuid: None,
            tsc: TscOffer::Fixed(2_500_000),
            icount: true,
        },
        memory_available_bytes: 5 << 30,
        disks: BTreeMap::from([("disk0".into(), disk(true)), ("disk1".into(), disk(false))]),
        serial_ports: BTreeSet::from(["com1".into()]),
        consoles: BTreeSet::from(["con0".into(), "con1".into()]),
        nets: BTreeMap::from([("net0".into(), NetOffer::Null)]),
    }
}

fn differences(change: impl FnOnce(&mut MachineConfig, &mut HostOffer)) -> Vec<String> {
    let (mut config, mut host) = (common::full(), host());
    change(&mut config, &mut host);
    check(&config, &host).iter().map(Difference::to_string).collect()
}

#[test]
fn a_host_that_has_everything_is_good() {
    assert_eq!(check(&common::full(), &host()), []);
}

#[test]
fn each_lack_has_its_sentence() {
    type Change = fn(&mut MachineConfig, &mut HostOffer);
    let cases: [(Change, &str); 25] = [
        (
            |_, host| host.machine_types.clear(),
            "machine type \"ferry-1\" is unknown here; known: none",
        ),
        (
            |config, _| config.cpus.model = "foo".into(),
            "cpu model \"foo\" is unknown here; known: qemu64",
        ),
        (
            |_, host| host.accelerator.cpu_models.clear(),
            "cpu model \"qemu64\" is unknown here; known: none",
        ),
        (
            |_, host| host.accelerator.cpu_models[0].lacks = vec!["feature cx16 is missing".into()],
            "cpu model qemu64: feature cx16 is missing",
        ),
        (
            |config, _| {
                (config.cpus.model, config.cpus.host_cpuid) = ("host".into(), Some([1; 32]))
            },
            "cpu model host: this accelerator has no such model",
        ),
        (
            |config, host| {
                (config.cpus.model, config.cpus.host_cpuid) = ("host".into(), Some([1; 32]));
                host.accelerator.host_cpuid = Some([2; 32]);
            },
            "cpu model host: the machine has the processor of the host where it started, and this \
             one has another",
        ),
        (
            |_, host| host.accelerator.tsc = TscOffer::HostCounter,
            "tsc: the machine promises its time-stamp counter, this accelerator cannot set it",
        ),
        (
            |_, host| host.accelerator.max_cpus = 11,
            "cpus: the machine has 12, this host runs at most 11",
        ),
        (
            |_, host| host.accelerator.tsc = TscOffer::Fixed(1),
            "tsc: the machine promises 2500000 kHz, this accelerator has 1 kHz and cannot scale it",
        ),
        (
            |_, host| host.accelerator.icount = false,
            "clock: the machine counts instructions, this accelerator cannot",
        ),
        (
            |_, host| host.memory_available_bytes = 1 << 30,
            "memory: the machine needs 5.0 GiB, this host offers 1.0 GiB",
        ),
        (
            |_, host| host.memory_available_bytes -= 1,
            "memory: the machine needs 5.0 GiB, this host offers 4.9 GiB",
        ),
        (
            |config, _| config.memory_bytes += 4096,
            "memory: the machine needs 5368713216 bytes, this host offers 5368709120 bytes",
        ),
        (
            |_, host| drop(host.disks.remove("disk0")),
            "disk0: this host configuration names no file for it",
        ),
        (
            |_, host| host.disks.get_mut("disk0").unwrap().sectors = 100,
            "disk0: the machine promises 32768 sectors, the file /images/x holds 100",
        ),
        (
            |_, host| host.disks.get_mut("disk1").unwrap().sectors = 32769,
            "disk1: the machine promises 32768 sectors, the file /images/x holds 32769",
        ),
        (
            |_, host| host.disks.get_mut("disk0").unwrap().writable = false,
            "disk0: the machine writes it, and the file /images/x cannot be written",
        ),
        (
            |_, host| host.serial_ports.clear(),
            "com1: this host configuration names no back end for the serial port",
        ),
        (
            |_, host| assert!(host.consoles.remove("con1")),
            "con1: this host configuration names no back end for the console",
        ),
        (
            |_, host| assert!(host.consoles.insert("disk0".into())),
            "console.disk0: this host configuration names it, and the machine has none",
        ),
        (
            |_, host| assert!(host.serial_ports.insert("com2".into())),
            "serial.com2: this host configuration names it, and the machine has none",
        ),
        (
            |_, host| assert!(host.nets.remove("net0").is_some()),
            "net0: this host configuration names no back end for the network device",
        ),
        (
            |_, host| assert!(host.nets.insert("net0".into(), NetOffer::Network).is_some()),
            "net0: an icount machine needs the null back end: frames of a network would make no \
             run like another",
        ),
        (
            |_, host| assert!(host.nets.insert("net1".into(), NetOffer::Null).is_none()),
            "net.net1: this host configuration names it, and the machine has none",
        ),
        (|config, _| config.cpus.count = 0, "cpus: 0 is not 1 to 16"),
    ];
    for (change, sentence) in cases {
        assert_eq!(differences(change), [sentence]);
    }
}

#[test]
fn an_unpromised_frequency_may_differ() {
    let unpromised = |config: &mut MachineConfig, host: &mut HostOffer| {
        config.cpus.promise_tsc = false;
        host.accelerator.tsc = TscOffer::Fixed(1);
    };
    assert_eq!(differences(unpromised), [""; 0]);
    assert_eq!(differences(|_, host| host.accelerator.tsc = TscOffer::Any), [""; 0]);
}

#[test]
fn an_unpromised_cpuid_may_differ() {
    let unpromised = |config: &mut MachineConfig, host: &mut HostOffer| {
        config.cpus.promise_cpuid = false;
        host.accelerator.cpu_models[0].lacks = vec!["bit avx2 cannot be masked".into()];
    };
    assert_eq!(differences(unpromised), [""; 0]);
}

#[test]
fn a_machine_with_its_hosts_processor_goes_to_the_like() {
    let same = |config: &mut MachineConfig, host: &mut HostOffer| {
        (config.cpus.model, config.cpus.host_cpuid) = ("host".into(), Some([1; 32]));
        host.accelerator.host_cpuid = Some([1; 32]);
    };
    assert_eq!(differences(same), [""; 0]);
}

#[test]
fn a_machine_on_the_hosts_clock_may_have_a_network() {
    let networked = |config: &mut MachineConfig, host: &mut HostOffer| {
        config.clock = ClockMode::Host;
        host.nets.insert("net0".into(), NetOffer::Network);
    };
    assert_eq!(differences(networked), [""; 0]);
}

/// Every host that runs a machine type has both interfaces; what the type does not have is said.
#[test]
fn the_virtio_interface_is_no_matter_of_the_host() {
    let as_microvm = |interface| {
        move |config: &mut MachineConfig, host: &mut HostOffer| {
            *config = common::microvm(interface);
            host.disks.remove("disk1");
            host.disks.get_mut("disk0").unwrap().sectors = 8192;
            (host.consoles, host.nets) = (BTreeSet::new(), BTreeMap::new());
            host.accelerator.tsc = TscOffer::Any;
        }
    };
    for interface in VirtioInterface::ALL {
        assert_eq!(differences(as_microvm(*interface)), [""; 0]);
    }
    assert_eq!(
        differences(|config, _| config.virtio_interface = VirtioInterface::Legacy),
        ["virtio: machine type ferry-1 has the modern interface alone"]
    );
}

#[test]
fn every_reason_is_given_at_once() {
    let sentences = differences(|config, host| {
        config.cpus.model = "foo".into();
        host.memory_available_bytes = 0;
        let disk = host.disks.remove("disk0").unwrap();
        host.disks.insert("disk00".into(), disk);
    });
    assert_eq!(
        sentences,
        [
            "cpu model \"foo\" is unknown here; known: qemu64",
            "memory: the machine needs 5.0 GiB, this host offers 0 bytes",
            "disk0: this host configuration names no file for it",
            "disk.disk00: this host configuration names it, and the machine has none",
        ]
    );
}
