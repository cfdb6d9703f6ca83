//! The configuration of a machine, which QEMU's streams do not carry: what a running QEMU says of
//! itself over its monitor, as a machine file ([`import`]); and a machine of Ferry's, as the command
//! line that makes QEMU build it ([`export`]).
//!
//! Both give either the whole machine or every reason why there is none. What QEMU says is held
//! against tables of what QEMU 7.2 builds when it is told nothing else: a property that is not in
//! them, or has another value, is a reason.

mod board;
mod cpu;
mod export;
mod import;
mod monitor;
mod qom;
mod virtio;

use std::fmt;

use thiserror::Error;

pub use export::{Exported, HostSide, QEMU, export};
pub use import::{Given, Imported, import};
pub use monitor::{Answer, Ask, Monitor, MonitorError};

/// Why a machine has no place on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is in the way: `cpu`, `memory`, the name of a device.
    pub subject: String,
    /// Why, and what would help.
    pub reason: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.subject, self.reason)
    }
}

/// Reasons, shown one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(pub Vec<Reason>);

impl Reasons {
    fn add(&mut self, subject: impl Into<String>, reason: impl Into<String>) {
        let reason = Reason { subject: subject.into(), reason: reason.into() };
        // Every CPU gives the same reasons.
        if !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|reason| write!(formatter, "\n  {reason}"))
    }
}

/// A QEMU has no machine file.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Its monitor does not answer as it should.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// Its machine is none that Ferry can take over.
    #[error("Ferry cannot take this machine over:{0}")]
    Refused(Reasons),
}

/// A machine has no QEMU command line.
#[derive(Debug, Error)]
#[error("QEMU has no such machine:{0}")]
pub struct ExportError(pub Reasons);
