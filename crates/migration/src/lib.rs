//! Moves a running machine to another process, or to a pipe. It holds the rounds of pre-copy, the
//! envelope between two Ferry processes, and the hand-over as two pure state machines, with the
//! threads that drive them. It moves anything that implements [`MigrationSource`] and
//! [`MigrationTarget`]; it never knows a device, an accelerator or a kind of guest, never opens a
//! socket by itself, and never decides by a silence that a guest may run.

mod migratable;

pub use migratable::{
    Cause, GiveUpError, MigrationSource, MigrationTarget, NoArbiter, Ownership, Refusal, SharedSchemas,
};
