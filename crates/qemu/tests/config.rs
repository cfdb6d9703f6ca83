//! A machine's configuration from what a QEMU says of itself, in answers that were recorded.

mod common;

use common::golden;
use machine::{FreshFacts, MachineConfig, MachineType, VirtioInterface, VirtioKind};
use qemu::config::{Answer, Ask, Given, ImportError, Imported, MonitorError, import};
use serde_json::{Value, json};

const FRESH: [u8; 16] = [7; 16];

/// A QEMU that says what another one said.
struct Recorded(Value);

impl Recorded {
    fn new(name: &str) -> Self {
        Self(serde_json::from_slice(&golden(name)).unwrap())
    }

    /// Has another answer to a command.
    fn query(&mut self, command: &str, answer: Value) {
        self.0["queries"][command] = answer;
    }

    /// Has a property that says something else.
    fn set(&mut self, path: &str, name: &str, value: Value) {
        let property = &mut self.0["objects"][path][name];
        assert!(property.is_array(), "{path} has no {name}");
        property[1] = value;
    }

    /// Has a property more.
    fn add(&mut self, path: &str, name: &str, kind: &str, value: Value) {
        self.0["objects"][path][name] = json!([kind, value]);
    }

    fn remove(&mut self, path: &str, name: &str) {
        self.0["objects"][path].as_object_mut().unwrap().remove(name).unwrap();
    }

    /// The path of the first object of a type on the board.
    fn find(&self, kind: &str) -> String {
        let kind = format!("child<{kind}>");
        ["/machine/unattached", "/machine/peripheral-anon", "/machine/peripheral"]
            .iter()
            .find_map(|place| {
                let children = self.0["objects"][*place].as_object().unwrap();
                let (name, _) = children.iter().find(|(_, property)| property[0] == kind)?;
                Some(format!("{place}/{name}"))
            })
            .unwrap()
    }
}

impl Ask for Recorded {
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Answer, MonitorError> {
        let object = |path: &Value| self.0["objects"].get(path.as_str().unwrap());
        let not_found = || format!("{command} {arguments} was not recorded");
        let property =
            |(name, property): (&String, &Value)| json!({ "name": name, "type": property[0] });
        Ok(match command {
            "qom-list" => object(&arguments["path"])
                .map(|object| object.as_object().unwrap().iter().map(property).collect())
                .ok_or_else(not_found),
            "qom-get" => object(&arguments["path"])
                .and_then(|object| object.get(arguments["property"].as_str().unwrap()))
                .map(|property| property[1].clone())
                .ok_or_else(not_found),
            _ => self.0["queries"].get(command).cloned().ok_or_else(not_found),
        })
    }
}

fn given() -> Given<'static> {
    Given { name: None, uuid: FRESH, tsc_khz: 2_600_000 }
}

fn resolve(imported: &Imported) -> MachineConfig {
    let nothing = |_: &str| None;
    let fresh = FreshFacts { uuid: [0; 16], disk_sectors: &nothing, host_cpuid: None };
    imported.file.resolve(&fresh).unwrap()
}

