//! Who owns a machine, as an operator sees it: a second start, a move, a crash, a move that nobody
//! could confirm.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::relay::{Cut, Fault, Relay};
use common::{Host, Running, accelerators, text};

/// Type of the frames that pass the guest on (docs/migration.md).
const GRANT: u8 = 0x04;
const RUNNING: u8 = 0x85;

fn disk(host: &Host) -> String {
    let disk = host.path("disk.img");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    disk
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} never was");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The word after this one in what `ferry owner` prints.
fn owner(host: &Host, vm: &str, line: &str) -> String {
    let said = host.ferry(&["owner", vm]);
    assert!(said.status.success(), "{}", text(&said));
    let said = text(&said);
    let line = said.lines().find_map(|found| found.strip_prefix(line));
    line.unwrap_or_else(|| panic!("{said}")).trim().to_owned()
}

fn goes_on(guest: &mut Running) {
    let round = guest.round();
    assert_eq!(guest.round(), round + 1);
}

#[test]
fn a_second_start_on_one_disk_is_refused_until_the_first_is_dead() {
    let (here, other) = (Host::new("own-first"), Host::new("own-second"));
    let disk = disk(&here);
    let mut first = here.start(&here.run(&["--disk", &disk]));
    first.round();
    let process = owner(&here, "vm", "process");
    for arguments in
        [other.run(&["--disk", &disk]), other.run(&["--disk", &disk, "--take-ownership"])]
    {
        let refused = other.ferry(&arguments);
        assert_eq!(refused.status.code(), Some(1));
        let refused = text(&refused);
        assert!(refused.contains("must not be started here"), "{refused}");
        assert!(refused.contains(&process), "{process} is not in {refused}");
    }
    assert!(owner(&here, &disk, "record").contains(&process));
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    // The record still names it; that it is dead is seen by its lock.
    assert!(owner(&here, &disk, "record").contains(&process));
    let mut second = other.start(&other.run(&["--disk", &disk]));
    second.round();
    let record = owner(&here, &disk, "record");
    assert!(record.starts_with("owned by") && !record.contains(&process), "{record}");
    assert!(other.ferry(&["quit", "vm"]).status.success());
    assert!(second.child.wait().unwrap().success());
    assert!(owner(&here, &disk, "record").starts_with("free"));
}

#[test]
fn the_record_follows_a_move_on_shared_storage() {
    for accel in accelerators("a move with its record") {
        the_record_follows(accel);
    }
}

fn the_record_follows(accel: &'static str) {
    let (here, there) = (Host::on("own-here", accel), Host::on("own-there", accel));
    let disk = disk(&here);
    let mut source = here.start(&here.run(&["--disk", &disk]));
    source.round();
    let uuid = owner(&here, "vm", "machine");
    let (mut receiver, address) = there.receiver(&["--disk", &disk]);
    let moved = here.ferry(&["migrate", "vm", &address, "--downtime-limit", "2000"]);
    assert!(moved.status.success(), "{}", text(&moved));
    goes_on(&mut receiver);
    assert!(source.child.wait().unwrap().success());
    assert_eq!(owner(&there, "vm", "machine"), uuid);
    let record = owner(&there, "vm", "record");
    assert!(record.contains(&owner(&there, "vm", "process")), "{record}");
    assert!(record.contains("(epoch 3)"), "{record}");
    let refused = here.ferry(&here.run(&["--disk", &disk]));
    assert!(text(&refused).contains("must not be started here"), "{}", text(&refused));
}

/// In etcd a machine is known by its UUID alone: no disk's file says that it is the same one.
#[test]
fn a_machine_without_a_uuid_of_its_own_is_warned_of_where_the_record_is_not_beside_its_disk() {
    let host = Host::new("no-uuid");
    let nobody = ["--arbiter", "etcd://127.0.0.1:1"];
    let said = text(&host.ferry(&host.run(&nobody)));
    assert!(said.contains("warning: this machine has no uuid of its own"), "{said}");
    let file = host.path("machine.toml");
    fs::write(&file, "uuid = \"6b1f0c1e-3f5a-4f0e-9c57-000000000001\"\nmemory = \"8M\"\n").unwrap();
    let named = host.ferry(&[&["run", "--guest", "--machine", &file], &nobody[..]].concat());
    let said = text(&named);
    assert!(said.contains("etcd") && !said.contains("warning"), "{said}");
}

