//! The device-tree compiler's opinion of our blobs and of our source text.
//!
//! Needs `dtc` (Debian package device-tree-compiler). Where it is missing the tests say so and
//! pass, except in CI (the variable `CI` is set), where they fail.

use std::io::Write;
use std::process::{Command, Stdio};

use machine::{MachineConfig, VirtioInterface, fdt};

use crate::common;

/// Runs `dtc` over `input`; returns what it prints, and its complaints. `None` without a `dtc`.
fn dtc(from: &str, to: &str, input: &[u8]) -> Option<(Vec<u8>, String)> {
    let spawned = Command::new("dtc")
        .args(["-I", from, "-O", to, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: dtc does not start ({error}); package device-tree-compiler");
            return None;
        }
        Err(error) => panic!("dtc does not start ({error}); package device-tree-compiler"),
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "dtc: {complaints}");
    Some((output.stdout, complaints))
}

fn machines() -> [MachineConfig; 3] {
    [common::small(), common::full(), common::microvm(VirtioInterface::Legacy)]
}

#[test]
fn dtc_accepts_every_blob_without_a_warning() {
    for config in machines() {
        let blob = config.to_fdt().unwrap();
        let Some((text, complaints)) = dtc("dtb", "dts", &blob) else { return };
        assert_eq!(complaints, "");
        let text = String::from_utf8(text).unwrap();
        let name = format!("compatible = \"ferry,{}\"", config.machine_type);
        assert!(text.contains(&name), "{text}");
        assert!(text.contains(&format!("ferry,name = \"{}\"", config.name)), "{text}");
    }
}

#[test]
fn dtc_compiles_our_source_to_the_same_tree() {
    for config in machines() {
        let blob = config.to_fdt().unwrap();
        let source = fdt::to_source(&blob).unwrap();
        // Its complaints here are about handles given as numbers, which is all that a blob has;
        // it says the same of its own output.
        let Some((compiled, _)) = dtc("dts", "dtb", source.as_bytes()) else { return };
        let Some((from_source, _)) = dtc("dtb", "dts", &compiled) else { return };
        let Some((from_blob, _)) = dtc("dtb", "dts", &blob) else { return };
        assert_eq!(String::from_utf8(from_source), String::from_utf8(from_blob));
    }
}
