//! The machine as a device tree, and back.
//!
//! The way back reads from the tree the few values that are a configuration's to choose, then
//! builds the tree of that configuration and compares the two, node by node and property by
//! property. So nothing in a tree is skipped, by construction: what the comparison does not expect
//! is an error with its path, and so is a value that the machine type fixes differently.

mod build;
mod compare;
mod extract;

use crate::config::MachineConfig;
use crate::error::MachineError;
use crate::fdt;

impl MachineConfig {
    /// The machine as a flattened device tree: always the same bytes for the same machine.
    ///
    /// # Errors
    /// The configuration makes no machine ([`MachineConfig::validate`]).
    pub fn to_fdt(&self) -> Result<Vec<u8>, MachineError> {
        self.validate()?;
        Ok(fdt::write(&build::build(self))?)
    }

    /// The machine that a flattened device tree describes. `to_fdt` of the result gives `blob`
    /// again, to the byte.
    ///
    /// # Errors
    /// The blob is not canonical, its machine type or one of its devices is unknown, or anything
    /// in it differs from what the machine type says. The message names the node and the property.
    pub fn from_fdt(blob: &[u8]) -> Result<Self, MachineError> {
        let found = fdt::parse(blob)?;
        let config = extract::extract(&found)?;
        config.validate()?;
        compare::compare(config.machine_type, &build::build(&config), &found)?;
        Ok(config)
    }
}
