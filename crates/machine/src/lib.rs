//! What a virtual machine is, as far as its guest can see: the typed configuration, the flattened
//! device tree that carries it in a migration stream, the versioned machine types, and the check
//! that says in sentences why a host cannot run it.
//!
//! This crate never opens a file, a socket or a device, and knows no running machine. What belongs
//! to a host (which file backs `disk0`) is described here as [`HostConfig`], but never enters the
//! tree.
//!
//! - [`MachineConfig`] and [`MachineConfig::to_fdt`] / [`MachineConfig::from_fdt`]: the machine.
//! - [`MachineFile`]: the machine as a user writes it, in TOML, with defaults.
//! - [`HostConfig`], [`HostOffer`], [`check`]: the host.
//! - [`fdt`]: the strict device-tree codec on its own.
//! - [`board`]: addresses and interrupts of the machine types.

pub mod board;
mod compatibility;
mod config;
mod error;
pub mod fdt;
mod hex;
mod host;
mod mac;
mod machine_file;
mod machine_type;
mod size;
mod tree;
mod uuid;
mod virtio_interface;

pub use compatibility::{
    AcceleratorOffer, CpuModelOffer, Difference, DiskOffer, HostOffer, NetOffer, TscOffer, check,
    check_accelerator,
};
pub use config::{
    ClockMode, CpuConfig, HOST_MODEL, MAX_CPUS, MAX_ICOUNT_SHIFT, MAX_MEMORY_BYTES,
    MAX_NAME_LENGTH, MAX_SERIAL_LENGTH, MIN_MEMORY_BYTES, MachineConfig, RngSource, VirtioDevice,
    VirtioKind,
};
pub use error::{ConfigError, MacError, MachineError, SizeError, UnknownMachineType, UuidError};
pub use host::{AcceleratorChoice, CharacterBackend, DiskBackend, HostConfig, NetBackend};
pub use mac::{format_mac, parse_mac};
pub use machine_file::{ClockFile, CpuFile, DeviceFile, FreshFacts, MachineFile};
pub use machine_type::MachineType;
pub use size::{exact_size, format_size, parse_size};
pub use uuid::{format_uuid, parse_uuid};
pub use virtio_interface::VirtioInterface;
