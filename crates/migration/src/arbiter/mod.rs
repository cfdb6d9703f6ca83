//! Who keeps the record of a machine's owner, and how it is changed: by compare-and-swap only, so
//! that of two sides that both want a machine one gets it.
//!
//! - [`FileArbiter`] keeps it in a file beside the machine's first writable disk. Whoever lives and
//!   has a copy of the guest holds a lock there, so that a second start of the machine is refused.
//! - [`EtcdArbiter`] keeps it in etcd, for a fleet of hosts.
//!
//! What a record means is decided in [`handover`](crate::handover), not here.

mod etcd;
mod file;
mod lock;
mod ownership;

pub use etcd::EtcdArbiter;
pub use file::FileArbiter;
pub(crate) use ownership::Prepared;
pub use ownership::{Ownership, OwnershipError, Witness};

use crate::handover::{Record, VmId};
use crate::migratable::Cause;

/// How a compare-and-swap ended.
#[derive(Debug)]
pub enum Swap {
    /// The record is the new one.
    Swapped,
    /// Another record than the expected one is there.
    Lost(Option<Record>),
    /// Certainly nothing was changed, and nothing will be.
    Refused(Cause),
    /// It may have been changed, or may still be.
    Unknown(Cause),
}

/// The name of this host, with a part of a hash over what machine-id(5) says and something more, as
/// names are given twice easily.
pub fn host_name(more: &[u8]) -> String {
    let name = rustix::system::uname();
    let mut hash = blake3::Hasher::new();
    // Where there is none the name has to do.
    hash.update(&std::fs::read("/etc/machine-id").unwrap_or_default());
    hash.update(more);
    let hash = hash.finalize().to_hex();
    format!("{}-{}", name.nodename().to_string_lossy(), &hash.as_str()[..8])
}

/// What a process does with a copy of the guest in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It starts the machine, or has it from somebody whose record is another one: refused while
    /// anybody alive has a copy.
    Alone {
        /// The operator's word that an owner of whom the arbiter cannot tell is dead.
        by_force: bool,
    },
    /// It has received a copy, and whoever gave it has one too.
    Beside,
}

/// Keeps the record of one machine.
pub trait Arbiter: Send {
    /// The machine.
    fn vm(&self) -> VmId;

    /// The record now; `None` if there is none yet. Never older than any swap that was answered.
    ///
    /// # Errors
    /// If it cannot be read, or is no record.
    fn read(&mut self) -> Result<Option<Record>, Cause>;

    /// Puts a new record in place of the expected one, durably, if that one is there.
    fn compare_and_swap(&mut self, expected: Option<&Record>, new: &Record) -> Swap;

    /// Shows that this process lives and has a copy of the guest, until it ends or
    /// [lets go](Self::let_go). Called again, it changes how.
    ///
    /// # Errors
    /// If others have a copy and [`Hold::Alone`] is asked for, or if nobody can tell.
    fn hold(&mut self, hold: Hold, me: &crate::handover::OwnerId) -> Result<(), Cause>;

    /// This process has no copy any more.
    fn let_go(&mut self);

    /// The name of this host, the same for all processes that see each other's
    /// [holds](Self::hold) when their machines are on one host, and for no others.
    fn host(&self) -> String {
        host_name(&[])
    }

    /// A further handle on the same record, which holds nothing.
    fn another(&self) -> Box<dyn Arbiter>;

    /// Where the record is kept, for people.
    fn place(&self) -> String;
}
