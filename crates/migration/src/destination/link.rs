//! The ways in: the envelope, where somebody waits for answers; the one-way pipe, where a complete
//! stream is the grant; and the way from another monitor.

use memory::{DirtyBitmap, GuestRam};

use super::envelope::EnvelopeLink;
use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};
use crate::postcopy::Session;

/// A way for the state to come. What a method does by itself is right for a way on which nobody
/// listens for Ferry's answers.
pub(super) trait DestinationLink {
    /// Exchanges hellos.
    fn greet(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// The next bytes of the stream, in place of what is in `chunk`; false at its end. `placed` is
    /// called when somebody asks whether everything so far is placed, and comes back when it is.
    fn next_chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        placed: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<bool, Failure>;

    /// Says that the machine is built.
    fn accept(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// The record by which the source says that it owns the guest, once the stream is complete.
    fn claim(&self) -> Option<Record> {
        None
    }

    /// Says what is held, by whom, and whether this side has read the record that the source has
    /// named; waits for the grant, and gives the digest and the claimant that it names.
    fn ready(
        &mut self,
        own: Digest,
        me: &OwnerId,
        shared: bool,
    ) -> Result<(Digest, OwnerId), Failure>;

    /// True if the source may let the guest run before all of its memory is here.
    fn post_copy(&self) -> bool {
        false
    }

    /// The machine is built and has this memory.
    fn set_memory(&mut self, _ram: &GuestRam) {}

    /// The pages without which the guest is to run, once the stream is complete.
    fn take_missing(&mut self) -> Result<Option<(Session, DirtyBitmap)>, Failure> {
        Ok(None)
    }

    /// The link is needed after the guest runs.
    fn stay(&mut self) {}

    /// The envelope, if this is one, for what follows after the hand-over.
    fn into_envelope(self) -> Option<EnvelopeLink>
    where
        Self: Sized,
    {
        None
    }

    /// Says that the guest runs here, if anybody still listens.
    fn running(&mut self, _me: &OwnerId) {}

    /// Says that the guest is owned here and could not be started, if anybody still listens.
    fn run_failed(&mut self, _reason: &str) {}

    /// Says that the guest is not taken, if anybody still listens.
    fn refuse(&mut self, _reason: &str) {}

    /// Ends the channel and its threads.
    fn finish(&mut self);
}