#[test]
fn the_record_can_be_asked_for_while_the_machine_is_being_moved() {
    let (here, there) = (Host::new("asked-here"), Host::new("asked-there"));
    let disk = disk(&here);
    let mut source = here.start(&here.run(&["--disk", &disk]));
    source.round();
    let process = owner(&here, "vm", "process");
    let (_receiver, address) = there.receiver(&["--disk", &disk]);
    // At this rate it takes a minute.
    let _moving = here.start(&["migrate", "vm", &address, "--bandwidth", "16K"]);
    until("a migration", || {
        text(&here.ferry(&["resolve", "vm", "--gone"])).contains("a migration is under way")
    });
    assert_eq!(owner(&here, "vm", "process"), process);
    let record = owner(&here, "vm", "record");
    assert!(record.starts_with("owned by") && record.contains(&process), "{record}");
    assert!(owner(&here, "vm", "kept in").ends_with("disk.img.ferry"));
}

#[test]
fn a_machine_that_was_given_away_out_of_reach_is_not_started_again() {
    let (here, there) = (Host::new("away-here"), Host::new("away-there"));
    let (near, far) = (disk(&here), disk(&there));
    let mut source = here.start(&here.run(&["--disk", &near]));
    source.round();
    // Storage that is not shared: the operator carries the disk over while the guest stands still.
    assert!(here.ferry(&["pause", "vm"]).status.success());
    fs::copy(&near, &far).unwrap();
    let (mut receiver, address) = there.receiver(&["--disk", &far]);
    let moved = here.ferry(&["migrate", "vm", &address]);
    assert!(moved.status.success(), "{}", text(&moved));
    until("its socket", || there.state("vm").is_some());
    assert!(there.ferry(&["resume", "vm"]).status.success());
    goes_on(&mut receiver);
    assert!(source.child.wait().unwrap().success());
    let record = owner(&here, &near, "record");
    assert!(record.starts_with("given by"), "{record}");
    assert!(record.contains(&owner(&there, "vm", "process")), "{record}");
    let refused = text(&here.ferry(&here.run(&["--disk", &near])));
    assert!(refused.contains("--take-ownership"), "{refused}");
    let mut taken = here.start(&here.run(&["--disk", &near, "--take-ownership"]));
    taken.round();
}

/// A move whose connection is cut before a frame.
fn cut_move(here: &Host, there: &Host, more: &[&str], kind: u8) -> (Running, Running, String) {
    let mut source = here.start(&here.run(more));
    source.round();
    let (receiver, address) = there.receiver(more);
    let relay = Relay::start(&address, Cut::Frame(kind), Fault::Cut);
    let moved = here.ferry(&["migrate", "vm", &relay.address, "--downtime-limit", "2000"]);
    (source, receiver, text(&moved))
}

#[test]
fn a_lost_grant_is_decided_by_the_record() {
    let accels = accelerators("a lost grant");
    for (accel, kind) in accels.iter().flat_map(|accel| [(accel, GRANT), (accel, RUNNING)]) {
        let (here, there) = (Host::on("cut-here", accel), Host::on("cut-there", accel));
        let disk = disk(&here);
        let (mut source, mut receiver, said) = cut_move(&here, &there, &["--disk", &disk], kind);
        until("a decision", || {
            let states = (here.state("vm"), there.state("vm"));
            states.0.as_deref() != Some("unconfirmed") && states != (None, None)
        });
        let record = owner(&here, &disk, "record");
        if here.state("vm").is_some() {
            assert!(record.contains(&owner(&here, "vm", "process")), "{record}");
            assert!(!receiver.child.wait().unwrap().success());
            goes_on(&mut source);
        } else {
            assert!(said.contains("moved to"), "{said}");
            assert!(source.child.wait().unwrap().success());
            assert!(record.contains(&owner(&there, "vm", "process")), "{record}");
            goes_on(&mut receiver);
        }
    }
}

