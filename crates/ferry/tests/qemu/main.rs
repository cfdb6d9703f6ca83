//! A running Linux goes from a real QEMU into Ferry, into a fresh QEMU, and so forth, while it
//! computes digests, writes its disk and reads it back, and counts seconds. It stands still while a
//! QEMU sends it (`memory.rs` shows why), and runs while Ferry does.
//!
//! Needs Debian's `qemu-system-x86` and what `tools/linux-guest` makes.

#[path = "../common/mod.rs"]
mod common;
mod meddler;
mod memory;
mod refusals;
mod traveller;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::text;
use traveller::{Sending, Traveller};

/// What a QEMU may be told, and how many channels that makes.
const SENDINGS: [Sending; 4] = [
    Sending { capabilities: &["return-path"], channels: 0 },
    Sending { capabilities: &[], channels: 0 },
    Sending { capabilities: &["return-path", "xbzrle"], channels: 0 },
    Sending { capabilities: &["return-path", "multifd"], channels: 3 },
];

fn ten_hops(name: &str, cpus: u32, cpu: &str, legacy: bool) {
    let Some(mut guest) = Traveller::boot(name, cpus, cpu, legacy) else { return };
    for (hop, sending) in (0..5).zip(SENDINGS.iter().cycle()) {
        let still = guest.move_to_ferry(*sending);
        println!(
            "{name}: hop {} into Ferry: stood still for {still:.0?} ({sending:?})",
            2 * hop + 1
        );
        guest.ticks(3);
        println!("{name}: hop {}: {}", 2 * hop + 2, guest.move_to_qemu().trim());
        guest.ticks(3);
    }
    guest.check();
}

#[test]
fn ten_hops_of_a_guest_with_one_cpu() {
    ten_hops("hops1", 1, "qemu64", false);
}

#[test]
fn ten_hops_of_a_guest_with_two_cpus() {
    ten_hops("hops2", 2, "qemu64", false);
}

#[test]
fn ten_hops_with_the_legacy_interface() {
    ten_hops("legacy", 1, "qemu64", true);
}

#[test]
fn ten_hops_of_a_nehalem() {
    ten_hops("nehalem", 1, "Nehalem", true);
}

/// The command line that Ferry prints makes a QEMU that takes the guest.
#[test]
fn a_guest_goes_back_to_a_qemu_by_the_exported_command_line() {
    let Some(mut guest) = Traveller::boot("export", 2, "qemu64", true) else { return };
    guest.move_to_ferry(Sending { capabilities: &["return-path"], channels: 0 });
    guest.ticks(1);
    let waiting = guest.host.path("waiting");
    let incoming = format!("unix:{waiting}");
    let line = guest.host.ferry(&["export-config", "guest", "--qemu", "--incoming", &incoming]);
    assert!(line.status.success(), "{}", text(&line));
    let line = String::from_utf8(line.stdout).unwrap();
    // Its serial port is its standard output. What the shell starts takes its place.
    let command: Vec<_> = line.lines().filter(|line| !line.starts_with('#')).collect();
    let mut qemu = Command::new("sh")
        .args(["-c", &format!("exec {}", command.join("\n"))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    while !Path::new(&waiting).exists() {
        assert!(qemu.0.try_wait().unwrap().is_none(), "{line}");
        thread::sleep(Duration::from_millis(20));
    }
    let moved =
        guest.host.ferry(&["migrate", "guest", &incoming, "--to", "qemu", "--allow-longer-pause"]);
    assert!(moved.status.success(), "{} {line}", text(&moved));
    let lines = BufReader::new(qemu.0.stdout.take().unwrap()).split(b'\n');
    let ticks = lines.filter(|line| line.as_ref().unwrap().starts_with(b"tick "));
    assert_eq!(ticks.take(3).count(), 3, "{line}");
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The control beside the others: what QEMU's own moves do to the same guest, running. QEMU 7.2
/// without KVM leaves out what a guest writes while it is sent (`memory.rs`), and the guest crashes
/// or computes nonsense wherever it goes on. So the other tests stop it first; how it fares here is
/// printed, and is not for Ferry's tests to demand.
#[test]
fn the_same_guest_moved_by_qemu_alone() {
    let Some(mut guest) = Traveller::boot("control", 1, "qemu64", false) else { return };
    for hop in 1..=5 {
        guest.move_past_ferry();
        println!("control: hop {hop}");
        if !guest.goes_on() {
            return;
        }
    }
}

/// A guest that runs while QEMU sends it is taken, in all the ways in which QEMU sends, and the
/// operator is told what QEMU may do to it. Where it did, another one is moved: over a fast link QEMU
/// spoils one in about a hundred, so three in a row would be Ferry's fault.
#[test]
fn a_running_guest_is_taken_and_its_operator_warned() {
    for sending in SENDINGS {
        let well = (0..3).any(|_| {
            let Some(mut guest) = Traveller::boot("live", 1, "qemu64", false) else { return true };
            let answer = guest.move_to_ferry_live(sending);
            println!("live: QEMU says {} ms downtime ({sending:?})", answer["downtime"]);
            let well = guest.goes_on();
            let said = guest.end_ferry();
            assert!(said.contains("the guest ran while QEMU sent it"), "{said}");
            well
        });
        assert!(well, "{sending:?}");
    }
}

#[test]
fn ten_hops_by_files() {
    let Some(mut guest) = Traveller::boot("files", 1, "qemu64", false) else { return };
    for _ in 0..5 {
        guest.move_to_ferry_by_file();
        guest.ticks(2);
        guest.move_to_qemu_by_file();
        guest.ticks(2);
    }
    guest.check();
}
