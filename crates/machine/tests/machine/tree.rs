//! Machines as device trees: there and back, and every way in which a tree is refused.

use std::collections::BTreeSet;

use machine::fdt::{self, Node};
use machine::{
    ClockMode, ConfigError, CpuConfig, MachineConfig, MachineError, MachineType, RngSource,
    VirtioDevice, VirtioInterface, VirtioKind,
};
use proptest::prelude::*;

use crate::common;

/// What is said about the full machine's tree after a change.
fn refusal(change: impl FnOnce(&mut Node)) -> String {
    match read_changed(change) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

fn read_changed(change: impl FnOnce(&mut Node)) -> Result<MachineConfig, MachineError> {
    let mut tree = fdt::parse(&common::full().to_fdt().unwrap()).unwrap();
    change(&mut tree);
    MachineConfig::from_fdt(&fdt::write(&tree).unwrap())
}

fn at<'a>(root: &'a mut Node, path: &str) -> &'a mut Node {
    path.split('/')
        .filter(|name| !name.is_empty())
        .fold(root, |node, name| node.children.iter_mut().find(|child| child.name == name).unwrap())
}

fn set(node: &mut Node, name: &str, value: &[u8]) {
    match node.properties.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_vec(),
        None => node.properties.push((name.to_owned(), value.to_vec())),
    }
}

#[test]
fn a_machine_comes_back() {
    for config in machines() {
        let blob = config.to_fdt().unwrap();
        assert_eq!(MachineConfig::from_fdt(&blob), Ok(config));
    }
}

fn machines() -> [MachineConfig; 4] {
    let [legacy, modern] = [VirtioInterface::Legacy, VirtioInterface::Modern].map(common::microvm);
    [common::small(), common::full(), legacy, modern]
}

/// The shape of a `microvm`, of which QEMU has but one version.
#[test]
fn the_tree_of_a_microvm_never_changes() {
    let source = |interface| fdt::to_source(&common::microvm(interface).to_fdt().unwrap()).unwrap();
    let golden = include_str!("../golden/microvm.dts");
    assert_eq!(source(VirtioInterface::Legacy), golden);
    let line = "ferry,virtio-interface = ";
    let modern = golden.replace(&format!("{line}\"legacy\""), &format!("{line}\"modern\""));
    assert_eq!(source(VirtioInterface::Modern), modern);
}

#[test]
fn the_virtio_interface_of_a_microvm_is_read_strictly() {
    const NAME: &str = "ferry,virtio-interface";
    let read = |change: &dyn Fn(&mut Node)| {
        let blob = common::microvm(VirtioInterface::Legacy).to_fdt().unwrap();
        let mut tree = fdt::parse(&blob).unwrap();
        change(at(&mut tree, "/soc"));
        MachineConfig::from_fdt(&fdt::write(&tree).unwrap())
    };
    let modern = read(&|soc| set(soc, NAME, b"modern\0"));
    assert_eq!(modern, Ok(common::microvm(VirtioInterface::Modern)));
    for (value, message) in [
        (&b"transitional\0"[..], "is not \"legacy\" or \"modern\""),
        (b"Legacy\0", "is not \"legacy\" or \"modern\""),
        (b"\0", "is not \"legacy\" or \"modern\""),
        (b"legacy", "is not a string"),
        (b"", "is not a string"),
        (b"legacy\0modern\0", "is not one string"),
    ] {
        let error = read(&|soc| set(soc, NAME, value)).unwrap_err().to_string();
        assert_eq!(error, format!("/soc: property {NAME:?} {message}"));
    }
    let error = read(&|soc| soc.properties.retain(|(name, _)| name != NAME)).unwrap_err();
    assert_eq!(error.to_string(), format!("/soc: property {NAME:?} is missing"));
    let error = read(&|soc| soc.properties.rotate_right(1)).unwrap_err();
    assert!(error.to_string().starts_with("/soc: \"ferry,virtio-interface\" stands"), "{error}");
    // A ferry-1 does not say what it cannot choose.
    assert_eq!(
        refusal(|tree| set(at(tree, "/soc"), NAME, b"modern\0")),
        format!("/soc: unknown property {NAME:?}")
    );
}

