//! Moves a running machine to another process, or to a pipe. It holds the rounds of pre-copy, the
//! envelope between two Ferry processes, and the hand-over as two pure state machines, with the
//! threads that drive them. It moves anything that implements [`MigrationSource`] and
//! [`MigrationTarget`]; it never knows a device, an accelerator or a kind of guest, never opens a
//! socket by itself, and never decides by a silence that a guest may run.
//!
//! Start with [`handover`], which says for every message who may run. `docs/migration.md` has the
//! protocol in prose.

pub mod arbiter;
mod bandwidth;
mod cancel;
mod convergence;
mod destination;
mod digest;
pub mod envelope;
mod error;
mod foreign;
pub mod handover;
mod migratable;
mod observer;
mod outbound;
mod peer;
pub mod postcopy;
mod pulse;
mod queue;
mod random;
mod settings;
#[cfg(test)]
mod sim;
mod source;
mod state_writer;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
mod time;

#[cfg(test)]
extern crate self as migration;

pub use arbiter::{Ownership, Witness};
pub use cancel::Cancel;
pub use convergence::{NotConverging, RoundStats};
pub use destination::{Filling, ForeignWay, receive, receive_foreign, restore_from};
pub use error::{Failure, MigrationError, Outcome, Received, Standing};
pub use foreign::{Callers, ForeignSource, Piece};
pub use migratable::{Cause, MigrationSource, MigrationTarget, Refusal, SharedSchemas};
pub use observer::{Observer, Phase, Progress, Silent};
pub use settings::{PostCopy, Settings, Verify};
pub use source::{Served, Serving, Settled, Word, migrate, save_to, settle};
pub use state_writer::StateWriter;
