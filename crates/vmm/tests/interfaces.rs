//! Machines with either interface of their virtio slots: each keeps its own through a stream, and
//! takes no state of the other.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{restored, saved};
use machine::{
    DiskBackend, HostConfig, MachineConfig, MachineType, RngSource, VirtioInterface, VirtioKind,
};
use vmm::Machine;
use vmstate::SavedSection;

const SECTORS: u64 = 128;

fn disk(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ferry-interfaces-{}-{name}", std::process::id()));
    fs::write(&path, vec![0; SECTORS as usize * 512]).expect("a disk");
    path
}

fn microvm(interface: VirtioInterface, disk: &Path) -> (MachineConfig, HostConfig) {
    let mut config = MachineConfig::new("test", [7; 16], 2 << 20);
    config.machine_type = MachineType::Microvm;
    config.hpet = false;
    config.virtio_interface = interface;
    let (id, serial) = ("disk0".to_owned(), String::new());
    let kind = VirtioKind::Block { id, serial, sectors: SECTORS, read_only: false };
    config.plug(kind).expect("a slot");
    let kind = VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host };
    config.plug(kind).expect("a slot");
    let mut host = HostConfig::default();
    host.disk.insert("disk0".into(), DiskBackend { path: disk.to_owned() });
    (config, host)
}

/// What was saved of the virtio devices.
fn slots(sections: &[SavedSection]) -> Vec<&SavedSection> {
    sections.iter().filter(|section| section.name.starts_with("virtio")).collect()
}

#[test]
fn an_interface_is_kept_and_not_mistaken_for_the_other() {
    let disk = disk("kept");
    for (interface, other, subsections) in [
        (VirtioInterface::Legacy, VirtioInterface::Modern, 1),
        (VirtioInterface::Modern, VirtioInterface::Legacy, 0),
    ] {
        let (config, host) = microvm(interface, &disk);
        let mut machine = Machine::build(&config, &host).expect("a machine");
        let sections = machine.save().expect("a state");
        let schemas = vmm::schemas(&config);
        assert_eq!(slots(&sections).len(), 2);
        for section in slots(&sections) {
            let schema = schemas.schema(&section.name, 0).expect("a schema");
            let values = schema.values(section.version, &section.data).expect("values");
            assert_eq!(values.subsections.len(), subsections, "{}", section.name);
        }

        let mut again = restored(saved(&mut machine), &host).expect("it is restored");
        assert_eq!(again.config(), &config);
        assert_eq!(slots(&again.save().expect("a state")), slots(&sections));

        let (config, host) = microvm(other, &disk);
        let mut foreign = Machine::build(&config, &host).expect("a machine");
        let error = foreign.restore(&sections).expect_err("it is of the other interface");
        let said = std::iter::successors(Some(&error as &dyn std::error::Error), |of| of.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
        let words = format!("it had the {interface} interface, here it has the {other} one");
        assert!(said.contains(&words), "{said}");
    }
    fs::remove_file(disk).expect("it goes");
}
