//! A machine put together: vCPUs, board and memory from a configuration, run by one thread that
//! takes the vCPUs in turn; booted, paused, saved, restored, and offered to the migration engine as
//! a source or a target. It opens what backs the devices on this host, and decides nothing that a
//! guest can see: that is the configuration's.

mod accelerator;
mod board;
mod boot;
mod clock;
mod interrupts;
mod kvm;
mod machine;
mod migrate;
mod network;
mod offer;
mod parts;
mod schemas;
mod slots;
mod soft;
mod state;
mod vm;

pub use accel_kvm::{Capabilities, Finding, Probe, Tier};
pub use accelerator::{Accelerator, Choice, ChoiceError, host_cpuid, probe_kvm};
pub use board::Request;
pub use boot::{Boot, BootError, LinuxError};
pub use machine::{BuildError, Machine, Stop};
pub use migrate::{VmSource, VmTarget};
pub use offer::host_offer;
pub use parts::{StateParts, join_state, split_state};
pub use schemas::{MachineSchemas, schemas};
pub use slots::BackendError;
pub use state::StateError;
pub use vm::{End, Endpoints, Vm, VmError, VmState, VmStatus};
