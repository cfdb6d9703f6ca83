//! A running guest moves between machines with threads, on the host's clock; and stays where it is
//! when the other side refuses.

mod common;

use std::thread;
use std::time::Duration;

use common::live::{Printed, move_to, patient, start};
use machine::{HostConfig, MachineConfig, VirtioKind};
use migration::{Cancel, Ownership, Settings, Silent, Standing};
use transport::Channel;
use vmm::{End, Endpoints, VmState, VmTarget};

const MEMORY: u64 = 32 << 20;
const MOVES: usize = 6;

fn moves_without_a_gap(cpus: u32) {
    let mut config = MachineConfig::new("live", [3; 16], MEMORY);
    config.cpus.count = cpus;
    let printed = Printed::default();
    let host = HostConfig::default();
    let mut vm = start(&config, 60, &host, &printed);
    for _ in 0..MOVES {
        printed.wait_for_rounds(2);
        let (sent, taken) = move_to(&vm, &host, &printed, &patient());
        let outcome = sent.unwrap();
        assert!(outcome.confirmed);
        vm.set_gone();
        assert_eq!(vm.wait(), VmState::Gone);
        vm = taken.unwrap();
    }
    assert_eq!(vm.wait(), VmState::Ended(End::Exit(0)), "{}", printed.text());
    let rounds = printed.rounds();
    assert_eq!(rounds, (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_guest_that_works_is_moved_without_a_gap() {
    moves_without_a_gap(1);
}

#[test]
fn a_guest_with_two_vcpus_is_moved_without_a_gap() {
    moves_without_a_gap(2);
}

#[test]
fn a_running_machine_says_how_far_it_is() {
    let printed = Printed::default();
    let config = MachineConfig::new("live", [3; 16], MEMORY);
    // KVM counts no instructions.
    let host = HostConfig::from_toml("accel = \"soft\"").unwrap();
    let vm = start(&config, 0, &host, &printed);
    printed.wait_for_rounds(1);
    let early = vm.status();
    printed.wait_for_rounds(1);
    let late = vm.status();
    vm.quit();
    vm.wait();
    assert!(0 < early.instructions && early.instructions < late.instructions, "{early:?} {late:?}");
    assert!(0 < early.virtual_ns && early.virtual_ns < late.virtual_ns, "{early:?} {late:?}");
}

/// The move is refused with this text on both sides, and the guest goes on; then it is moved.
fn refused(config: &MachineConfig, good: &HostConfig, bad: &HostConfig, text: &str) {
    let printed = Printed::default();
    let vm = start(config, 0, good, &printed);
    printed.wait_for_rounds(1);
    let (sent, taken) = move_to(&vm, bad, &printed, &patient());
    let (sent, taken) = (sent.unwrap_err(), taken.map(|_| ()).unwrap_err());
    assert_eq!(sent.standing, Standing::Running);
    assert_eq!(taken.standing, Standing::Discarded);
    for sentence in [sent.failure.sentence(), taken.failure.sentence()] {
        assert!(sentence.contains(text), "{sentence}");
    }
    assert_eq!(vm.status().state, VmState::Running);
    printed.wait_for_rounds(2);
    vm.quit();
    vm.wait();
}

#[test]
fn too_little_memory_is_refused_and_the_guest_goes_on() {
    let config = MachineConfig::new("live", [3; 16], MEMORY);
    let bad = HostConfig::from_toml("memory-limit = \"16M\"").unwrap();
    refused(&config, &HostConfig::default(), &bad, "memory");
}

#[test]
fn a_missing_disk_is_refused_and_the_guest_goes_on() {
    let mut config = MachineConfig::new("live", [3; 16], MEMORY);
    let id = "disk0".to_owned();
    config
        .plug(VirtioKind::Block { id, serial: String::new(), sectors: 2048, read_only: false })
        .unwrap();
    let path = std::env::temp_dir().join(format!("ferry-live-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; 2048 * 512]).unwrap();
    let text = format!("[disk.disk0]\npath = {:?}\n", path.display().to_string());
    let good = HostConfig::from_toml(&text).unwrap();
    refused(&config, &good, &HostConfig::default(), "disk0");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_cancelled_move_leaves_the_guest_running() {
    let config = MachineConfig::new("live", [3; 16], MEMORY);
    let printed = Printed::default();
    let vm = start(&config, 0, &HostConfig::default(), &printed);
    let (here, there) = Channel::pair().unwrap();
    let cancel = Cancel::new();
    let mut target = VmTarget::new(HostConfig::default(), |_| Endpoints::default());
    let receiving = thread::spawn(move || {
        migration::receive(
            &mut target,
            there,
            &mut Ownership::without_record(),
            &Settings::default(),
            &mut Silent,
            &Cancel::new(),
        )
    });
    let stopper = {
        let cancel = cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        })
    };
    // So slow that it cannot be over before it is cancelled.
    let settings = Settings { bandwidth_limit: Some(1 << 20), ..Settings::default() };
    let error = migration::migrate(
        &mut vm.source(),
        here,
        &mut Ownership::without_record(),
        &settings,
        &mut Silent,
        &cancel,
    )
    .unwrap_err();
    stopper.join().unwrap();
    assert_eq!(error.standing, Standing::Running);
    assert!(receiving.join().unwrap().is_err());
    printed.wait_for_rounds(2);
    vm.quit();
    vm.wait();
}