#[test]
fn without_a_record_the_operator_decides() {
    let more = ["--arbiter", "none"];
    let (here, there) = (Host::new("none-here"), Host::new("none-there"));
    let (mut source, mut receiver, said) = cut_move(&here, &there, &more, GRANT);
    assert!(said.contains("look there before you resume it here"), "{said}");
    assert_eq!(here.state("vm").as_deref(), Some("unconfirmed"));
    let refused = text(&here.ferry(&["resume", "vm"]));
    assert!(refused.contains("ferry resolve vm --run-here"), "{refused}");
    let refused = text(&here.ferry(&["migrate", "vm", "tcp:127.0.0.1:1"]));
    assert!(refused.contains("ferry resolve vm --run-here"), "{refused}");
    // It was discarded there, as the operator finds.
    assert!(receiver.failure().contains("nothing of the guest is left here"));
    assert!(owner(&here, "vm", "guest").contains("ferry resolve"));
    assert!(here.ferry(&["resolve", "vm", "--run-here"]).status.success());
    assert_eq!(here.state("vm").as_deref(), Some("running"));
    goes_on(&mut source);
    let nothing = text(&here.ferry(&["resolve", "vm", "--gone"]));
    assert!(nothing.contains("nothing about it is in doubt"), "{nothing}");
    drop(source);

    let (here, there) = (Host::new("none-here2"), Host::new("none-there2"));
    let (mut source, mut receiver, _) = cut_move(&here, &there, &more, RUNNING);
    assert_eq!(here.state("vm").as_deref(), Some("unconfirmed"));
    goes_on(&mut receiver);
    assert!(here.ferry(&["resolve", "vm", "--gone"]).status.success());
    assert!(source.child.wait().unwrap().success());
    goes_on(&mut receiver);
}

/// A sample, with real processes, of what the simulator does after every byte.
#[test]
fn a_link_that_fails_after_some_byte_leaves_one_guest() {
    for accel in accelerators("links that fail after some bytes") {
        fails_after_some_byte(accel);
    }
}

/// What each side takes for silence, in milliseconds.
const IDLE: &str = "1000";

fn fails_after_some_byte(accel: &'static str) {
    let mut places = vec![(Cut::Never, Fault::Cut)];
    let mut ends = [0, 0];
    while let Some((cut, fault)) = places.pop() {
        let (here, there) = (Host::on("byte-here", accel), Host::on("byte-there", accel));
        let disk = disk(&here);
        let mut source = here.start(&here.run(&["--disk", &disk]));
        source.round();
        let (mut receiver, address) = there.receiver(&["--disk", &disk, "--idle-timeout", IDLE]);
        let relay = Relay::start(&address, cut, fault);
        let options = ["--downtime-limit", "2000", "--idle-timeout", IDLE];
        let moved = here.ferry(&[&["migrate", "vm", &relay.address][..], &options].concat());
        until("a decision", || {
            let states = (here.state("vm"), there.state("vm"));
            states.0.as_deref() != Some("unconfirmed") && states != (None, None)
        });
        let went = here.state("vm").is_none();
        let record = owner(&here, &disk, "record");
        let side = if went { &there } else { &here };
        let what = format!("{fault:?} after {cut:?}: {}", text(&moved));
        assert!(record.contains(&owner(side, "vm", "process")), "{what}: {record}");
        if went {
            assert!(moved.status.success(), "{what}");
            assert!(source.child.wait().unwrap().success(), "{what}");
            goes_on(&mut receiver);
        } else {
            assert!(!receiver.child.wait().unwrap().success(), "{what}");
            goes_on(&mut source);
        }
        ends[usize::from(went)] += 1;
        if cut == Cut::Never {
            let (sent, answered) = relay.passed();
            let out = [0, 31, 40, sent / 3, sent / 2].map(Cut::Sent);
            let back = [0, 20, 32, 41, answered - 80, answered - 5].map(Cut::Answered);
            for place in out.into_iter().chain(back) {
                places.extend([Fault::Cut, Fault::Reset, Fault::Stall].map(|fault| (place, fault)));
            }
        }
    }
    println!(
        "{accel}: cut, reset and stalled: {} times it stayed, {} times it went",
        ends[0], ends[1]
    );
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}
