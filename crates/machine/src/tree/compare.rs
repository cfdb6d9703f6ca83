//! The tree that came against the tree that its own choices make.

use std::collections::BTreeSet;

use crate::config::{MIN_MEMORY_BYTES, MachineConfig};
use crate::error::MachineError;
use crate::fdt::{Node, format_value, join};
use crate::machine_type::MachineType;

use super::build::{CLOCKS, VIRTIO_DEVICES, build};

/// Longest part of a value that a message shows.
const SHOWN: usize = 64;

/// Whether `found` is `expected`, and if not, the first difference in words.
pub(super) fn compare(
    machine_type: MachineType,
    expected: &Node,
    found: &Node,
) -> Result<(), MachineError> {
    node(machine_type, "/", expected, found)
}

fn node(
    machine_type: MachineType,
    path: &str,
    expected: &Node,
    found: &Node,
) -> Result<(), MachineError> {
    properties(machine_type, path, expected, found)?;

    for child in &found.children {
        if expected.child(&child.name).is_none() {
            return Err(unexpected(machine_type, join(path, &child.name), child));
        }
    }
    for child in &expected.children {
        if found.child(&child.name).is_none() {
            return Err(MachineError::MissingNode { path: join(path, &child.name) });
        }
    }
    for (expected, found) in expected.children.iter().zip(&found.children) {
        if expected.name != found.name {
            return Err(MachineError::Order {
                path: path.to_owned(),
                found: found.name.clone(),
                expected: expected.name.clone(),
            });
        }
        node(machine_type, &join(path, &found.name), expected, found)?;
    }
    Ok(())
}

fn properties(
    machine_type: MachineType,
    path: &str,
    expected: &Node,
    found: &Node,
) -> Result<(), MachineError> {
    for (name, _) in &found.properties {
        if expected.property(name).is_none() {
            return Err(MachineError::UnknownProperty {
                path: path.to_owned(),
                property: name.clone(),
            });
        }
    }
    for (name, _) in &expected.properties {
        if found.property(name).is_none() {
            return Err(MachineError::MissingProperty {
                path: path.to_owned(),
                property: name.clone(),
            });
        }
    }
    for ((name, right), (found_name, value)) in expected.properties.iter().zip(&found.properties) {
        if name != found_name {
            return Err(MachineError::Order {
                path: path.to_owned(),
                found: found_name.clone(),
                expected: name.clone(),
            });
        }
        if value != right {
            return Err(MachineError::WrongValue {
                path: path.to_owned(),
                property: name.clone(),
                found: shown(value),
                expected: shown(right),
                machine_type,
            });
        }
    }
    Ok(())
}

/// A node where none is expected: a device that nobody here knows, or a known one out of place.
fn unexpected(machine_type: MachineType, path: String, node: &Node) -> MachineError {
    let compatible = node
        .property("compatible")
        .and_then(|value| value.split(|byte| *byte == 0).next())
        .map(|first| String::from_utf8_lossy(first).into_owned());
    match compatible {
        Some(compatible) if !known_devices().contains(&compatible) => {
            MachineError::UnknownDevice { path, compatible }
        }
        _ => MachineError::UnknownNode { path, machine_type },
    }
}

/// The first `compatible` string of every device that there is.
fn known_devices() -> BTreeSet<String> {
    fn collect(node: &Node, known: &mut BTreeSet<String>) {
        let value = node.property("compatible").unwrap_or_default();
        let first = value.split(|byte| *byte == 0).next().unwrap_or_default();
        known.insert(String::from_utf8_lossy(first).into_owned());
        node.children.iter().for_each(|child| collect(child, known));
    }
    let mut known: BTreeSet<String> =
        VIRTIO_DEVICES.iter().chain(&CLOCKS).map(|name| (*name).to_owned()).collect();
    collect(&build(&MachineConfig::new("any", [0; 16], MIN_MEMORY_BYTES)), &mut known);
    known
}

fn shown(value: &[u8]) -> String {
    match value.get(..SHOWN) {
        Some(start) if value.len() > SHOWN => format!("{} …", format_value(start)),
        _ if value.is_empty() => "empty".to_owned(),
        _ => format_value(value),
    }
}
