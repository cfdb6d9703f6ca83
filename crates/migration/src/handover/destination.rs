//! The destination's half of the hand-over.

use super::Digest;

/// Where the destination stands. The guest does not run here before [`Running`](Self::Running).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationState {
    /// Waiting for the peer's hello.
    Greeting,
    /// Waiting for the machine section, then building from it.
    Building,
    /// Memory and sections come in, up to the check of everything.
    Loading,
    /// `Ready` was sent; waiting for `Grant` with this digest.
    Ready {
        /// What this side holds.
        digest: Digest,
    },
    /// Granted; the guest is being started.
    Starting,
    /// The guest runs here.
    Running,
    /// Granted, and the guest could not be started: paused here, owned by this side.
    Stuck,
    /// Nothing is left here.
    Discarded,
}

/// What happens to the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationEvent {
    /// The hellos fit together.
    Greeted,
    /// The machine was built and fits this host.
    Built,
    /// The stream is complete, loaded and checked; this is the digest of what is held.
    Loaded(Digest),
    /// The source has given ownership up, of what has this digest.
    Grant(Digest),
    /// The guest was started.
    Started,
    /// Anything else that ends the migration: a difference, an error here, the source's word, a
    /// lost link, an expired time limit, a message that does not belong here.
    Failed(String),
}

/// What the destination is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationAction {
    /// Read the machine section and build.
    Build,
    /// Send `MachineAccepted`.
    SendMachineAccepted,
    /// Read memory and sections, and check everything.
    Load,
    /// Send `Ready`; wait for the answer.
    SendReady(Digest),
    /// Make sure of the ownership, and let the guest go on.
    Run,
    /// Send `Running`, if the source can still be told.
    SendRunning,
    /// Send `RunFailed`, if the source can still be told.
    SendRunFailed(String),
    /// Throw away what was built.
    Discard,
    /// Send `Refused`, if the source can still be told.
    SendRefused(String),
    /// The migration is over; the state says how.
    Finish,
}

/// The destination's state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationMachine {
    state: DestinationState,
}

impl Default for DestinationMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl DestinationMachine {
    /// A destination to which somebody has just connected.
    pub fn new() -> Self {
        Self { state: DestinationState::Greeting }
    }

    /// Where it stands.
    pub fn state(&self) -> &DestinationState {
        &self.state
    }

    /// True if the migration is over.
    pub fn is_over(&self) -> bool {
        matches!(
            self.state,
            DestinationState::Running | DestinationState::Stuck | DestinationState::Discarded
        )
    }

    /// True if this side may let the guest run: the grant was heard.
    pub fn owns(&self) -> bool {
        matches!(
            self.state,
            DestinationState::Starting | DestinationState::Running | DestinationState::Stuck
        )
    }

    /// Takes an event in; what comes out is to be done, in this order. If doing it is itself an
    /// event, what that gives takes the place of what was still to be done.
    pub fn step(&mut self, event: DestinationEvent) -> Vec<DestinationAction> {
        use DestinationAction as Do;
        use DestinationEvent as Event;
        use DestinationState as State;

        let (next, actions) = match (&self.state, event) {
            (State::Running | State::Stuck | State::Discarded, _) => return Vec::new(),

            (State::Greeting, Event::Greeted) => (State::Building, vec![Do::Build]),
            (State::Building, Event::Built) => {
                (State::Loading, vec![Do::SendMachineAccepted, Do::Load])
            }
            (State::Loading, Event::Loaded(digest)) => {
                (State::Ready { digest }, vec![Do::SendReady(digest)])
            }
            (State::Ready { digest }, Event::Grant(theirs)) if *digest == theirs => {
                (State::Starting, vec![Do::Run])
            }
            // A grant of something else: the source has given up, and this side cannot take it.
            // The source stays unconfirmed and whole; nothing may run here.
            (State::Ready { .. }, Event::Grant(_)) => {
                Self::fail("the grant is for a different digest".to_owned())
            }

            (State::Starting, Event::Started) => {
                (State::Running, vec![Do::SendRunning, Do::Finish])
            }
            (State::Starting, Event::Failed(reason)) => {
                (State::Stuck, vec![Do::SendRunFailed(reason), Do::Finish])
            }
            // The link has nothing more to say to an owner.
            (State::Starting, _) => return Vec::new(),

            (_, Event::Failed(reason)) => Self::fail(reason),
            (state, event) => Self::fail(format!("{event:?} does not belong into state {state:?}")),
        };
        self.state = next;
        actions
    }

    fn fail(reason: String) -> (DestinationState, Vec<DestinationAction>) {
        let actions = vec![
            DestinationAction::Discard,
            DestinationAction::SendRefused(reason),
            DestinationAction::Finish,
        ];
        (DestinationState::Discarded, actions)
    }
}
