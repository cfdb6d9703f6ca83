//! The commands on a machine in processes of its own: status, a file and back, wrong words, signals.

mod common;

use std::fs;

use common::{Host, text};

#[test]
fn a_machine_is_listed_paused_saved_inspected_and_restored() {
    let host = Host::new("file");
    let mut running = host.guest();
    running.round();
    let listed = text(&host.ferry(&["ps"]));
    assert!(listed.contains("vm") && listed.contains("running"), "{listed}");
    assert!(host.ferry(&["pause", "vm"]).status.success());
    assert!(text(&host.ferry(&["ps"])).contains("paused"));
    assert!(host.ferry(&["resume", "vm"]).status.success());
    let file = host.path("vm.ferry");
    let saved = host.ferry(&["migrate", "vm", &format!("file:{file}")]);
    assert!(saved.status.success(), "{}", text(&saved));
    assert!(running.child.wait().unwrap().success());
    let last = running.lines.by_ref().map(|line| line.unwrap()).filter(|l| l.contains("pages ok"));
    let last: u64 =
        last.last().map_or(1, |line| line.split([' ', ':']).nth(1).unwrap().parse().unwrap());

    let inspected = text(&host.ferry(&["inspect", &file]));
    for part in ["ferry,ferry-1", "cpu 0 version 1", "rip = ", "RAM block ram", "memory digest"] {
        assert!(inspected.contains(part), "{part} is not in\n{inspected}");
    }
    let json = host.ferry(&["inspect", "--json", &file]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["machine_type"], "ferry-1");

    let mut restored = host.start(&["restore", &format!("file:{file}")]);
    assert_eq!(restored.round(), last + 1);
    assert!(host.ferry(&["quit", "vm"]).status.success());
    assert!(restored.child.wait().unwrap().success());

    let damaged = host.path("damaged.ferry");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let refused = host.ferry(&["restore", &format!("file:{damaged}")]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("ferry: "), "{}", text(&refused));
}

#[test]
fn what_is_wrong_with_a_command_line_is_said() {
    let host = Host::new("words");
    for (arguments, expected) in [
        (vec!["run"], "--kernel"),
        (vec!["run", "--guest", "--memory", "lots"], "lots"),
        (vec!["run", "--guest", "--clock", "sundial"], "sundial"),
        (vec!["run", "--guest", "--cpu", "pentium"], "pentium"),
        (vec!["run", "--kernel", "/nonexistent"], "/nonexistent"),
        (vec!["migrate", "nobody", "tcp:127.0.0.1:1"], "nobody"),
        (vec!["receive", "carrier-pigeon:1"], "carrier-pigeon"),
        (vec!["inspect", "/dev/null"], "/dev/null"),
        // It would be written to where the machine says that the disk can be.
        (vec!["run", "--guest", "--machine", "m", "--read-only-disk", "d"], "cannot be used with"),
        (vec!["receive", "tcp:127.0.0.1:0", "--read-only-disk", "d"], "--read-only-disk"),
        (vec!["restore", "file:x", "--read-only-disk", "d"], "--read-only-disk"),
    ] {
        let output = host.ferry(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output).contains(expected), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn a_signal_ends_a_machine_in_order() {
    let host = Host::new("signal");
    let mut running = host.guest();
    running.round();
    running.signal("TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(128 + 15));
    assert!(!host.folder.join("ferry/vm.sock").exists());
}

#[test]
fn the_socket_of_a_killed_machine_is_cleaned_up_by_ps() {
    let host = Host::new("stale");
    let mut running = host.guest();
    running.round();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let socket = host.folder.join("ferry/vm.sock");
    assert!(socket.exists());
    assert!(!text(&host.ferry(&["ps"])).contains("vm"));
    assert!(!socket.exists());
}
