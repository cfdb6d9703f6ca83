//! The machine as a device tree, and back.
//!
//! The way back reads from the tree the few values that are a configuration's to choose, then
//! builds the tree of that configuration and compares the two, node by node and property by
//! property. So nothing in a tree is skipped, by construction: what the comparison does not expect
//! is an error with its path, and so is a value that the machine type fixes differently.
//!
//! The choices, and where they stand:
//!
//! | choice | node | property |
//! | --- | --- | --- |
//! | machine type | `/` | `compatible`, after `ferry,` (and the same in `model`) |
//! | name, UUID | `/` | `ferry,name`, `ferry,uuid` |
//! | CPU model | `/cpus` | `ferry,model`; `ferry,host-cpuid` (64 digits) with the model `host` |
//! | CPUID promise | `/cpus` | `ferry,promise-cpuid` |
//! | TSC frequency, promise | `/cpus` | `timebase-frequency` (64 bits, hertz), `ferry,promise-tsc` |
//! | CPU count | `/cpus/cpu@N` | by how many nodes there are |
//! | memory | `/memory@0` | the lengths in `reg` |
//! | clock | `/clock` | `compatible`; `ferry,shift` under icount |
//! | serial port's name | `/isa/serial@i3f8` | `ferry,id` |
//! | HPET | `/soc/hpet@fed00000` | by the node being there |
//! | interface of the virtio slots | `/soc` | `ferry,virtio-interface`, `legacy` or `modern`, in a `microvm` |
//! | virtio device, slot | `/soc/virtio@ADDRESS` | first string of `compatible`; the address |
//! | virtio device's name | `/soc/virtio@ADDRESS` | `ferry,id` |
//! | disk | `/soc/virtio@ADDRESS` | `ferry,sectors` (64 bits), `ferry,serial` if not empty, `ferry,read-only` |
//! | network device | `/soc/virtio@ADDRESS` | `local-mac-address` (six bytes) |
//! | entropy source | `/soc/virtio@ADDRESS` | `ferry,seed` (64 bits) if seeded |
//!
//! All the rest follows from the machine type and is checked; `tests/golden/ferry-1.dts` shows a
//! whole tree.

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
