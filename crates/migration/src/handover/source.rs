//! The source's half of the hand-over.

use super::Digest;
use super::record::{OwnerId, Record};
use super::rules::{Dispute, Verdict};

/// Where the source stands. The guest runs here in the first three states (if it ran before), and
/// can run nowhere else before [`Granting`](Self::Granting).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceState {
    /// Waiting for the peer's hello.
    Greeting,
    /// The machine section was sent; waiting for `MachineAccepted`.
    Building,
    /// Rounds of memory.
    Streaming,
    /// The guest is being stopped.
    Pausing,
    /// The guest is stopped; the rest of the stream is being sent.
    Paused,
    /// Everything was sent; waiting for `Ready` with this digest.
    Offered {
        /// What the source holds.
        digest: Digest,
    },
    /// The disks are brought to rest and let go of.
    Releasing {
        /// What both sides hold.
        digest: Digest,
        /// Who is to have the guest.
        claimant: OwnerId,
        /// Whether it reads the same record.
        shared: bool,
    },
    /// The grant is being written into the record.
    Granting {
        /// What both sides hold.
        digest: Digest,
        /// Who is to have the guest.
        claimant: OwnerId,
        /// Whether it reads the same record.
        shared: bool,
    },
    /// `Grant` was sent; waiting for `Running`.
    Granted {
        /// Who is to have the guest.
        claimant: OwnerId,
        /// Whether it reads the same record.
        shared: bool,
    },
    /// Something came in between: the record is asked who owns the guest.
    Deciding,
    /// The guest is the destination's.
    Gone,
    /// The source still owns the guest; the migration is over.
    Kept,
    /// The grant was or may have been given, and nobody could say what came of it: the guest stays
    /// paused here until the record can be read, or the operator says where it belongs.
    Unconfirmed,
}

/// What happens to the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// The hellos fit together.
    Greeted,
    /// The destination built the machine.
    MachineAccepted,
    /// What is left is small enough to be sent while the guest is stopped.
    Converged,
    /// The guest is stopped.
    Paused,
    /// What was left turned out to be too much: the guest shall go on for further rounds.
    PulledBack,
    /// The stream is complete; this is its digest.
    Complete(Digest),
    /// The destination holds all of it.
    Ready {
        /// What it holds.
        digest: Digest,
        /// Who it is.
        claimant: OwnerId,
        /// Whether it has read the record that this side has named.
        shared: bool,
    },
    /// The disks are at rest, and let go of.
    Released,
    /// The record was swapped.
    Swapped,
    /// It was not: another one is there.
    SwapLost,
    /// It was certainly not swapped.
    NotSwapped(String),
    /// It may or may not have been swapped, or may still be.
    SwapUnknown(String),
    /// What the record says.
    Found(Option<Record>),
    /// The record cannot be read now.
    Unreadable(String),
    /// Some time has passed.
    Waited,
    /// The destination runs the guest.
    Running(OwnerId),
    /// The destination owns the guest and could not start it.
    RunFailed(String),
    /// The operator's word on a grant that nobody could confirm: run it here.
    RunHere,
    /// The operator's word on a grant that nobody could confirm: it runs elsewhere.
    RunsElsewhere,
    /// Anything else that ends the migration: an error here, a refusal, a lost link, an expired
    /// time limit, a wish to cancel, a message that does not belong here.
    Failed(String),
}

/// What the source is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Send the machine section; wait for the answer.
    SendMachine,
    /// Send rounds of memory until they converge.
    Stream,
    /// Stop the guest.
    Pause,
    /// Let the guest go on (if it ran before).
    Resume,
    /// Send the last pages, the sections and the digest.
    SendRest,
    /// Send `Offered`; wait for the answer.
    SendOffered,
    /// Make all writes to the disks durable and let go of them.
    Release,
    /// Take the disks again.
    Retake,
    /// Swap the record.
    Swap {
        /// What must be there.
        expected: Option<Record>,
        /// What is to be there.
        new: Record,
    },
    /// Read the record.
    Read,
    /// Wait a moment before the next look at the record.
    Wait,
    /// Send `Grant`; wait for the answer.
    SendGrant {
        /// What both sides hold.
        digest: Digest,
        /// Who has the guest now.
        claimant: OwnerId,
    },
    /// Tell the destination that the source keeps the guest, if it can still be told.
    SendCancel(String),
    /// The migration is over; the state says how.
    Finish,
}

