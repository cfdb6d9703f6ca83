//! How a migration ends, well or not.

use std::fmt;
use std::io;
use std::time::Duration;

use transport::TransportError;

use crate::envelope::{FrameError, HelloError};
use crate::handover::Digest;
use crate::postcopy::Violation;
use crate::{Cause, Filling, NotConverging, Refusal, RoundStats, Serving};

/// Why a migration failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operator of this side wanted it to end.
    #[error("the migration was cancelled")]
    Cancelled,
    /// The destination does not take the guest. Its own words.
    #[error("the destination refused: {0}")]
    RefusedByDestination(String),
    /// The source keeps the guest. Its own words.
    #[error("the source keeps the guest: {0}")]
    CancelledBySource(String),
    /// The destination owns the guest and could not start it. Its own words.
    #[error("the destination owns the guest and could not start it: {0}")]
    NotStarted(String),
    /// At the destination: what came does not fit.
    #[error(transparent)]
    Refused(Refusal),
    /// The two sides do not speak the same language.
    #[error(transparent)]
    Hello(HelloError),
    /// Nothing more comes from the peer, or nothing that makes sense.
    #[error("the link was lost while {doing}")]
    Link {
        /// What was going on.
        doing: &'static str,
        /// What was seen.
        source: FrameError,
    },
    /// Nothing more can be sent.
    #[error("cannot send any more while {doing}")]
    Send {
        /// What was going on.
        doing: &'static str,
        /// What the channel said.
        source: io::Error,
    },
    /// The channel could not be used at all.
    #[error("cannot use the channel")]
    Channel(#[source] io::Error),
    /// A one-way pipe failed.
    #[error(transparent)]
    Pipe(#[from] TransportError),
    /// Nobody moved.
    #[error("nothing happened for {} s while {doing}", limit.as_secs_f32())]
    TimedOut {
        /// What was going on.
        doing: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The peer said something that does not belong there.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// Something about pages that come after the hand-over.
    #[error("the peer broke the protocol of missing pages")]
    Pages(#[from] Violation),
    /// There is no link over which missing pages could be sent.
    #[error("there is no link to the destination")]
    NoLink,
    /// Memory cannot be waited for here.
    #[error("the guest cannot be received by post-copy here")]
    Userfault(#[from] memory::UserfaultError),
    /// A source that speaks another language has not given the guest away, or has not heard that
    /// it is wanted here.
    #[error("the source does not say that it has given the guest away: {0}")]
    NotGivenAway(String),
    /// The guest dirties memory faster than it can be sent.
    #[error("{0}")]
    NotConverging(NotConverging),
    /// The pause took longer than allowed.
    #[error(
        "the guest would have stood still for more than {} ms while {doing}; \
         use a larger --downtime-limit, or allow a longer pause",
        limit.as_millis()
    )]
    PauseTooLong {
        /// What was going on when the limit passed.
        doing: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The state stream is not one, or does not fit the machine.
    #[error("the state stream is wrong")]
    Stream(#[source] Cause),
    /// The stream could not be written, the machine's state being what it is.
    #[error("cannot write the state stream")]
    StreamWrite(#[source] Cause),
    /// What was received is not what was sent.
    #[error("the digest differs: {0}")]
    Digest(String),
    /// The machine did not do what it was asked for.
    #[error("cannot {doing}")]
    Machine {
        /// What it was asked for.
        doing: &'static str,
        /// What it said.
        source: Cause,
    },
    /// Ownership could not be passed on.
    #[error("{doing}")]
    Ownership {
        /// What did not happen.
        doing: &'static str,
        /// Why.
        source: Cause,
    },
}

impl Failure {
    /// The failure and its causes in one line.
    pub fn sentence(&self) -> String {
        sentence(self)
    }
}

/// An error and its causes in one line.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // A transparent error says the same as its cause.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Where the guest is after a migration that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At the source: it goes on.
    Running,
    /// At the source: it was paused before, and still is.
    PausedAsBefore,
    /// At the source: it could not be let go on, for this reason.
    NotResumed(String),
    /// At the source, paused and whole; the destination may or may not run it. Somebody who knows
    /// has to say where it belongs.
    Unconfirmed,
    /// Not at the destination: nothing is left there.
    Discarded,
    /// At the destination, owned by it, paused: it could not be started.
    Stuck,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => formatter.write_str("the guest goes on here"),
            Self::PausedAsBefore => {
                formatter.write_str("the guest is still here, paused as before")
            }
            Self::NotResumed(reason) => {
                write!(formatter, "the guest is here, paused, as it could not be resumed: {reason}")
            }
            Self::Unconfirmed => formatter.write_str(
                "the guest stays paused here, as the destination may run it: \
                 look there before you resume it here",
            ),
            Self::Discarded => formatter.write_str("nothing of the guest is left here"),
            Self::Stuck => formatter.write_str("the guest is here, paused, and owned by this side"),
        }
    }
}

/// A migration that failed: why, and where the guest is now.
#[derive(Debug, thiserror::Error)]
#[error("{}; {standing}", failure.sentence())]
pub struct MigrationError {
    /// Why it failed.
    pub failure: Failure,
    /// Where the guest is.
    pub standing: Standing,
    /// The rounds of memory that were sent.
    pub rounds: Box<[RoundStats]>,
    /// If the guest may run at the destination without all of its memory: what that would need of
    /// this side. A recovery that succeeds shows that it runs there.
    pub owed: Option<Serving>,
}

/// A guest that went away.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the call to the end.
    pub total: Duration,
    /// From the pause to the word that the guest runs at the destination (or, on a one-way pipe,
    /// that everything was delivered).
    pub downtime: Duration,
    /// Bytes of stream.
    pub bytes: u64,
    /// Every round of memory, the last one with the guest stopped.
    pub rounds: Vec<RoundStats>,
    /// Whether somebody said that it arrived. `false` only on a one-way pipe whose reader says
    /// nothing.
    pub confirmed: bool,
    /// The digest over machine, memory and sections.
    pub digest: Digest,
    /// Pages that the destination still needs of this side, to be served until they are there: its
    /// memory must be kept until then, and the guest must not run here.
    pub owed: Option<Serving>,
}

/// A guest that arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// From the call to the guest's first step.
    pub total: Duration,
    /// Bytes of stream.
    pub bytes: u64,
    /// Pages that came with their content.
    pub pages: u64,
    /// Pages that came as "all zeroes".
    pub zero_pages: u64,
    /// The digest over machine, memory and sections.
    pub digest: Digest,
    /// Pages that are still missing here, and come while the guest runs.
    pub filling: Option<Filling>,
}