/// The reasons against the second recorded machine once it is changed.
fn reasons(change: impl FnOnce(&mut Recorded)) -> Vec<String> {
    let mut recorded = Recorded::new("monitor2");
    change(&mut recorded);
    match import(&mut recorded, &given()) {
        Err(ImportError::Refused(reasons)) => {
            reasons.0.iter().map(|reason| reason.to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_is_imported_as_it_is() {
    let imported = import(&mut Recorded::new("monitor2"), &given()).unwrap();
    let config = resolve(&imported);
    assert_eq!(config.machine_type, MachineType::Microvm);
    assert_eq!(config.name, "web");
    assert_eq!(config.uuid[..4], [0, 0x11, 0x22, 0x33]);
    assert_eq!(config.memory_bytes, 128 << 20);
    assert_eq!((config.cpus.model.as_str(), config.cpus.count), ("qemu64", 2));
    assert_eq!(config.cpus.tsc_khz, 2_600_000);
    assert_eq!(config.virtio_interface, VirtioInterface::Modern);
    assert!(!config.hpet);
    let found: Vec<_> = config
        .virtio
        .iter()
        .map(|device| match &device.kind {
            VirtioKind::Block { id, serial, sectors, read_only } => {
                (device.slot, id.as_str(), serial.as_str(), *sectors, *read_only)
            }
            other => (device.slot, other.id(), "", 0, false),
        })
        .collect();
    let expected = [
        (23, "root", "S1", 8192, false),
        (20, "entropy", "", 0, false),
        (3, "disk0", "", 8192, true),
    ];
    assert_eq!(found, expected);
    let notes =
        ["from QEMU 7.2.22", "root is QEMU's /images/disk", "disk0 is QEMU's /images/other"];
    assert_eq!(imported.notes, notes);
}

#[test]
fn what_qemu_was_not_told_is_made_up_and_said() {
    let mut recorded = Recorded::new("monitor1");
    let imported = import(&mut recorded, &given()).unwrap();
    let config = resolve(&imported);
    assert_eq!((config.name.as_str(), config.uuid), ("ferry", FRESH));
    assert_eq!(config.virtio_interface, VirtioInterface::Legacy);
    let devices: Vec<_> = config.virtio.iter().map(|at| (at.slot, at.kind.id())).collect();
    assert_eq!(devices, [(23, "disk0"), (22, "rng0")]);
    assert!(!imported.file.to_toml().unwrap().contains("slot"));
    let notes = imported.notes.join("\n");
    for part in ["no name", "no UUID", "disk0 is QEMU's /images/disk"] {
        assert!(notes.contains(part), "{part} is not in\n{notes}");
    }
    let named = import(&mut recorded, &Given { name: Some("vm"), ..given() }).unwrap();
    assert_eq!(named.file.name.as_deref(), Some("vm"));
}

#[test]
fn a_name_for_a_device_is_one_that_nobody_has() {
    let mut recorded = Recorded::new("monitor2");
    let entropy = recorded.0["objects"]["/machine/peripheral/entropy"].clone();
    recorded.0["objects"]["/machine/peripheral/disk0"] = entropy;
    recorded.remove("/machine/peripheral", "entropy");
    recorded.add("/machine/peripheral", "disk0", "child<virtio-rng-device>", json!("x"));
    let config = resolve(&import(&mut recorded, &given()).unwrap());
    let ids: Vec<_> = config.virtio.iter().map(|device| device.kind.id()).collect();
    assert_eq!(ids, ["root", "disk0", "disk1"]);
}

#[test]
fn every_property_of_the_machine_that_has_to_be_so_is_held_to_it() {
    for (property, value, message) in [
        ("pit", json!("off"), "pit is \"off\", and has to be \"on\" or \"auto\""),
        ("pic", json!("off"), "pic is \"off\""),
        ("rtc", json!("off"), "rtc is \"off\""),
        ("acpi", json!("off"), "acpi is \"off\""),
        ("ioapic2", json!("off"), "ioapic2 is \"off\""),
        ("pcie", json!("on"), "pcie is \"on\""),
        ("isa-serial", json!(false), "isa-serial is false, and has to be true"),
        ("usb", json!(true), "usb is true"),
        ("x-option-roms", json!(true), "x-option-roms is true"),
        ("memory-backend", json!("/objects/other"), "memory-backend is \"/objects/other\""),
        ("memory-encryption", json!("sev0"), "memory-encryption is \"sev0\""),
        ("sgx-epc", json!([{}]), "sgx-epc is [{}], and has to be empty"),
    ] {
        let [reason] = &reasons(|recorded| recorded.set("/machine", property, value))[..] else {
            panic!("{property}")
        };
        assert!(reason.starts_with("machine: ") && reason.contains(message), "{reason}");
    }
    let more = reasons(|recorded| recorded.add("/machine", "cxl", "bool", json!(false)));
    assert_eq!(more, ["machine: its property cxl is not known here"]);
    let less = reasons(|recorded| recorded.remove("/machine", "hmat"));
    assert_eq!(less, ["machine: it has no property hmat, as in QEMU 7.2"]);
}

#[test]
fn another_program_or_machine_is_named() {
    let version = json!({ "qemu": { "major": 8, "minor": 2, "micro": 1 }, "package": "" });
    for (command, answer, message) in [
        ("query-version", version, "release: it is QEMU 8.2.1, and Ferry knows the microvm of 7.2"),
        ("query-target", json!({ "arch": "i386" }), "target: it is i386, and has to be x86_64"),
        ("query-kvm", json!({ "enabled": true, "present": true }), "accelerator: it is KVM"),
        ("query-replay", json!({ "mode": "none", "icount": 5 }), "clock: time is counted in"),
        ("query-replay", json!({ "mode": "record", "icount": 0 }), "clock: time is counted in"),
        (
            "query-memory-size-summary",
            json!({ "base-memory": 128 << 20, "plugged-memory": 4096 }),
            "memory: 4096 bytes of it were plugged",
        ),
        ("query-name", json!({ "name": "my machine" }), "name: \"my machine\" is no name"),
    ] {
        let [reason] = &reasons(|recorded| recorded.query(command, answer))[..] else {
            panic!("{command}")
        };
        assert!(reason.starts_with(message), "{reason}");
    }
    let mut no_tcg = Recorded::new("monitor2");
    no_tcg.0["queries"].as_object_mut().unwrap().remove("x-query-jit");
    let error = import(&mut no_tcg, &given()).unwrap_err().to_string();
    assert!(error.contains("accelerator: it has to be TCG"), "{error}");
    let q35 = reasons(|recorded| recorded.set("/machine", "type", json!("pc-q35-7.2-machine")));
    assert_eq!(q35, ["machine: its type is pc-q35-7.2, and has to be microvm"]);
}

#[test]
fn another_cpu_is_named() {
    let cpu = Recorded::new("monitor2").find("qemu64-x86_64-cpu");
    for (property, value, message) in [
        ("family", json!(6), "family is 6, and 15 in qemu64"),
        ("model", json!(6), "model is 6, and 107 in qemu64"),
        ("stepping", json!(3), "stepping is 3, and 1 in qemu64"),
        ("level", json!(7), "level is 7, and 13 in qemu64"),
        ("phys-bits", json!(48), "phys-bits is 48, and 40 in qemu64"),
        ("vendor", json!("GenuineIntel"), "vendor is \"GenuineIntel\""),
        ("model-id", json!("Big Iron"), "model-id is \"Big Iron\""),
        ("ucode-rev", json!(1), "ucode-rev is 1, and 16777317 in qemu64"),
        ("tcg-cpuid", json!(false), "tcg-cpuid is false, and has to be true"),
        ("node-id", json!(0), "node-id is 0, and has to be -1"),
        ("apic-id", json!(4), "has APIC id 4"),
    ] {
        let [reason] = &reasons(|recorded| recorded.set(&cpu, property, value))[..] else {
            panic!("{property}")
        };
        assert!(reason.starts_with("cpu: ") && reason.contains(message), "{reason}");
    }
    let flipped = |register: &str, leaf: u64, bit: u32| {
        reasons(|recorded| {
            let mut words = recorded.0["objects"][&cpu]["feature-words"][1].clone();
            let word =
                words.as_array_mut().unwrap().iter_mut().find(|word| {
                    word["cpuid-register"] == register && word["cpuid-input-eax"] == leaf
                });
            let features = &mut word.unwrap()["features"];
            *features = json!(features.as_u64().unwrap() ^ 1 << bit);
            recorded.set(&cpu, "feature-words", words);
        })
    };
    let more = flipped("ECX", 1, 25);
    assert_eq!(more, ["cpu: QEMU's has the feature aes, and qemu64 in Ferry has not"]);
    let less = flipped("EDX", 0x8000_0001, 20);
    assert_eq!(less, ["cpu: QEMU's has no feature nx, and qemu64 in Ferry has it"]);
}

#[test]
fn a_model_is_taken_by_what_it_says_and_not_by_its_name() {
    let mut recorded = Recorded::new("monitor2");
    let cpu = recorded.find("qemu64-x86_64-cpu");
    recorded.set(&cpu, "type", json!("EPYC-x86_64-cpu"));
    let imported = import(&mut recorded, &given()).unwrap();
    assert_eq!(imported.file.cpu.model.as_deref(), Some("qemu64"));
    recorded.set(&cpu, "family", json!(23));
    let error = import(&mut recorded, &given()).unwrap_err().to_string();
    assert!(error.contains("cpu: Ferry has no model \"EPYC\"; it has qemu64, Nehalem"), "{error}");
}

#[test]
fn cpus_are_the_cores_of_one_package() {
    let smp = |most: u32, sockets: u32, threads: u32| {
        let smp = json!({
            "cpus": 2, "maxcpus": most, "sockets": sockets, "dies": 1, "clusters": 1,
            "cores": most / sockets / threads, "threads": threads
        });
        reasons(|recorded| recorded.set("/machine", "smp", smp))
    };
    let two = smp(2, 2, 1);
    assert_eq!(two.len(), 1);
    assert!(two[0].starts_with("cpus: sockets is 2, and has to be 1"), "{two:?}");
    assert!(two[0].ends_with("-smp 2"), "{two:?}");
    assert!(smp(2, 1, 2)[0].starts_with("cpus: threads is 2"));
    assert_eq!(smp(4, 1, 1), ["cpus: 2 are there and 4 can be, which has to be the same"]);
}

#[test]
fn every_device_of_the_board_is_held_to_its_table() {
    let recorded = Recorded::new("monitor2");
    for (kind, property, value) in [
        ("isa-pit", "iobase", json!(0x48)),
        ("mc146818rtc", "lost_tick_policy", json!("slew")),
        ("isa-serial", "irq", json!(3)),
        ("ioapic", "version", json!(0x11)),
        ("acpi-ged-x86", "ged-event", json!(3)),
        ("virtio-mmio", "format_transport_address", json!(false)),
    ] {
        let path = recorded.find(kind);
        let [reason] = &reasons(|recorded| recorded.set(&path, property, value.clone()))[..] else {
            panic!("{kind}")
        };
        assert!(reason.starts_with(&format!("{kind}: {property} is {value}, and")), "{reason}");
    }
    let path = recorded.find("isa-pit");
    let name = path.rsplit('/').next().unwrap();
    let less = reasons(|recorded| recorded.remove("/machine/unattached", name));
    assert_eq!(less, ["isa-pit: QEMU has 0 of them, and has to have 1 (by pit=on)"]);
    let more = reasons(|recorded| {
        recorded.add("/machine/unattached", "device[99]", "child<gpex-pcihost>", json!("x"));
    });
    assert_eq!(more, ["gpex-pcihost: Ferry's microvm has no such device"]);
    let (memory, bios) = ("/machine/unattached/ram-below-4g[0]", "/machine/unattached/pc.bios[0]");
    let half = reasons(|recorded| recorded.set(memory, "size", json!(64 << 20)));
    assert_eq!(half.len(), 1);
    assert!(half[0].starts_with("ram-below-4g: 0x4000000 bytes lie at 0x0 in QEMU"), "{half:?}");
    let above = reasons(|recorded| {
        recorded.set("/machine", "memory", json!({ "size": (3u64 << 30) + (1 << 20) }));
        recorded.query("query-memory-size-summary", json!({ "base-memory": 0xc010_0000u64 }));
        recorded.set(memory, "size", json!(3u64 << 30));
        let name = "ram-above-4g[0]";
        recorded.add("/machine/unattached", name, "child<memory-region>", json!("x"));
        recorded.0["objects"][format!("/machine/unattached/{name}")] =
            json!({ "addr": ["uint64", 1u64 << 32], "size": ["uint64", 1 << 21] });
    });
    let expected = "ram-above-4g: 0x200000 bytes lie at 0x100000000 in QEMU, and 0x100000 at \
                    0x100000000 in Ferry";
    assert_eq!(above, [expected]);
    let large = reasons(|recorded| recorded.set(bios, "size", json!(128 << 10)));
    assert!(large[0].starts_with("pc.bios: 0x20000 bytes lie at 0xffff0000"), "{large:?}");
    let slot = recorded.find("virtio-mmio");
    let mixed = reasons(|recorded| recorded.set(&slot, "force-legacy", json!(true)));
    assert_eq!(mixed.len(), 1);
    assert!(mixed[0].starts_with("virtio-mmio: force-legacy differs"), "{mixed:?}");
    let region = format!("{slot}/virtio-mmio[0]");
    let moved = reasons(|recorded| recorded.set(&region, "addr", json!(0xfec0_0000u64)));
    assert!(moved[0].contains("is at 0xfec00000 in QEMU"), "{moved:?}");
}

#[test]
fn every_plugged_device_is_held_to_its_table() {
    let disk = "/machine/peripheral/root";
    for (path, property, value) in [
        (disk, "logical_block_size", json!(4096)),
        (disk, "num-queues", json!(2)),
        (disk, "queue-size", json!(128)),
        (disk, "discard", json!(false)),
        (disk, "write-zeroes", json!(false)),
        (disk, "config-wce", json!(false)),
        (disk, "seg-max-adjust", json!(false)),
        (disk, "packed", json!(true)),
        (disk, "event_idx", json!(false)),
        (disk, "physical_block_size", json!(4096)),
        ("/machine/peripheral/entropy", "indirect_desc", json!(false)),
    ] {
        let [reason] = &reasons(|recorded| recorded.set(path, property, value.clone()))[..] else {
            panic!("{property}")
        };
        let name = path.rsplit('/').next().unwrap();
        assert!(reason.starts_with(&format!("{name}: {property} is {value}, and")), "{reason}");
    }
    let long = reasons(|recorded| recorded.set(disk, "serial", json!("123456789012345678901")));
    assert_eq!(long, ["root: its serial number is longer than 20 bytes"]);
    let odd = reasons(|recorded| recorded.set(disk, "serial", json!("a\tb")));
    assert_eq!(odd, ["root: serial number \"a\\tb\" is not printable ASCII"]);
    let elsewhere = reasons(|recorded| recorded.set(disk, "parent_bus", json!("/machine/pci.0")));
    assert_eq!(elsewhere, ["root: it is in no slot of Ferry's: /machine/pci.0"]);
    let net = reasons(|recorded| {
        recorded.add("/machine/peripheral", "net0", "child<virtio-net-device>", json!("x"));
    });
    assert_eq!(net.len(), 1);
    assert!(net[0].starts_with("net0: Ferry's microvm has no virtio-net-device"), "{net:?}");
}

#[test]
fn what_is_behind_a_disk_has_to_be_a_raw_file() {
    let medium = |change: fn(&mut Value)| {
        reasons(|recorded| {
            let drives = recorded.0["queries"]["query-block"].as_array_mut().unwrap();
            let drive = drives.iter_mut().find(|drive| drive["qdev"] == "root").unwrap();
            change(drive);
        })
    };
    let format = medium(|drive| drive["inserted"]["drv"] = json!("qcow2"));
    assert_eq!(format, ["root: its image is of format qcow2, and Ferry's disks are raw"]);
    for name in ["nbd://host/disk", "json:{}", "null-co://"] {
        let found = reasons(|recorded| {
            let drives = recorded.0["queries"]["query-block"].as_array_mut().unwrap();
            let drive = drives.iter_mut().find(|drive| drive["qdev"] == "root").unwrap();
            drive["inserted"]["image"]["filename"] = json!(name);
        });
        assert_eq!(found, [format!("root: Ferry's disks are files, and {name} is none")]);
    }
    let size = medium(|drive| drive["inserted"]["image"]["virtual-size"] = json!(1000));
    assert_eq!(size, ["root: 1000 bytes are no disk of whole sectors"]);
    let empty = medium(|drive| {
        drive.as_object_mut().unwrap().remove("inserted").unwrap();
    });
    assert_eq!(empty[0], "root: QEMU has no image in it");
}

#[test]
fn all_reasons_are_given_at_once() {
    let found = reasons(|recorded| {
        recorded.set("/machine", "usb", json!(true));
        recorded.set("/machine/peripheral/root", "num-queues", json!(4));
        recorded.query("query-name", json!({ "name": "a b" }));
    });
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn an_answer_of_another_form_is_an_error_and_no_machine() {
    let commands = [
        "query-version",
        "query-target",
        "query-kvm",
        "query-replay",
        "query-memory-size-summary",
        "query-cpus-fast",
        "query-block",
        "query-uuid",
    ];
    for command in commands {
        for answer in [json!(null), json!(7), json!("x"), json!([7]), json!([{}]), json!([[]])] {
            let mut recorded = Recorded::new("monitor2");
            recorded.query(command, answer);
            assert!(import(&mut recorded, &given()).is_err(), "{command}");
        }
    }
    for property in ["type", "memory", "smp"] {
        let mut recorded = Recorded::new("monitor2");
        recorded.set("/machine", property, json!([1]));
        assert!(import(&mut recorded, &given()).is_err(), "{property}");
    }
}
