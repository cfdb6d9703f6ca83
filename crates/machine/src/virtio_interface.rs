//! The interfaces that virtio devices can have.

use std::fmt;

use serde::{Deserialize, Serialize};

/// By which interface a guest reaches all virtio devices of its machine, and the empty slots too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtioInterface {
    /// The one from before virtio 1 (virtio 1.2, section 4.2.4): version 1 of the MMIO transport,
    /// QEMU's `virtio-mmio.force-legacy=on`, which is its default.
    Legacy,
    /// That of virtio 1 (virtio 1.2, section 4.2.2): version 2 of the MMIO transport, QEMU's
    /// `virtio-mmio.force-legacy=off`.
    Modern,
}

impl VirtioInterface {
    /// Every interface that there is.
    pub const ALL: &'static [VirtioInterface] = &[VirtioInterface::Legacy, VirtioInterface::Modern];

    /// The name, as it stands in configuration files and in streams.
    pub const fn name(self) -> &'static str {
        match self {
            VirtioInterface::Legacy => "legacy",
            VirtioInterface::Modern => "modern",
        }
    }

    /// The interface of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        VirtioInterface::ALL.iter().copied().find(|known| known.name() == name)
    }
}

impl fmt::Display for VirtioInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_that_of_its_interface() {
        for known in VirtioInterface::ALL {
            assert_eq!(VirtioInterface::from_name(known.name()), Some(*known));
        }
        for unknown in ["", "Legacy", "legacy ", "transitional", "1"] {
            assert_eq!(VirtioInterface::from_name(unknown), None, "{unknown}");
        }
    }
}
