//! Machines that come from other monitors, which speak languages of their own. Whoever knows such
//! a language implements [`ForeignSource`]: a state machine without I/O that is given the bytes of
//! the other side and makes Ferry's stream of them. The engine reads the channels, builds, loads
//! and checks as it does with every stream, and asks at the end for the guest.
//!
//! ```text
//! the other side        engine                               ForeignSource
//! --------------------  -----------------------------------  ------------------------------------
//! bytes ------------->  heard(channel, bytes) ------------>  keeps them
//!                       next(ram) ------------------------>  a piece of Ferry's stream, or "more"
//!                       places the piece in memory
//! <-------------------  what replies() gives <-------------
//!                       everything is loaded and checked
//!                       accept() ------------------------->  the answer that ends the other side's
//! <-------------------  what replies() gives <-------------  part, if its language has one
//! end of the channel -> ended(0) ------------------------->  is_released()
//!                       runs the guest
//! ```
//!
//! The guest runs here only once `is_released` holds: the other side can no longer take it back by
//! itself. Before that any failure discards what is here, and ends the channel.

use std::sync::atomic::AtomicBool;

use memory::GuestRam;
use transport::Channel;

use crate::migratable::Cause;

/// What a look for the next piece of the stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next piece is there.
    Made,
    /// More bytes of the other side are needed first.
    Wanting,
    /// The stream is complete.
    Over,
}

/// A source that speaks another language. Channels are numbered in the order in which they came; 0
/// is the one on which the migration begins.
pub trait ForeignSource: Send {
    /// Whether more of a channel can be taken now. One that is not wanted waits, and so in the end
    /// does who writes to it.
    fn wants(&self, channel: usize) -> bool;

    /// Takes bytes of a channel.
    fn heard(&mut self, channel: usize, bytes: &[u8]);

    /// A channel was ended, in order, by the other side.
    fn ended(&mut self, channel: usize);

    /// Puts the next piece of Ferry's stream into `into`, which is empty. It holds whole records,
    /// and whoever calls again has placed them: `ram`, given once the machine is built, holds
    /// everything that came before.
    ///
    /// # Errors
    /// If what was heard is not what may come, or is not to be had here.
    fn next(&mut self, ram: Option<&GuestRam>, into: &mut Vec<u8>) -> Result<Piece, Cause>;

    /// What is to be said on channel 0 now, if anything.
    fn replies(&mut self) -> Vec<u8>;

    /// Everything is loaded and right: the guest is wanted here.
    ///
    /// # Errors
    /// If the other side has left already, and so has kept the guest.
    fn accept(&mut self) -> Result<(), Cause>;

    /// Whether the other side has given the guest away.
    fn is_released(&self) -> bool;

    /// The guest is not taken.
    fn refuse(&mut self);
}

/// Waits for a further channel of the other side, until it is told to stop.
pub type Callers = Box<dyn FnMut(&AtomicBool) -> Result<Channel, Cause> + Send>;
