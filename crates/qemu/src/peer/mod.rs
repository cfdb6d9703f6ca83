//! A QEMU at the other end of a migration, as the engine sees it: what it sends becomes Ferry's
//! stream on the way in, and Ferry's stream becomes QEMU's on the way out.

mod arriving;
mod blocks;
mod leaving;

use devices::firmware::FirmwareState;
use vmstate::SavedSection;

use crate::translate::Received;

pub use arriving::{Arrival, FromQemu};
pub use leaving::{Departure, ToQemu, check};

/// Makes a machine's whole state of what came: whoever builds machines knows what else there is.
pub type Join = Box<dyn Fn(Received, FirmwareState) -> Result<Vec<SavedSection>, String> + Send>;

/// The parts of a machine's whole state that QEMU is told of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Sections of CPUs and devices.
    pub sections: Vec<SavedSection>,
    /// Its firmware's tables.
    pub firmware: FirmwareState,
    /// Virtual nanoseconds since it started.
    pub virtual_ns: u64,
    /// Whether the guest is to run on.
    pub running: bool,
}

/// Takes a machine's whole state apart.
pub type Split = Box<dyn Fn(&[SavedSection]) -> Result<Parts, String> + Send>;
