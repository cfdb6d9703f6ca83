//! The two ways in: the envelope, where somebody waits for answers, and the one-way pipe, where a
//! complete stream is the grant.

use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};

/// A way for the state to come.
pub(super) trait DestinationLink {
    /// Exchanges hellos.
    fn greet(&mut self) -> Result<(), Failure>;

    /// The next bytes of the stream, in place of what is in `chunk`; false at its end. `placed` is
    /// called when somebody asks whether everything so far is placed, and comes back when it is.
    fn next_chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        placed: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<bool, Failure>;

    /// Says that the machine is built.
    fn accept(&mut self) -> Result<(), Failure>;

    /// The record by which the source says that it owns the guest, once the stream is complete.
    fn claim(&self) -> Option<Record>;

    /// Says what is held, by whom, and whether this side has read the record that the source has
    /// named; waits for the grant, and gives the digest and the claimant that it names.
    fn ready(
        &mut self,
        own: Digest,
        me: &OwnerId,
        shared: bool,
    ) -> Result<(Digest, OwnerId), Failure>;

    /// Says that the guest runs here, if anybody still listens.
    fn running(&mut self, me: &OwnerId);

    /// Says that the guest is owned here and could not be started, if anybody still listens.
    fn run_failed(&mut self, reason: &str);

    /// Says that the guest is not taken, if anybody still listens.
    fn refuse(&mut self, reason: &str);

    /// Ends the channel and its threads.
    fn finish(&mut self);
}
