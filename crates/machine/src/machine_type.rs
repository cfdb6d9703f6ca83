//! Machine types: names for what never changes after a release.

use std::fmt;
use std::str::FromStr;

use crate::error::UnknownMachineType;

/// A versioned promise about everything the guest can see that its configuration does not say.
///
/// A type that has been released never changes. Whatever the guest could notice goes into the next
/// type, and a host goes on to run the older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MachineType {
    /// `ferry-1`, the first. It promises:
    ///
    /// - the memory map, ports, interrupt numbers and interrupt sense of [`crate::board`];
    /// - the fixed devices: two 8259A, an 8254 with port 0x61, an MC146818 clock, one 16550A, two
    ///   I/O APICs of 24 pins, a local APIC in each CPU, a `fw_cfg` interface with DMA, an ACPI
    ///   generic event device, an exit port;
    /// - an HPET of three timers at 100 MHz, if and only if the configuration asks for it;
    /// - local APIC ids equal to the CPU's index, from 0; CPU 0 is the boot processor; a local
    ///   APIC timer clock of 1 GHz before its divider;
    /// - 24 virtio-mmio slots (virtio 1, no legacy interface); which of them hold a device, and
    ///   that device's capacity, serial number and read-only flag, is for the configuration to say;
    /// - for each named CPU model the CPUID leaves, MSRs and features of that name;
    /// - the virtio feature bits, queue counts and queue sizes that the device models of the
    ///   release offer.
    ///
    /// It says nothing about what the guest can change: that is state, and travels as such.
    Ferry1,
    /// `microvm`, the machine of that name of QEMU 7.2 with `pit=on,pic=on,rtc=on,isa-serial=on`,
    /// as its guests see it. It is `ferry-1` but for this:
    ///
    /// - firmware lies in the last 64 KiB below 1 MiB, and again in the last below 4 GiB;
    /// - memory past 3 GiB lies above 4 GiB;
    /// - there is neither an exit port nor an HPET;
    /// - the virtio-mmio slots have the legacy interface or that of virtio 1, as the configuration
    ///   says;
    /// - virtio devices are a disk or an entropy source, with QEMU's features, configuration spaces
    ///   and sizes of queues;
    /// - the named CPU models are QEMU's own, under software emulation and with `-smp N`;
    /// - time is that of the host's clock.
    ///
    /// Firmware, and what it made in memory, come with the guest: such a machine is not started
    /// here, but received from QEMU.
    Microvm,
}

impl MachineType {
    /// Every machine type that this release can run, oldest first.
    pub const ALL: &'static [MachineType] = &[MachineType::Ferry1, MachineType::Microvm];

    /// The type that a new machine gets when its user names none.
    pub const NEWEST: MachineType = MachineType::Ferry1;

    /// The name, as it stands in configuration files and in streams.
    pub const fn name(self) -> &'static str {
        match self {
            MachineType::Ferry1 => "ferry-1",
            MachineType::Microvm => "microvm",
        }
    }

    /// Whether firmware lies in memory ([`crate::board::FIRMWARE`]).
    pub const fn has_firmware(self) -> bool {
        matches!(self, MachineType::Microvm)
    }

    /// Whether virtio devices can have the legacy interface.
    pub const fn has_legacy_virtio(self) -> bool {
        matches!(self, MachineType::Microvm)
    }

    /// Whether there is an exit port ([`crate::board::EXIT`]).
    pub const fn has_exit_port(self) -> bool {
        matches!(self, MachineType::Ferry1)
    }
}

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MachineType {
    type Err = UnknownMachineType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        MachineType::ALL
            .iter()
            .copied()
            .find(|known| known.name() == name)
            .ok_or_else(|| UnknownMachineType::new(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_type() {
        for known in MachineType::ALL {
            assert_eq!(known.name().parse::<MachineType>().as_ref(), Ok(known));
            assert_eq!(known.to_string(), known.name());
        }
    }

    #[test]
    fn an_unknown_type_is_named() {
        let error = "ferry-9".parse::<MachineType>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "machine type \"ferry-9\" is unknown here; known: ferry-1, microvm"
        );
        assert!("Ferry-1".parse::<MachineType>().is_err());
        assert!("".parse::<MachineType>().is_err());
    }
}
