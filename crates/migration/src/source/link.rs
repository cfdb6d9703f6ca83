//! The two ways out: the envelope, where somebody answers, and the one-way pipe, where this side
//! answers for the reader by the rules of the pipe.

use crate::time::Instant;
use std::io::Write;

use memory::DirtyBitmap;

use super::envelope::EnvelopeLink;
use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};
use crate::outbound::{Outbound, SendError};
use crate::postcopy::Session;

/// What a destination that holds everything says.
pub(super) struct Answer {
    /// What it holds.
    pub(super) digest: Digest,
    /// Who it is.
    pub(super) claimant: OwnerId,
    /// Whether it reads the same record.
    pub(super) shared: bool,
}

/// A way for the state to leave.
pub(super) trait SourceLink {
    /// What the bytes are written to.
    type Output: Write + Send + 'static;

    /// Where stream bytes go.
    fn out(&mut self) -> &mut Outbound<Self::Output>;

    /// Why a send was interrupted or failed; `doing` is what was going on.
    fn explain(&mut self, error: SendError, doing: &'static str) -> Failure;

    /// Exchanges hellos.
    fn greet(&mut self) -> Result<(), Failure>;

    /// Waits until the destination has built the machine.
    fn machine_accepted(&mut self) -> Result<(), Failure>;

    /// Waits until everything sent so far is placed in the destination's memory.
    fn sync(&mut self) -> Result<(), Failure>;

    /// Says that the stream is complete and by which record the source owns the guest, and gives
    /// the destination's answer. `until`: when the pause has lasted for as long as it may.
    fn offer(
        &mut self,
        own: Digest,
        claim: Option<Record>,
        until: Option<Instant>,
    ) -> Result<Answer, Failure>;

    /// From here on nothing and nobody interrupts any more.
    fn commit(&mut self);

    /// Passes ownership on, and waits for the word that the guest runs; false if nobody can give
    /// it.
    fn grant(&mut self, digest: Digest, claimant: &OwnerId) -> Result<bool, Failure>;

    /// Says that the guest is to run without these pages, which come later.
    fn send_missing(&mut self, session: &Session, missing: &DirtyBitmap) -> Result<(), Failure>;

    /// The envelope, if this is one, for what follows after the hand-over.
    fn into_envelope(self) -> Option<EnvelopeLink>;

    /// Says that the source keeps the guest, if anybody still listens.
    fn cancel(&mut self, reason: &str);

    /// Ends the channel and its threads.
    fn finish(&mut self);
}
