//! Who has a disk open, at each moment of a move: whoever owns the guest, and nobody else.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use common::live::{Printed, patient, start};
use machine::{DiskBackend, HostConfig, MachineConfig, VirtioKind};
use migration::{Cancel, MigrationSource, Observer, Ownership, Phase, Progress, Settings};
use transport::Channel;
use vmm::{Vm, VmState, VmTarget};

const MEMORY: u64 = 16 << 20;
const SECTORS: u64 = 2048;

/// How often this process, in which both sides are, has a file open.
fn open_times(path: &Path) -> usize {
    let opened = fs::read_dir("/proc/self/fd").unwrap();
    opened
        .filter(|entry| fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to == path))
        .count()
}

/// Counts in each phase of a move.
struct Looking {
    disk: PathBuf,
    seen: Vec<(Phase, usize)>,
}

impl Looking {
    fn at(disk: &Path) -> Self {
        Self { disk: disk.to_owned(), seen: Vec::new() }
    }
}

impl Observer for Looking {
    fn progress(&mut self, progress: &Progress) {
        self.seen.push((progress.phase, open_times(&self.disk)));
    }
}

struct Moved {
    here: Looking,
    there: Looking,
    arrived: Option<Vm>,
}

/// Moves a machine to a target on the same host.
fn move_watched(vm: &Vm, host: &HostConfig, printed: &Printed, settings: &Settings) -> Moved {
    let disk = host.disk["disk0"].path.clone();
    let (mut here, mut there) = (Looking::at(&disk), Looking::at(&disk));
    let (near, far) = Channel::pair().unwrap();
    let mut target = VmTarget::new(host.clone(), {
        let printed = printed.clone();
        move |_| printed.endpoints()
    });
    let arrived = thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut ownership = Ownership::without_record();
            let settings = Settings::default();
            let cancel = Cancel::new();
            migration::receive(&mut target, far, &mut ownership, &settings, &mut there, &cancel)
        });
        let mut ownership = Ownership::without_record();
        let mut source = vm.source();
        let cancel = Cancel::new();
        let sent =
            migration::migrate(&mut source, near, &mut ownership, settings, &mut here, &cancel);
        let received = receiving.join().unwrap();
        assert_eq!(sent.is_ok(), received.is_ok(), "{sent:?} {received:?}");
        received.is_ok()
    });
    let arrived = if arrived { target.into_vm() } else { None };
    Moved { here, there, arrived }
}

/// The embedded guest, in a machine with a disk.
fn with_a_disk(name: &str) -> (Vm, HostConfig, Printed) {
    let mut config = MachineConfig::new("disks", [8; 16], MEMORY);
    let id = "disk0".to_owned();
    config
        .plug(VirtioKind::Block {
            id: id.clone(),
            serial: String::new(),
            sectors: SECTORS,
            read_only: false,
        })
        .unwrap();
    let path = std::env::temp_dir().join(format!("ferry-disks-{}-{name}", std::process::id()));
    fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
    let mut host = HostConfig::default();
    host.disk.insert(id, DiskBackend { path });
    let printed = Printed::default();
    let vm = start(&config, 0, &host, &printed);
    printed.wait_for_rounds(1);
    (vm, host, printed)
}

#[test]
fn a_disk_is_open_at_the_owner_and_nowhere_else() {
    let (vm, host, printed) = with_a_disk("moved");
    let disk = &host.disk["disk0"].path;
    assert_eq!(open_times(disk), 1);
    let moved = move_watched(&vm, &host, &printed, &patient());
    let arrived = moved.arrived.expect("it moved");
    let granting = moved.here.seen.iter().filter(|(phase, _)| *phase == Phase::Granting);
    assert!(granting.clone().count() > 0, "{:?}", moved.here.seen);
    for (phase, times) in &moved.here.seen {
        match phase {
            Phase::Granting => assert_eq!(*times, 0, "the source has let go, and nobody owns it"),
            Phase::Over => assert!(*times <= 1),
            _ => assert_eq!(*times, 1, "{phase:?}: the source owns the guest"),
        }
    }
    let built = moved.there.seen.iter().filter(|(phase, _)| *phase == Phase::Granting);
    assert!(built.clone().count() > 0, "{:?}", moved.there.seen);
    for (_, times) in built {
        assert_eq!(*times, 1, "the source owns it, and the destination nothing");
    }
    vm.set_gone();
    assert_eq!(vm.wait(), VmState::Gone);
    printed.wait_for_rounds(1);
    assert_eq!(open_times(disk), 1, "the destination owns the guest");
    arrived.quit();
    arrived.wait();
    fs::remove_file(disk).unwrap();
}

#[test]
fn a_disk_that_changed_its_size_meanwhile_is_refused_at_the_start() {
    let (vm, host, printed) = with_a_disk("resized");
    let disk = &host.disk["disk0"].path;
    vm.pause().unwrap();
    vm.source().release().unwrap();
    assert_eq!(open_times(disk), 0);
    fs::OpenOptions::new().write(true).open(disk).unwrap().set_len(512).unwrap();
    let error = vm.source().retake().unwrap_err();
    assert!(error.to_string().contains("disk0"), "{error}");
    fs::OpenOptions::new().write(true).open(disk).unwrap().set_len(SECTORS * 512).unwrap();
    vm.source().retake().unwrap();
    assert_eq!(open_times(disk), 1);
    vm.resume().unwrap();
    printed.wait_for_rounds(1);
    vm.quit();
    vm.wait();
    fs::remove_file(disk).unwrap();
}
