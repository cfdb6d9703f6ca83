//! Moves that do not happen: both sides say why, and the guest goes on at the source.

mod common;

use std::fs;

use common::{Host, Running, text};

const DISK: u64 = 1 << 20;

/// A guest with a disk, and the disk's file.
fn with_disk(host: &Host) -> (Running, String) {
    let disk = host.path("disk.img");
    fs::File::create(&disk).unwrap().set_len(DISK).unwrap();
    let arguments =
        ["run", "--guest", "--name", "vm", "--memory", "8M", "--pause", "20", "--disk", &disk];
    let mut source = host.start(&arguments);
    source.round();
    (source, disk)
}

/// Two rounds more, and nothing wrong.
fn goes_on(source: &mut Running) {
    let round = source.round();
    assert_eq!(source.round(), round + 1);
}

#[test]
fn what_a_host_lacks_is_said_on_both_sides_and_the_guest_goes_on() {
    let (here, there) = (Host::new("here"), Host::new("there"));
    let (mut source, disk) = with_disk(&here);
    let small = there.path("small.img");
    fs::File::create(&small).unwrap().set_len(DISK / 2).unwrap();
    let limits = there.path("host.toml");
    fs::write(&limits, "memory-limit = \"4M\"\n").unwrap();
    let (right, wrong) = (format!("disk0={disk}"), format!("disk0={small}"));
    let missing = format!("disk0={}", there.path("nothing.img"));
    let other = format!("disk1={small}");
    for (arguments, reasons) in [
        (vec!["--disk", &right, "--host", &limits], vec!["needs 8.0 MiB", "offers 4.0 MiB"]),
        (vec![], vec!["disk0", "names no file"]),
        (vec!["--disk", &wrong], vec!["disk0", "promises 2048 sectors", "holds 1024"]),
        (vec!["--disk", &missing], vec!["disk0"]),
        (vec!["--disk", &right, "--disk", &other], vec!["disk.disk1", "the machine has none"]),
        // Every reason at once, not one after the other.
        (vec!["--host", &limits], vec!["disk0", "memory"]),
    ] {
        let (mut receiver, address) = there.receiver(&arguments);
        let refused = here.ferry(&["migrate", "vm", &address]);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        for said in [text(&refused), receiver.failure()] {
            for reason in &reasons {
                assert!(said.contains(reason), "{arguments:?}: {reason:?} is not in {said}");
            }
        }
        goes_on(&mut source);
    }

    // And a receiver that has everything takes it, after all of that.
    let (mut receiver, address) = there.receiver(&["--disk", &right]);
    let moved = here.ferry(&["migrate", "vm", &address, "--downtime-limit", "2000"]);
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.round();
    assert!(there.ferry(&["quit", "vm"]).status.success());
}

#[test]
fn nobody_there_and_nothing_that_listens_are_said() {
    let host = Host::new("nobody");
    let mut source = host.guest();
    source.round();
    let nowhere = format!("unix:{}", host.path("nobody.sock"));
    let no_folder = format!("file:{}/no/such/folder", host.path("x"));
    for address in [nowhere.as_str(), &no_folder, "exec:exit 3"] {
        let refused = host.ferry(&["migrate", "vm", address]);
        assert_eq!(refused.status.code(), Some(1), "{address}: {}", text(&refused));
        assert!(text(&refused).contains(address.split(':').next().unwrap()), "{}", text(&refused));
        goes_on(&mut source);
    }
}

/// Starts a move that would take a minute, and waits until memory flows.
fn slow_move(here: &Host, there: &Host) -> (Running, Running) {
    let (receiver, address) = there.receiver(&[]);
    let moving = here.start(&["migrate", "vm", &address, "--bandwidth", "64K"]);
    // Memory flows once the destination has built the machine; nothing tells when, and an earlier
    // end is as good a test.
    std::thread::sleep(std::time::Duration::from_millis(500));
    (moving, receiver)
}

#[test]
fn an_interrupt_cancels_the_move_and_the_guest_goes_on() {
    let (here, there) = (Host::new("int-here"), Host::new("int-there"));
    let mut source = here.guest();
    source.round();
    let (mut moving, mut receiver) = slow_move(&here, &there);
    moving.signal("INT");
    let said = moving.failure();
    assert!(said.contains("cancel"), "{said}");
    assert!(receiver.failure().contains("cancel"));
    goes_on(&mut source);
}

#[test]
fn a_client_that_is_killed_cancels_the_move_and_the_guest_goes_on() {
    let (here, there) = (Host::new("kill-here"), Host::new("kill-there"));
    let mut source = here.guest();
    source.round();
    let (mut moving, mut receiver) = slow_move(&here, &there);
    moving.child.kill().unwrap();
    assert!(receiver.failure().contains("cancel"));
    goes_on(&mut source);
}

#[test]
fn a_receiver_that_is_killed_leaves_the_guest_where_it_was() {
    let (here, there) = (Host::new("lost-here"), Host::new("lost-there"));
    let mut source = here.guest();
    source.round();
    let (mut moving, mut receiver) = slow_move(&here, &there);
    receiver.child.kill().unwrap();
    let said = moving.failure();
    assert!(said.contains("failed: "), "{said}");
    goes_on(&mut source);
}
