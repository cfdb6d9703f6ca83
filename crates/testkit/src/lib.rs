//! What tests of several crates share: a channel on which things go wrong where the test says so,
//! a real etcd to ask, and a real QEMU to move guests from and to.
//! For tests only; nothing that is shipped depends on it.

mod channel;
mod etcd;
pub mod qemu;

pub use channel::{Faults, Side, Traffic, faulty};
pub use etcd::Etcd;
