//! What tests of several crates share: a channel on which things go wrong where the test says so,
//! and a real etcd to ask.
//! For tests only; nothing that is shipped depends on it.

mod channel;
mod etcd;

pub use channel::{Faults, Side, Traffic, faulty};
pub use etcd::Etcd;
