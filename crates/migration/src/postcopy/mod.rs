//! Post-copy: the guest runs at the destination before all of its memory is there.
//!
//! Who may run is decided by [`handover`](crate::handover), as in every move: `Offered`, `Ready`,
//! `Grant`, `Running`. What is different is that memory may be incomplete at `Ready`. The set of
//! missing pages is part of what both sides agree on there; and a source that has given the guest
//! away serves those pages until every one of them is at the destination and acknowledged.
//!
//! ```text
//!  source                    messages                           destination
//!  ------------------------  ---------------------------------  ------------------------------
//!  paused                    Session, Set (missing) -------->   drops what it had of them
//!                            Offered, Ready, Grant, Running     runs; whoever touches a missing
//!                                                               page waits for it
//!  Sending                   <---------------------- Request    a page that is waited for
//!                            Page -------------------------->   filled, once
//!  Sent                      AllSent ----------------------->   nothing is missing
//!                            <------------------ AllReceived    Complete
//!  Done                      Released ---------------------->   Released
//! ```
//!
//! A lost link ends nothing. The guest goes on until it touches a missing page, and waits there;
//! both sides keep what they have. Over a new link:
//!
//! ```text
//!  Challenging               Recover (nonce) --------------->   still on its old link, if any
//!                            <------- Recovering (nonce, MAC)
//!  Listing                   Proof (MAC) ------------------->   lets the old link go
//!                            <---------------- Set (received)
//!  Sending                   and on as above
//! ```
//!
//! Both MACs are made with a key that only the two sides of this move have: it is derived from the
//! random number in `Session` and the digest that both agreed on. A stranger cannot take the place
//! of either, and an old link stays in use until its successor is proven.
//!
//! What the link says is never taken for what memory holds: a page is sent once on a link, filled
//! once at the destination, whatever is said twice, and never touched again once the guest has it.
//! The machines of both sides, [`SourcePages`] and [`DestinationPages`], hold no socket, clock,
//! thread or memory. `model.rs` runs them through every order of faults, pages, cuts and
//! recoveries.

mod destination;
mod key;
mod set;
mod source;

#[cfg(test)]
mod model;

pub use destination::{Candidate, DestinationPages, Fault};
pub use key::{Key, MAC_LENGTH, Mac, NONCE_LENGTH, Nonce, SESSION_LENGTH, Session};
pub use set::{SetReader, parts};
pub use source::{SourcePages, SourcePhase, Turn};

use memory::BitmapError;

/// What the source says about pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToDestination {
    /// A page follows. On the wire its content comes with it.
    Page(usize),
    /// Every page that was missing has been sent on this link or an earlier one.
    AllSent,
    /// The source needs nothing more.
    Released,
    /// The first word on a new link.
    Recover(Nonce),
    /// Shows that this is the source.
    Proof(Mac),
}

/// What the destination says about pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToSource {
    /// Somebody waits for this page.
    Request(usize),
    /// Every page that was missing is here: this many.
    AllReceived(u64),
    /// The answer to [`ToDestination::Recover`]: shows that this is the destination.
    Recovering(Nonce, Mac),
    /// The pages that came on earlier links. On the wire it comes in parts.
    Received(memory::DirtyBitmap),
}

/// The peer broke the protocol. The link ends; memory and what is known of it stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that does not belong there.
    #[error("{message} does not belong where the pages are {phase}")]
    Order {
        /// The message.
        message: &'static str,
        /// What was expected.
        phase: &'static str,
    },
    /// A page that was never missing.
    #[error("page {0} is not one of those that were missing")]
    Page(usize),
    /// A page that was here.
    #[error("page {0} came a second time")]
    Twice(usize),
    /// The peer does not have the key.
    #[error("the peer is not the other side of this move")]
    Stranger,
    /// The counts of both sides differ.
    #[error("{theirs} pages were counted by the peer, and {ours} here")]
    Count {
        /// Pages counted here.
        ours: u64,
        /// Pages counted there.
        theirs: u64,
    },
    /// A set of pages that is none.
    #[error("the peer's set of pages is wrong")]
    Set(#[from] BitmapError),
    /// A set of pages that is longer than any set of so many pages.
    #[error("the peer's set of pages is longer than {0} bytes")]
    SetLength(usize),
}
