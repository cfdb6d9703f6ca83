//! The hand-over: who may run the guest, at every instant, as two pure state machines.
//!
//! [`SourceMachine`] and [`DestinationMachine`] hold no socket, clock, thread or guest. They are
//! fed events and answer with actions; the threads in `source` and `destination` (and the model
//! check in this crate's tests) do nothing on their own account. Every rule about who may run is
//! here and nowhere else.
//!
//! ```text
//!  source        guest at    source                    destination        guest at   destination
//!  state         source      sends                     sends              dest.      state
//!  ------------  ----------  ------------------------  -----------------  ---------  ------------
//!  Greeting      runs        Hello ------------------>                    -          Greeting
//!                runs        <------------------------ Hello              -
//!  Building      runs        machine section --------->                   -          Building
//!                runs        <------------------------ MachineAccepted    built
//!  Streaming     runs        pages, Sync ------------->                   filled     Loading
//!                runs        <------------------------ Synced, Progress   filled
//!  Pausing       stops
//!  Paused        paused      last pages, sections, --->                   filled
//!                paused      digest
//!  Offered       paused      Offered ----------------->                   loaded     (checking)
//!                paused      <------------------------ Ready(digest)      paused     Ready
//!  Granting      given up    (ownership is written)                       paused
//!  Granted       given up    Grant(digest) ----------->                   owned      Starting
//!                given up    <------------------------ Running            runs       Running
//!  Gone          ends
//! ```
//!
//! - Up to and including `Offered`, **the source owns the guest**. Whatever fails, it resumes (if
//!   the guest ran before), and the destination, which has not run, discards what it built. In
//!   `Streaming` and `Paused` the source may also resume and send further rounds.
//! - `Granting` is the single step: the source writes that it is no longer the owner, and only
//!   then sends `Grant`. From there **the source never resumes by itself**, whatever it hears or
//!   does not hear.
//! - The destination runs only from `Starting`, which it enters only on a `Grant` that names the
//!   digest it had answered with. Once there it does not care whether the link still holds.
//! - `Ready` gives nothing away: a destination that hears nothing after it discards.
//! - If the link fails after `Grant` was (or may have been) sent and before `Running` came, the
//!   source is [`Unconfirmed`](SourceState::Unconfirmed): paused, whole, and waiting for the word
//!   of an arbiter or of the operator. The destination then runs, or has discarded.
//!
//! A one-way pipe uses the same two machines. There the driver answers for the other side: the
//! source's own digest takes the place of `Ready`, the delivering step of the pipe (its last byte,
//! or the durable name of the file) takes the place of `Grant`; and for the reader a complete
//! stream, checked, is the grant.

mod destination;
mod source;

#[cfg(test)]
mod model;

pub use destination::{DestinationAction, DestinationEvent, DestinationMachine, DestinationState};
pub use source::{SourceAction, SourceEvent, SourceMachine, SourceState};

/// The digest over machine, memory and every section.
pub type Digest = [u8; 32];
