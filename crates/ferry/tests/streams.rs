//! `inspect`, `verify` and `diff` on saved streams, Ferry's and QEMU's.

mod common;

use std::fs;
use std::io::Read;

use common::{Host, text};

/// Saves a stream of QEMU's on the host; gives its path and its bytes.
fn qemu_stream(host: &Host, name: &str) -> (String, Vec<u8>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu/tests/golden");
    let file = fs::File::open(format!("{folder}/{name}.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    let path = host.path(name);
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn save(host: &Host, to: &str) -> String {
    let mut running = host.guest();
    running.round();
    let file = host.path(to);
    let saved = host.ferry(&["migrate", "vm", &format!("file:{file}")]);
    assert!(saved.status.success(), "{}", text(&saved));
    assert!(running.child.wait().unwrap().success());
    file
}

#[test]
fn ferrys_streams_are_verified_and_compared() {
    let host = Host::new("verify");
    let (one, other) = (save(&host, "one"), save(&host, "other"));
    let verified = host.ferry(&["verify", &one]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert!(text(&verified).contains("the digests agree"), "{}", text(&verified));

    let same = host.ferry(&["diff", &one, &one]);
    assert!(same.status.success(), "{}", text(&same));
    assert_eq!(text(&same), "");
    let differs = host.ferry(&["diff", &one, &other]);
    assert_eq!(differs.status.code(), Some(1));
    let said = text(&differs);
    assert!(said.contains("clock 0.virtual_ns: ") && said.contains("RAM block \"ram\""), "{said}");

    // A bit of a page: only the digest sees it.
    let mut bytes = fs::read(&one).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = host.path("damaged");
    fs::write(&damaged, &bytes).unwrap();
    let refused = host.ferry(&["verify", &damaged]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("is no whole stream: "), "{}", text(&refused));
    let named = text(&host.ferry(&["diff", &one, &damaged]));
    assert!(named.contains(" 1 pages differ") || named.contains("is no whole stream"), "{named}");
}

#[test]
fn qemus_streams_are_read_by_their_own_description() {
    let host = Host::new("qemu-streams");
    let (pc, bytes) = qemu_stream(&host, "pc");
    let (idle, _) = qemu_stream(&host, "idle");

    let inspected = host.ferry(&["inspect", &pc]);
    assert!(inspected.status.success(), "{}", text(&inspected));
    let said = text(&inspected);
    for part in ["machine type pc-i440fx-", "\nhpet 0 version ", "cannot be checked: "] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let json = host.ferry(&["inspect", "--json", &idle]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["machine_type"], "microvm");
    assert_eq!(json["whole"], true);

    let verified = host.ferry(&["verify", &idle]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert!(text(&verified).contains("the stream has no digest"), "{}", text(&verified));
    let differs = host.ferry(&["diff", &idle, &pc]);
    assert_eq!(differs.status.code(), Some(1));
    assert!(text(&differs).contains("machine type: microvm and pc-i440fx-"), "{}", text(&differs));

    let cut = host.path("cut");
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    for command in ["inspect", "verify"] {
        let refused = host.ferry(&[command, &cut]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused);
        assert!(said.contains("has no description at its end"), "{command}: {said}");
    }
}
