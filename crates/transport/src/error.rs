//! What can go wrong with a channel, and to which end.

use std::io;
use std::time::Duration;

use crate::Address;

/// A channel could not be had or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The operating system said no.
    #[error("{doing} {address}")]
    Io {
        /// What was being done, such as `cannot connect to`.
        doing: &'static str,
        /// To what.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// A host name that leads nowhere.
    #[error("{0} has no address")]
    NoAddress(Address),
    /// Nobody came, or nobody answered.
    #[error("{doing} {address}: nothing happened for {} s", limit.as_secs_f32())]
    TimedOut {
        /// What was being done.
        doing: &'static str,
        /// To what.
        address: Address,
        /// How long was waited.
        limit: Duration,
    },
    /// The peer was not let in, or did not let this side in. Nothing but the handshake was said.
    #[error("no secure channel with {peer}: {why}")]
    NotSecured {
        /// Who the peer is, as far as it is known.
        peer: String,
        /// What was wrong, as a sentence.
        why: String,
    },
    /// Whoever is at the other end did not do its part.
    #[error("{peer}: {why}")]
    Peer {
        /// Who that is.
        peer: String,
        /// What was wrong, as a sentence.
        why: String,
    },
    /// Somebody asked for the wait to end.
    #[error("the wait at {0} was ended")]
    Stopped(Address),
    /// A two-way channel was asked of a one-way address, or the other way round.
    #[error("{address} is {is}, and {wanted} is needed")]
    WrongKind {
        /// The address.
        address: Address,
        /// What it is.
        is: &'static str,
        /// What was needed.
        wanted: &'static str,
    },
    /// The command of an `exec:` address failed.
    #[error("the command of {address} {how}")]
    Command {
        /// The address.
        address: Address,
        /// How it ended, such as `ended with exit status 1`.
        how: String,
    },
}

impl TransportError {
    /// An error of the operating system while `doing` something with `address`.
    pub(crate) fn io(doing: &'static str, address: &Address) -> impl FnOnce(io::Error) -> Self {
        let address = address.clone();
        move |source| Self::Io { doing, address, source }
    }
}
