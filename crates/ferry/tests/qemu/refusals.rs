//! What is damaged, cut, foreign or not supported is refused with a sentence, and the guest goes on
//! where it was: under QEMU, or under Ferry.

use std::fs;

use serde_json::json;
use testkit::qemu::Qemu;

use crate::common::relay::{Cut, Fault, Relay};
use crate::common::{Host, Running, text};
use crate::meddler::meddle;
use crate::traveller::{Sending, Traveller};

/// The head of the serial port's section, and that of a device that there is not.
const SERIAL: &[u8] = b"\x06serial\0\0\0\0\0\0\0\x03";
const SARIAL: &[u8] = b"\x06sarial\0\0\0\0\0\0\0\x03";

/// A receiver that waits, and where.
fn receiver(host: &Host, config: &str, more: &[&str]) -> (Running, String) {
    let disk = format!("disk0={}", host.path("disk"));
    let all = ["receive", "tcp:127.0.0.1:0", "--from", "qemu", "--machine", config, "--disk"];
    let mut receiver = host.start(&[&all[..], &[&disk, "--serial", "null"], more].concat());
    let address = receiver.line("listening at ").replace("listening at ", "");
    (receiver, address)
}

/// Sends, and expects to be refused: QEMU keeps the guest and lets it go on. Gives what Ferry says.
fn refused(qemu: &mut Qemu, mut receiver: Running, address: &str) -> String {
    qemu.migrate(address);
    let said = receiver.failure();
    let answer = qemu.migrated();
    assert_eq!(answer["status"], "failed", "{said}: {answer}");
    assert_eq!(qemu.state(), "running", "{said}");
    assert!(said.contains("nothing of the guest is left here"), "{said}");
    println!("{}", said.trim());
    said
}

fn set(qemu: &mut Qemu, capability: &str, on: bool) {
    let list = json!({ "capabilities": [{ "capability": capability, "state": on }] });
    qemu.ask("migrate-set-capabilities", list);
}

#[test]
fn a_guest_that_is_refused_goes_on_under_qemu() {
    let Some(mut guest) = Traveller::boot("refused", 1, "qemu64", false) else { return };
    guest.qemu().enable("return-path");
    let config = guest.config();
    let toml = fs::read_to_string(&config).unwrap();

    // What QEMU is told to do, and is not supported: before the guest has stood still.
    for (capability, words) in [
        ("postcopy-ram", "turn the capability postcopy-ram off at the source"),
        ("x-ignore-shared", "the capabilities x-ignore-shared are not supported"),
        ("compress", "turn the capability compress off"),
    ] {
        println!("capability {capability}");
        set(guest.qemu(), capability, true);
        let (receiver, address) = receiver(&guest.host, &config, &[]);
        let said = refused(guest.qemu(), receiver, &address);
        assert!(said.contains(words), "{capability}: {said}");
        set(guest.qemu(), capability, false);
        guest.ticks(1);
    }

    // A guest that runs, where its operator means to have stopped it.
    let (waiting, address) = receiver(&guest.host, &config, &["--resume"]);
    let said = refused(guest.qemu(), waiting, &address);
    assert!(said.contains("the guest ran while QEMU sent it"), "{said}");
    guest.ticks(1);

    // Another machine in the configuration than in the stream.
    for (old, new, words) in [
        ("memory = ", "memory = \"64M\" # ", "RAM block \"microvm.ram\" has 134217728 bytes"),
        ("count = 1", "count = 2", "missing: \"cpu_common\" 1, \"cpu\" 1, \"apic\" 1"),
        (
            "kind = \"rng\"",
            "kind = \"block\"\nsize = \"4M\"",
            "is of a device that this machine does not have",
        ),
        ("virtio = \"modern\"", "virtio = \"legacy\"", "force-legacy"),
    ] {
        assert!(toml.contains(old), "{old} in {toml}");
        let other = guest.host.path("other.toml");
        fs::write(&other, toml.replace(old, new)).unwrap();
        let disk = format!("rng0={}", guest.host.path("disk"));
        let more: &[&str] = if new.contains("block") { &["--disk", &disk] } else { &[] };
        let (receiver, address) = receiver(&guest.host, &other, more);
        let said = refused(guest.qemu(), receiver, &address);
        assert!(said.contains(words), "{new}: {said}");
        guest.ticks(1);
    }

    // Damage on the way, and links that end or stand still.
    for (old, new, words) in [
        (SERIAL, SARIAL, "section \"sarial\" instance 0 is of a device"),
        (
            b"\x0bglobalstate\0\0\0\0\0\0\0\x01",
            b"\x0bglobalstate\0\0\0\0\0\0\0\x02",
            "version 2 of",
        ),
        (b"\0\0\0\x08running\0\0\0", b"\0\0\0\x08rupning\0\0\0", "run state \"rupning\""),
    ] {
        let (receiver, address) = receiver(&guest.host, &config, &[]);
        let said = refused(guest.qemu(), receiver, &meddle(&address, old, new));
        assert!(said.contains(words), "{words}: {said}");
        guest.ticks(1);
    }
    for (place, fault, words) in [
        (30_000, Fault::Cut, "it is cut short"),
        (20_000_000, Fault::Reset, ""),
        (20_000_000, Fault::Stall, "nothing happened for 2 s"),
    ] {
        let (receiver, address) = receiver(&guest.host, &config, &["--idle-timeout", "2000"]);
        let relay = Relay::start(&address, Cut::Sent(place), fault);
        let said = refused_by_a_link(guest.qemu(), receiver, &relay.address, fault);
        assert!(said.contains(words), "{fault:?}: {said}");
        guest.ticks(1);
    }

    // After all that it can still be moved.
    guest.move_to_ferry(Sending { capabilities: &["return-path"], channels: 0 });
    guest.ticks(3);
    guest.move_to_qemu();
    guest.check();
}

