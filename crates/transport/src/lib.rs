//! Byte channels and where they lead: `tcp:` and `unix:` give a two-way [`Channel`], `exec:`,
//! `file:` and `fd:` give a one-way [`Sink`] or [`Intake`]. Everything blocks, everything has a
//! time limit, and everything can be ended from another thread through its [`Control`]. This crate
//! never knows what flows: no frame, no message, no stream.
//!
//! [`tls`] makes a [`Channel`] out of the halves of another, encrypted and between two sides that
//! have shown each other certificates; nothing above can tell.

mod address;
mod channel;
mod delivered;
mod error;
mod file;
mod net;
mod oneway;
mod pipe;
mod process;
pub mod tls;

pub use address::{Address, AddressError};
pub use channel::{Channel, Control};
pub use error::TransportError;
pub use net::{Listener, connect};
pub use oneway::{Delivered, Delivery, Intake, Sink, open_intake, open_sink};
