//! What tests of several crates share: a channel on which things go wrong where the test says so.
//! For tests only; nothing that is shipped depends on it.

mod channel;

pub use channel::{Faults, Side, Traffic, faulty};