/// As [`refused`]; a link that stands still at QEMU's side needs its operator.
fn refused_by_a_link(
    qemu: &mut Qemu,
    mut receiver: Running,
    address: &str,
    fault: Fault,
) -> String {
    qemu.migrate(address);
    let said = receiver.failure();
    if fault == Fault::Stall {
        qemu.ask("migrate_cancel", json!({}));
    }
    let answer = qemu.migrated();
    assert_ne!(answer["status"], "completed", "{said}: {answer}");
    assert_eq!(qemu.state(), "running", "{said}");
    said
}

/// QEMU 7.2 was seen to crash, some time after it, when a migration with multifd had failed: what
/// becomes of it is its own.
#[test]
fn channels_that_were_not_announced_are_refused_by_name() {
    let Some(mut guest) = Traveller::boot("channels", 1, "qemu64", false) else { return };
    guest.qemu().enable("return-path");
    guest.qemu().enable("multifd");
    let (mut receiver, address) = receiver(&guest.host, &guest.config(), &[]);
    guest.qemu().migrate(&address);
    let said = receiver.failure();
    assert!(said.contains("say how many with --multifd"), "{said}");
}

#[test]
fn a_guest_of_another_cpu_model_is_refused() {
    let Some(mut guest) = Traveller::boot_with("max", 1, "max", false, Some("qemu64")) else {
        return;
    };
    guest.qemu().enable("return-path");
    let config = guest.config();
    let (receiver, address) = receiver(&guest.host, &config, &[]);
    let said = refused(guest.qemu(), receiver, &address);
    assert!(said.contains("section \"cpu\" instance 0"), "{said}");
    guest.ticks(3);
}

#[test]
fn a_machine_of_another_type_is_refused() {
    let Some(guest) = Traveller::boot("foreign", 1, "qemu64", false) else { return };
    let arguments = ["-M", "pc", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none"];
    let arguments: Vec<_> = arguments.map(str::to_owned).into();
    let mut pc = Qemu::start(&guest.host.folder, "pc", &arguments);
    pc.enable("return-path");
    let (receiver, address) = receiver(&guest.host, &guest.config(), &[]);
    let said = refused(&mut pc, receiver, &address);
    assert!(said.contains("machine type \"pc-i440fx-7.2\" is not \"microvm\""), "{said}");
}

/// A QEMU that does not hear answers believes that the guest has gone, and keeps it: its operator
/// can let it go on.
#[test]
fn without_a_return_path_a_late_refusal_costs_a_word_of_the_operator() {
    let Some(mut guest) = Traveller::boot("unheard", 1, "qemu64", false) else { return };
    let (mut receiver, address) = receiver(&guest.host, &guest.config(), &[]);
    let meddled = meddle(&address, SERIAL, SARIAL);
    guest.qemu().migrate(&meddled);
    let said = receiver.failure();
    assert!(said.contains("\"sarial\""), "{said}");
    assert!(said.contains("return path"), "it says what to do: {said}");
    if guest.qemu().migrated()["status"] == "completed" {
        assert_eq!(guest.qemu().state(), "postmigrate");
        guest.qemu().ask("cont", json!({}));
    }
    guest.ticks(2);
}

#[test]
fn a_guest_that_qemu_does_not_take_goes_on_under_ferry() {
    let Some(mut guest) = Traveller::boot("kept", 1, "qemu64", false) else { return };
    guest.move_to_ferry(Sending { capabilities: &["return-path"], channels: 0 });
    guest.ticks(1);
    let original = guest.arguments.clone();
    for (old, new) in [
        ("128", "160"),
        (
            "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on",
            "microvm,x-option-roms=off,pit=on,pic=on,rtc=off,isa-serial=on",
        ),
        ("virtio-rng-device", "virtio-balloon-device"),
    ] {
        guest.arguments =
            original.iter().map(|of| if of == old { new.to_owned() } else { of.clone() }).collect();
        assert_ne!(guest.arguments, original);
        let mut qemu = guest.waiting_qemu("tcp:127.0.0.1:0");
        let address = format!("tcp:127.0.0.1:{}", qemu.incoming_port());
        let moved = guest.host.ferry(&["migrate", "guest", &address, "--to", "qemu"]);
        let said = text(&moved);
        assert!(!moved.status.success() && said.contains("the guest goes on here"), "{said}");
        assert!(said.contains("its own standard error says why"), "{said}");
        println!("{new}: Ferry: {} QEMU: {}", said.trim(), qemu.errors().trim());
        guest.ticks(2);
    }
    guest.arguments = original;
    // Nobody listens; somebody listens who is no QEMU.
    let moved = guest.host.ferry(&["migrate", "guest", "tcp:127.0.0.1:1", "--to", "qemu"]);
    assert!(text(&moved).contains("the guest goes on here"), "{}", text(&moved));
    let (other, address) = receiver(&Host::new("stranger"), &guest.config(), &[]);
    let moved = guest.host.ferry(&["migrate", "guest", &address]);
    assert!(!moved.status.success(), "a Ferry that waits for QEMU takes no Ferry's");
    drop(other);
    guest.ticks(1);
    guest.move_to_qemu();
    guest.ticks(1);
    guest.check();
}

#[test]
fn a_machine_that_qemu_has_not_is_refused_before_anything_is_sent() {
    let host = Host::new("ferry1");
    let mut guest = host.guest();
    let round = guest.round();
    let moved = host.ferry(&["migrate", "vm", "tcp:127.0.0.1:1", "--to", "qemu"]);
    let said = text(&moved);
    for words in ["ferry-1", "the exit port", "the HPET", "the guest goes on here"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(guest.round() > round);
}