/// The source's state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceMachine {
    state: SourceState,
    /// The record by which this side owns the machine, if one is kept.
    owned: Option<Record>,
    /// Since the grant is being written: what the record is to be judged by.
    dispute: Option<Dispute>,
}

impl SourceMachine {
    /// A source that has just connected and sent its hello. `owned` is the record by which it owns
    /// the machine; `None` if there is no arbiter.
    pub fn new(owned: Option<Record>) -> Self {
        Self { state: SourceState::Greeting, owned, dispute: None }
    }

    /// Where it stands.
    pub fn state(&self) -> &SourceState {
        &self.state
    }

    /// The record by which this side owns the machine, as far as it knows.
    pub fn owned(&self) -> Option<&Record> {
        self.owned.as_ref()
    }

    /// True if the migration is over. (An unconfirmed one may still be decided.)
    pub fn is_over(&self) -> bool {
        matches!(self.state, SourceState::Gone | SourceState::Kept | SourceState::Unconfirmed)
    }

    /// True if the record can still decide what became of a grant.
    pub fn is_in_dispute(&self) -> bool {
        self.state == SourceState::Unconfirmed && self.dispute.is_some()
    }

    /// True if this side may let the guest run: nothing was given up.
    pub fn owns(&self) -> bool {
        !matches!(
            self.state,
            SourceState::Granting { .. }
                | SourceState::Granted { .. }
                | SourceState::Deciding
                | SourceState::Gone
                | SourceState::Unconfirmed
        )
    }

    /// Takes an event in; what comes out is to be done, in this order. If doing it is itself an
    /// event, what that gives takes the place of what was still to be done.
    pub fn step(&mut self, event: SourceEvent) -> Vec<SourceAction> {
        use SourceAction as Do;
        use SourceEvent as Event;
        use SourceState as State;

        let (next, actions) = match (self.state.clone(), event) {
            (State::Gone | State::Kept, _) => return Vec::new(),
            (State::Unconfirmed, event) => return self.step_unconfirmed(&event),
            (State::Deciding, event) => return self.step_deciding(event),

            (State::Greeting, Event::Greeted) => (State::Building, vec![Do::SendMachine]),
            (State::Building, Event::MachineAccepted) => (State::Streaming, vec![Do::Stream]),
            (State::Streaming, Event::Converged) => (State::Pausing, vec![Do::Pause]),
            (State::Pausing, Event::Paused) => (State::Paused, vec![Do::SendRest]),
            (State::Paused, Event::PulledBack) => (State::Streaming, vec![Do::Resume, Do::Stream]),
            (State::Paused, Event::Complete(digest)) => {
                (State::Offered { digest }, vec![Do::SendOffered])
            }
            (State::Offered { digest }, Event::Ready { digest: theirs, claimant, shared })
                if digest == theirs =>
            {
                // Nobody can have read a record that is not kept.
                let shared = shared && self.owned.is_some();
                (State::Releasing { digest, claimant, shared }, vec![Do::Release])
            }
            (State::Offered { .. }, Event::Ready { .. }) => {
                self.fail("the destination holds a different digest".to_owned())
            }

            (State::Releasing { digest, claimant, shared }, Event::Released) => match &self.owned {
                None => {
                    let grant = Do::SendGrant { digest, claimant: claimant.clone() };
                    (State::Granted { claimant, shared: false }, vec![grant])
                }
                Some(owned) => {
                    let dispute = Dispute::new(owned, &claimant, shared);
                    let (expected, new) = (Some(owned.clone()), dispute.granted().clone());
                    self.dispute = Some(dispute);
                    let swap = Do::Swap { expected, new };
                    (State::Granting { digest, claimant, shared }, vec![swap])
                }
            },

            (State::Granting { digest, claimant, shared }, Event::Swapped) => {
                if !shared {
                    // From here on the record says nothing of what the destination does.
                    self.dispute = None;
                }
                let grant = Do::SendGrant { digest, claimant: claimant.clone() };
                (State::Granted { claimant, shared }, vec![grant])
            }
            // Still the owner, for certain.
            (State::Granting { .. }, Event::NotSwapped(reason)) => {
                self.dispute = None;
                self.fail(reason)
            }
            // Nothing was sent yet, but the record may have been changed, or may still be.
            (State::Granting { .. }, _) => (State::Deciding, vec![Do::Read]),

            (State::Granted { claimant, .. }, Event::Running(who)) if claimant == who => {
                (State::Gone, vec![Do::Finish])
            }
            // It holds the guest and will say so to whoever asks there; so does this side.
            (State::Granted { .. }, Event::RunFailed(_)) => (State::Unconfirmed, vec![Do::Finish]),
            // Whatever else is heard, or not heard: never by itself. The record decides.
            (State::Granted { shared: true, .. }, _) => (State::Deciding, vec![Do::Read]),
            (State::Granted { shared: false, .. }, _) => (State::Unconfirmed, vec![Do::Finish]),

            (_, Event::Failed(reason)) => self.fail(reason),
            (state, event) => self.fail(format!("{event:?} does not belong into state {state:?}")),
        };
        self.state = next;
        actions
    }

