//! What lies in memory and in the registers when a new machine starts: ACPI tables, a Linux kernel,
//! the embedded guest or a caller's own code. A machine that arrives by migration never comes through here.

mod acpi;
mod embedded;
mod linux;
mod long_mode;

use std::path::PathBuf;

use cpu::{CpuModel, CpuState};
use machine::{MachineConfig, MachineType};
use memory::{GuestRam, MemoryError};

pub use linux::LinuxError;

/// What a new machine runs.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A Linux kernel: a bzImage, or an ELF image with a PVH entry point.
    Linux {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The command line.
        command_line: String,
    },
    /// The embedded guest that checks itself.
    Embedded(Box<guest::Parameters>),
    /// Code of the caller's own, as it is to lie in memory. There are no tables, no loader and no
    /// firmware: what the code needs besides the board it brings itself.
    Flat {
        /// Bytes, each with the guest-physical address of its first one.
        segments: Vec<(u64, Vec<u8>)>,
        /// The bootstrap processor's first state; its time-stamp counter continues from here. The
        /// other processors wait for a start-up IPI.
        state: Box<CpuState>,
    },
}

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel or what belongs to it.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// A table or an image does not fit into memory.
    #[error("the boot data does not fit into memory")]
    Memory(#[from] MemoryError),
    /// A machine whose firmware is QEMU's.
    #[error("machine type {0} is not started here: it is received from QEMU")]
    NotStarted(MachineType),
    /// The embedded guest does not take these parameters.
    #[error("the embedded guest cannot run so: {0}")]
    Embedded(String),
}

/// Fills memory and returns the bootstrap processor's state.
///
/// # Errors
/// If a file cannot be read, is no kernel, or does not fit.
pub fn prepare(
    boot: &Boot,
    config: &MachineConfig,
    model: &'static CpuModel,
    ram: &GuestRam,
) -> Result<CpuState, BootError> {
    if config.machine_type.has_firmware() {
        return Err(BootError::NotStarted(config.machine_type));
    }
    match boot {
        Boot::Linux { kernel, initrd, command_line } => {
            let rsdp = acpi::write_tables(config, ram)?;
            let command_line = linux::command_line(command_line, config.cpus.tsc_khz);
            Ok(linux::load(kernel, initrd.as_deref(), &command_line, rsdp, model, ram)?)
        }
        Boot::Embedded(parameters) => embedded::load(parameters, model, ram),
        Boot::Flat { segments, state } => {
            for (address, bytes) in segments {
                ram.write(*address, bytes)?;
            }
            Ok(CpuState::clone(state))
        }
    }
}