/// The released shape of `ferry-1`. A change here breaks every saved machine: make a new type.
#[test]
fn the_tree_of_ferry_1_never_changes() {
    let source = fdt::to_source(&common::full().to_fdt().unwrap()).unwrap();
    assert_eq!(source, include_str!("../golden/ferry-1.dts"));
}

#[test]
fn an_impossible_machine_has_no_tree() {
    let mut config = common::small();
    config.memory_bytes = 1;
    let error = config.to_fdt().unwrap_err();
    assert!(matches!(error, MachineError::Config(ConfigError { .. })));
    assert_eq!(error.to_string(), "memory: 1 bytes is not a multiple of 4096");
}

#[test]
fn an_unknown_machine_type_is_named_whatever_else_the_tree_has() {
    let message = "machine type \"ferry-9\" is unknown here; known: ferry-1, microvm";
    assert_eq!(refusal(|tree| set(tree, "compatible", b"ferry,ferry-9\0")), message);
    let foreign = Node::new("").with_strings("compatible", &["ferry,ferry-9"]).with_flag("new");
    let error = MachineConfig::from_fdt(&fdt::write(&foreign).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(
        refusal(|tree| set(tree, "compatible", b"qemu,microvm\0")),
        "machine type \"qemu,microvm\" is unknown here; known: ferry-1, microvm"
    );
}

#[test]
fn an_unknown_device_is_named() {
    assert_eq!(
        refusal(|tree| {
            set(at(tree, "/soc/virtio@feb02e00"), "compatible", b"ferry,foo\0virtio,mmio\0");
        }),
        "/soc/virtio@feb02e00: unknown device \"ferry,foo\""
    );
    assert_eq!(
        refusal(|tree| {
            at(tree, "/soc")
                .children
                .push(Node::new("tpm@fed40000").with_strings("compatible", &["tcg,tpm-tis-mmio"]));
        }),
        "/soc/tpm@fed40000: unknown device \"tcg,tpm-tis-mmio\""
    );
    assert_eq!(
        refusal(|tree| set(at(tree, "/clock"), "compatible", b"ferry,clock-lunar\0")),
        "/clock: unknown device \"ferry,clock-lunar\""
    );
}

#[test]
fn an_unknown_node_is_named() {
    for (parent, name, path) in
        [("/", "aliases", "/aliases"), ("/isa", "x", "/isa/x"), ("/cpus", "cpu@c", "/cpus/cpu@c")]
    {
        // A thirteenth CPU is a machine of thirteen CPUs, if it looks like one.
        let message = refusal(|tree| at(tree, parent).children.push(Node::new(name)));
        if path == "/cpus/cpu@c" {
            assert_eq!(message, "/cpus/cpu@c: property \"device_type\" is missing");
        } else {
            assert_eq!(message, format!("{path}: machine type ferry-1 has no such node"));
        }
    }
    // A device that is known, at an address that is not its own.
    assert_eq!(
        refusal(|tree| at(tree, "/soc/hpet@fed00000").name = "hpet@fed10000".into()),
        "/soc/hpet@fed10000: machine type ferry-1 has no such node"
    );
    assert_eq!(
        refusal(|tree| at(tree, "/soc/virtio@feb02e00").name = "virtio@feb03000".into()),
        "/soc/virtio@feb03000: machine type ferry-1 has no such node"
    );
}

#[test]
fn every_node_but_the_optional_ones_is_missed() {
    let full = fdt::parse(&common::full().to_fdt().unwrap()).unwrap();
    let mut removed = 0;
    for parent in ["/", "/cpus", "/isa", "/soc"] {
        let count = at(&mut full.clone(), parent).children.len();
        for index in 0..count {
            let mut name = String::new();
            let result = read_changed(|tree| {
                name = at(tree, parent).children.remove(index).name;
            });
            let path = format!("{}/{name}", parent.trim_end_matches('/'));
            match result {
                // Without these it is another machine.
                Ok(other) => {
                    assert!(
                        name.starts_with("virtio@") || name.starts_with("hpet@") || name == "cpu@b",
                        "{path} was not missed"
                    );
                    assert_ne!(other, common::full());
                }
                Err(MachineError::MissingNode { path: missed }) => assert_eq!(missed, path),
                Err(error) => {
                    // Eleven CPUs, but not numbered from 0 to 10.
                    assert_eq!(parent, "/cpus", "{path}: {error}");
                    assert_eq!(
                        error.to_string(),
                        "/cpus/cpu@b: machine type ferry-1 has no such node"
                    );
                }
            }
            removed += 1;
        }
    }
    assert_eq!(removed, 5 + 12 + 6 + 11);
}

/// Calls `each` with the path of every node.
fn every_node(node: &Node, path: &str, each: &mut dyn FnMut(&str, &Node)) {
    each(if path.is_empty() { "/" } else { path }, node);
    for child in &node.children {
        every_node(child, &format!("{path}/{}", child.name), each);
    }
}

#[test]
fn an_unknown_property_is_named_at_every_node() {
    let full = fdt::parse(&common::full().to_fdt().unwrap()).unwrap();
    every_node(&full, "", &mut |path, _| {
        assert_eq!(
            refusal(|tree| set(at(tree, path), "foo", b"")),
            format!("{path}: unknown property \"foo\"")
        );
    });
}

#[test]
fn every_property_is_needed_or_makes_another_machine() {
    let full = fdt::parse(&common::full().to_fdt().unwrap()).unwrap();
    let mut optional = BTreeSet::new();
    every_node(&full, "", &mut |path, node| {
        for (name, _) in &node.properties {
            match read_changed(|tree| at(tree, path).properties.retain(|(known, _)| known != name))
            {
                Ok(other) => {
                    assert_ne!(other, common::full());
                    optional.insert(name.clone());
                }
                // An entropy source without a seed is the host's: not with counted instructions.
                Err(error) if name == "ferry,seed" => {
                    assert!(error.to_string().starts_with("rng0: an icount machine"), "{error}");
                }
                Err(error) => {
                    assert_eq!(error.to_string(), format!("{path}: property {name:?} is missing"))
                }
            }
        }
    });
    assert!(optional.remove("ferry,promise-tsc"));
    assert!(optional.remove("ferry,promise-cpuid"));
    assert!(optional.remove("ferry,serial"));
    assert!(optional.remove("ferry,read-only"));
    assert_eq!(optional, BTreeSet::new());
}

#[test]
fn every_property_with_another_value_is_refused_or_makes_another_machine() {
    let full = fdt::parse(&common::full().to_fdt().unwrap()).unwrap();
    every_node(&full, "", &mut |path, node| {
        for (name, value) in &node.properties {
            let longer = [value.as_slice(), &[0, 0, 0, 1]].concat();
            let error = refusal(|tree| set(at(tree, path), name, &longer));
            assert!(error.starts_with(&format!("{path}: property {name:?}")), "{path}: {error}");
            for index in 0..value.len() {
                let mut other = value.clone();
                other[index] ^= 1;
                if let Ok(config) = read_changed(|tree| set(at(tree, path), name, &other)) {
                    assert_ne!(config, common::full(), "{path} {name} byte {index}");
                }
            }
        }
    });
}

#[test]
fn a_wrong_address_or_interrupt_is_named() {
    let wrong = |name: &'static str, value: &'static [u8]| {
        refusal(move |tree| set(at(tree, "/soc/virtio@feb02e00"), name, value))
    };
    assert_eq!(
        wrong("interrupts", &[0, 0, 0, 22, 0, 0, 0, 2]),
        "/soc/virtio@feb02e00: property \"interrupts\" is <0x16 0x2>, but in a ferry-1 machine it \
         is <0x17 0x2>"
    );
    assert_eq!(
        wrong("reg", &[0, 0, 0, 0, 0xfe, 0xb0, 0x2c, 0, 0, 0, 0, 0, 0, 0, 2, 0]),
        "/soc/virtio@feb02e00: property \"reg\" is <0x0 0xfeb02c00 0x0 0x200>, but in a ferry-1 \
         machine it is <0x0 0xfeb02e00 0x0 0x200>"
    );
    // Memory across the hole for devices.
    let error = refusal(|tree| {
        let mut reg = vec![0; 8];
        reg.extend((5_u64 << 30).to_be_bytes());
        set(at(tree, "/memory@0"), "reg", &reg);
    });
    assert!(
        error.starts_with("/memory@0: property \"reg\" is <0x0 0x0 0x1 0x40000000>"),
        "{error}"
    );
    let error = refusal(|tree| set(at(tree, "/memory@0"), "reg", &[0xff; 32]));
    assert!(error.starts_with("/memory@0: property \"reg\" is not one or two ranges"), "{error}");
}

#[test]
fn another_order_is_refused() {
    assert_eq!(
        refusal(|tree| at(tree, "/isa").children.swap(0, 1)),
        "/isa: \"timer@i40\" stands where \"interrupt-controller@i20\" belongs"
    );
    assert_eq!(
        refusal(|tree| at(tree, "/soc").children.swap(1, 2)),
        "/soc: \"virtio@feb02600\" stands where \"virtio@feb00000\" belongs"
    );
    assert_eq!(
        refusal(|tree| at(tree, "/soc/lapic@fee00000").properties.swap(0, 1)),
        "/soc/lapic@fee00000: \"reg\" stands where \"compatible\" belongs"
    );
}

#[test]
fn values_that_cannot_be_are_named() {
    for (path, name, value, message) in [
        ("/", "ferry,uuid", &b"x\0"[..], "/: property \"ferry,uuid\" is not a UUID"),
        (
            "/",
            "ferry,uuid",
            b"30313233-3435-3637-3839-61626364656F\0",
            "/: property \"ferry,uuid\" is \"30313233-3435-3637-3839-61626364656F\", but in a \
             ferry-1 machine it is \"30313233-3435-3637-3839-61626364656f\"",
        ),
        ("/", "ferry,name", b"a b\0", "name: \"a b\" is not a name"),
        ("/", "ferry,name", b"a", "/: property \"ferry,name\" is not a string"),
        ("/", "ferry,name", b"a\0b\0", "/: property \"ferry,name\" is not one string"),
        ("/", "ferry,name", b"\xff\0", "/: property \"ferry,name\" is not a string"),
        ("/cpus", "timebase-frequency", &[0; 8], "tsc frequency: 0 kHz is not"),
        (
            "/cpus",
            "timebase-frequency",
            &[0, 0, 0, 0, 0, 0, 0, 1],
            "/cpus: property \"timebase-frequency\" is not a whole number of kHz",
        ),
        (
            "/cpus",
            "timebase-frequency",
            &[0; 4],
            "/cpus: property \"timebase-frequency\" is not a 64-bit number",
        ),
        ("/cpus", "ferry,promise-tsc", &[1], "/cpus: property \"ferry,promise-tsc\" is not empty"),
        ("/clock", "ferry,shift", &[0, 0, 1, 0], "/clock: property \"ferry,shift\" is not 0 to 10"),
        ("/clock", "ferry,shift", &[0, 0, 0, 11], "clock: icount shift 11 is not 0 to 10"),
        ("/soc/virtio@feb02e00", "ferry,sectors", &[0; 8], "disk0: a disk has at least one sector"),
        ("/soc/virtio@feb02e00", "ferry,id", b"com1\0", "com1: two devices have this id"),
        (
            "/soc/virtio@feb02e00",
            "ferry,serial",
            b"\0",
            "/soc/virtio@feb02e00: unknown property \"ferry,serial\"",
        ),
    ] {
        let error = refusal(|tree| set(at(tree, path), name, value));
        assert!(error.starts_with(message), "{path} {name}: {error}");
    }
    let error = refusal(|tree| {
        let cpus = at(tree, "/cpus");
        cpus.children.extend((0..50_000).map(|index| Node::new(format!("x{index}"))));
    });
    assert_eq!(error, "cpus: 50012 is not 1 to 16");
}

#[test]
fn every_cut_is_an_error() {
    let blob = common::full().to_fdt().unwrap();
    for end in 0..blob.len() {
        assert!(MachineConfig::from_fdt(&blob[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn every_flipped_bit_is_an_error_or_another_machine() {
    for config in machines() {
        let blob = config.to_fdt().unwrap();
        for index in 0..blob.len() {
            for bit in 0..8 {
                let mut flipped = blob.clone();
                flipped[index] ^= 1 << bit;
                if let Ok(other) = MachineConfig::from_fdt(&flipped) {
                    assert_ne!(other, config, "byte {index} bit {bit}");
                    assert_eq!(other.to_fdt(), Ok(flipped), "byte {index} bit {bit}");
                }
            }
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,64}"
}

fn any_kind() -> impl Strategy<Value = VirtioKind> {
    let block = ("[ -~]{0,20}", 1..=i64::MAX as u64 / 512, any::<bool>()).prop_map(
        |(serial, sectors, read_only)| VirtioKind::Block {
            id: String::new(),
            serial,
            sectors,
            read_only,
        },
    );
    let source = prop_oneof![
        Just(RngSource::Host),
        any::<u64>().prop_map(|seed| RngSource::Seeded { seed })
    ];
    let rng = source.prop_map(|source| VirtioKind::Rng { id: String::new(), source });
    let net = any::<[u8; 6]>().prop_map(|mac| VirtioKind::Net { id: String::new(), mac });
    prop_oneof![block, rng, net, Just(VirtioKind::Console { id: String::new() })]
}

/// Slots and names are drawn as sets, so that every machine is valid.
fn any_machine() -> impl Strategy<Value = MachineConfig> {
    let devices = prop::collection::btree_map(0_u8..24, any_kind(), 0..24);
    let names = prop::collection::btree_set(name(), 26);
    let clock = prop_oneof![
        Just(ClockMode::Host),
        (0_u8..=10).prop_map(|shift| ClockMode::Icount { shift })
    ];
    let cpus = (name(), 1_u32..=16, 1_000_u64..=10_000_000, any::<bool>(), any::<bool>());
    let pages = prop_oneof![16_u64..=(16 << 20), (0xe_0000_u64 - 2)..(0xe_0000 + 3)];
    (any::<[u8; 16]>(), cpus, pages, clock, any::<bool>(), devices, names).prop_map(
        |(
            uuid,
            (model, count, tsc_khz, promise_tsc, promise_cpuid),
            pages,
            clock,
            hpet,
            devices,
            names,
        )| {
            let mut names = names.into_iter();
            let mut next = || names.next().unwrap();
            let icount = matches!(clock, ClockMode::Icount { .. });
            MachineConfig {
                machine_type: MachineType::Ferry1,
                name: next(),
                uuid,
                cpus: CpuConfig {
                    model,
                    count,
                    tsc_khz,
                    promise_tsc,
                    promise_cpuid,
                    host_cpuid: None,
                },
                memory_bytes: pages * 4096,
                clock,
                hpet,
                serial_id: next(),
                virtio_interface: VirtioInterface::Modern,
                virtio: devices
                    .into_iter()
                    .rev()
                    .map(|(slot, mut kind)| {
                        match &mut kind {
                            VirtioKind::Block { id, .. } | VirtioKind::Console { id } => {
                                *id = next()
                            }
                            VirtioKind::Net { id, mac } => {
                                *id = next();
                                // A station's, and no two the same.
                                (mac[0], mac[1]) = (mac[0] & 0xfe, slot + 1);
                            }
                            VirtioKind::Rng { id, source } => {
                                *id = next();
                                if icount && *source == RngSource::Host {
                                    *source = RngSource::Seeded { seed: 1 };
                                }
                            }
                        }
                        VirtioDevice { slot, kind }
                    })
                    .collect(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_machine_comes_back(config in any_machine()) {
        prop_assert_eq!(config.validate(), Ok(()));
        let blob = config.to_fdt().unwrap();
        let back = MachineConfig::from_fdt(&blob).unwrap();
        prop_assert_eq!(back.to_fdt().unwrap(), blob);
        prop_assert_eq!(back, config);
    }

    #[test]
    fn different_machines_have_different_trees(a in any_machine(), b in any_machine()) {
        prop_assert_eq!(a == b, a.to_fdt() == b.to_fdt());
    }

    #[test]
    fn any_damage_is_an_error_or_another_machine(
        config in any_machine(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let blob = config.to_fdt().unwrap();
        let mut damaged = blob.clone();
        for (index, byte) in damage {
            let index = index.index(damaged.len());
            damaged[index] = byte;
        }
        if let Ok(other) = MachineConfig::from_fdt(&damaged) {
            prop_assert_eq!(other == config, damaged == blob);
            prop_assert_eq!(other.to_fdt(), Ok(damaged));
        }
    }
}
