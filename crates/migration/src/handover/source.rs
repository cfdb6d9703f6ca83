//! The source's half of the hand-over.

use super::Digest;

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
    /// Ownership is being written.
    Granting {
        /// What both sides hold.
        digest: Digest,
    },
    /// `Grant` was sent; waiting for `Running`.
    Granted,
    /// The guest runs at the destination.
    Gone,
    /// The source still owns the guest; the migration is over.
    Kept,
    /// The grant was or may have been given, and nobody said that the guest runs: it stays paused
    /// here until somebody who knows says where it belongs.
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
    /// The destination holds this.
    Ready(Digest),
    /// Ownership was written away.
    GivenUp,
    /// It is not known whether ownership was written away.
    GiveUpUnknown(String),
    /// The destination runs the guest.
    Running,
    /// The destination owns the guest and could not start it.
    RunFailed(String),
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
    /// Write ownership away.
    GiveUp,
    /// Send `Grant`; wait for the answer.
    SendGrant(Digest),
    /// Tell the destination that the source keeps the guest, if it can still be told.
    SendCancel(String),
    /// The migration is over; the state says how.
    Finish,
}

/// The source's state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceMachine {
    state: SourceState,
}

impl Default for SourceMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceMachine {
    /// A source that has just connected and sent its hello.
    pub fn new() -> Self {
        Self { state: SourceState::Greeting }
    }

    /// Where it stands.
    pub fn state(&self) -> &SourceState {
        &self.state
    }

    /// True if the migration is over.
    pub fn is_over(&self) -> bool {
        matches!(self.state, SourceState::Gone | SourceState::Kept | SourceState::Unconfirmed)
    }

    /// True if this side may let the guest run: nothing was given up.
    pub fn owns(&self) -> bool {
        !matches!(
            self.state,
            SourceState::Granting { .. }
                | SourceState::Granted
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

        let (next, actions) = match (&self.state, event) {
            (State::Gone | State::Kept | State::Unconfirmed, _) => return Vec::new(),

            (State::Greeting, Event::Greeted) => (State::Building, vec![Do::SendMachine]),
            (State::Building, Event::MachineAccepted) => (State::Streaming, vec![Do::Stream]),
            (State::Streaming, Event::Converged) => (State::Pausing, vec![Do::Pause]),
            (State::Pausing, Event::Paused) => (State::Paused, vec![Do::SendRest]),
            (State::Paused, Event::PulledBack) => (State::Streaming, vec![Do::Resume, Do::Stream]),
            (State::Paused, Event::Complete(digest)) => {
                (State::Offered { digest }, vec![Do::SendOffered])
            }
            (State::Offered { digest }, Event::Ready(theirs)) if *digest == theirs => {
                (State::Granting { digest: theirs }, vec![Do::GiveUp])
            }
            (State::Offered { .. }, Event::Ready(_)) => {
                self.fail("the destination holds a different digest".to_owned())
            }

            (State::Granting { digest }, Event::GivenUp) => {
                (State::Granted, vec![Do::SendGrant(*digest)])
            }
            (State::Granting { .. }, Event::GiveUpUnknown(_)) => {
                (State::Unconfirmed, vec![Do::Finish])
            }
            // The record was certainly not written: still the owner.
            (State::Granting { .. }, Event::Failed(reason)) => self.fail(reason),

            (State::Granted, Event::Running) => (State::Gone, vec![Do::Finish]),
            // Whatever else is heard, or not heard, after the grant: never by itself.
            (State::Granted, _) => (State::Unconfirmed, vec![Do::Finish]),

            (_, Event::Failed(reason) | Event::GiveUpUnknown(reason)) => self.fail(reason),
            (state, event) => {
                let reason = format!("{event:?} does not belong into state {state:?}");
                self.fail(reason)
            }
        };
        self.state = next;
        actions
    }

    /// The way back, open as long as nothing was given up.
    fn fail(&self, reason: String) -> (SourceState, Vec<SourceAction>) {
        let stopped = matches!(
            self.state,
            SourceState::Pausing
                | SourceState::Paused
                | SourceState::Offered { .. }
                | SourceState::Granting { .. }
        );
        let mut actions = Vec::new();
        if stopped {
            // First of all: each moment of it is one in which the guest stands still.
            actions.push(SourceAction::Resume);
        }
        actions.extend([SourceAction::SendCancel(reason), SourceAction::Finish]);
        (SourceState::Kept, actions)
    }
}
