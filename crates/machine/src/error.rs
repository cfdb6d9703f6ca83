//! What can be wrong with a machine, in words.

use std::fmt;

use thiserror::Error;

use crate::fdt::FdtError;
use crate::machine_type::MachineType;

/// A machine type name that this release does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("machine type {name:?} is unknown here; known: {known}")]
pub struct UnknownMachineType {
    /// The name, at most 64 characters of it.
    pub name: String,
    known: KnownTypes,
}

impl UnknownMachineType {
    pub(crate) fn new(name: &str) -> Self {
        UnknownMachineType {
            name: name.chars().take(64).collect(),
            known: KnownTypes(MachineType::ALL.to_vec()),
        }
    }
}

/// A list of machine types, shown with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownTypes(pub(crate) Vec<MachineType>);

impl fmt::Display for KnownTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, known) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{known}")?;
        }
        Ok(())
    }
}

/// A configuration that no machine can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{subject}: {reason}")]
pub struct ConfigError {
    /// What is wrong: `memory`, `cpus`, `disk0`.
    pub subject: String,
    /// Why.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        ConfigError { subject: subject.into(), reason: reason.into() }
    }
}

/// Text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not a size: {reason} (try 512M)")]
pub struct SizeError {
    /// The text, at most 64 characters of it.
    pub text: String,
    /// Why.
    pub reason: &'static str,
}

/// Text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not a UUID of 32 hexadecimal digits in the form 8-4-4-4-12")]
pub struct UuidError {
    /// The text, at most 64 characters of it.
    pub text: String,
}

/// Text that is not a MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not a MAC address of the form 02:00:00:00:00:01")]
pub struct MacError {
    /// The text, at most 64 characters of it.
    pub text: String,
}

/// Why a device tree is not a machine of ours. Paths are those of the tree: `/soc/virtio@feb02e00`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MachineError {
    /// The bytes are not a canonical flattened device tree.
    #[error("device tree: {0}")]
    Fdt(#[from] FdtError),
    /// The machine type is not one of ours.
    #[error(transparent)]
    MachineType(#[from] UnknownMachineType),
    /// The configuration breaks a limit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device that this release does not have.
    #[error("{path}: unknown device {compatible:?}")]
    UnknownDevice {
        /// The device's node.
        path: String,
        /// The first of its `compatible` strings.
        compatible: String,
    },
    /// A node that the machine type does not have at that place.
    #[error("{path}: machine type {machine_type} has no such node")]
    UnknownNode {
        /// The node.
        path: String,
        /// The machine type.
        machine_type: MachineType,
    },
    /// A node that the machine type has and the tree has not.
    #[error("{path}: node is missing")]
    MissingNode {
        /// The node.
        path: String,
    },
    /// A property that nothing here has a meaning for.
    #[error("{path}: unknown property {property:?}")]
    UnknownProperty {
        /// The node.
        path: String,
        /// The property.
        property: String,
    },
    /// A property that the node must have.
    #[error("{path}: property {property:?} is missing")]
    MissingProperty {
        /// The node.
        path: String,
        /// The property.
        property: String,
    },
    /// Properties or nodes in another order than ours: a tree has exactly one encoding.
    #[error("{path}: {found:?} stands where {expected:?} belongs")]
    Order {
        /// The node whose properties or children are out of order.
        path: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: String,
    },
    /// A property that cannot be read as what it has to be.
    #[error("{path}: property {property:?} is not {expected}")]
    Malformed {
        /// The node.
        path: String,
        /// The property.
        property: String,
        /// What it has to be: `a string`, `a 64-bit number`.
        expected: &'static str,
    },
    /// A property whose value is fixed, with another value: a wrong address, say.
    #[error(
        "{path}: property {property:?} is {found}, but in a {machine_type} machine it is {expected}"
    )]
    WrongValue {
        /// The node.
        path: String,
        /// The property.
        property: String,
        /// The value, in device-tree source notation.
        found: String,
        /// The right one.
        expected: String,
        /// The machine type that fixes it.
        machine_type: MachineType,
    },
}