    fn step_deciding(&mut self, event: SourceEvent) -> Vec<SourceAction> {
        use SourceAction as Do;
        use SourceEvent as Event;
        use SourceState as State;

        let dispute = self.dispute.as_ref().expect("nothing is decided without a dispute");
        let (next, actions) = match event {
            Event::Found(found) => match dispute.verdict(found.as_ref()) {
                Verdict::Mine => {
                    self.owned = found;
                    self.keep()
                }
                Verdict::Theirs => (State::Gone, vec![Do::Finish]),
                Verdict::Swap { expected, new } => {
                    // If it is won, this is the record by which this side owns the machine.
                    self.owned = Some(new.clone());
                    (State::Deciding, vec![Do::Swap { expected, new }])
                }
                Verdict::Unclear(_) => (State::Unconfirmed, vec![Do::Finish]),
            },
            Event::Swapped => self.keep(),
            Event::SwapLost | Event::Waited => (State::Deciding, vec![Do::Read]),
            Event::NotSwapped(_) | Event::SwapUnknown(_) | Event::Unreadable(_) => {
                (State::Deciding, vec![Do::Wait])
            }
            // Nobody wants to wait any longer.
            _ => (State::Unconfirmed, vec![Do::Finish]),
        };
        self.state = next;
        actions
    }

    fn step_unconfirmed(&mut self, event: &SourceEvent) -> Vec<SourceAction> {
        match event {
            SourceEvent::Waited if self.dispute.is_some() => {
                self.state = SourceState::Deciding;
                vec![SourceAction::Read]
            }
            SourceEvent::RunHere => {
                self.state = SourceState::Kept;
                vec![SourceAction::Retake, SourceAction::Resume, SourceAction::Finish]
            }
            SourceEvent::RunsElsewhere => {
                self.state = SourceState::Gone;
                vec![SourceAction::Finish]
            }
            _ => Vec::new(),
        }
    }

    /// The record says that the guest is this side's.
    fn keep(&mut self) -> (SourceState, Vec<SourceAction>) {
        self.dispute = None;
        let reason = "the ownership record leaves the guest with the source".to_owned();
        let actions = vec![
            SourceAction::Retake,
            SourceAction::Resume,
            SourceAction::SendCancel(reason),
            SourceAction::Finish,
        ];
        (SourceState::Kept, actions)
    }

    /// The way back, open as long as nothing was given up.
    fn fail(&self, reason: String) -> (SourceState, Vec<SourceAction>) {
        let released =
            matches!(self.state, SourceState::Releasing { .. } | SourceState::Granting { .. });
        let stopped = matches!(
            self.state,
            SourceState::Pausing | SourceState::Paused | SourceState::Offered { .. }
        );
        let mut actions = Vec::new();
        if released {
            actions.push(SourceAction::Retake);
        }
        if stopped || released {
            // First of all: each moment of it is one in which the guest stands still.
            actions.push(SourceAction::Resume);
        }
        actions.extend([SourceAction::SendCancel(reason), SourceAction::Finish]);
        (SourceState::Kept, actions)
    }
}
