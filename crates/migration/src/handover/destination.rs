//! The destination's half of the hand-over.

use super::Digest;
use super::record::{OwnerId, Record, VmId};
use super::rules::{Taking, Verdict};

/// Where the destination stands. The guest does not run here before [`Running`](Self::Running).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationState {
    /// Waiting for the peer's hello.
    Greeting,
    /// Waiting for the machine section, then building from it.
    Building,
    /// Memory and sections come in, up to the check of everything.
    Loading,
    /// This side's own arbiter is asked what it knows of the machine.
    Preparing {
        /// What this side holds.
        digest: Digest,
        /// The record by which the source owns the machine.
        claim: Option<Record>,
    },
    /// `Ready` was sent; waiting for `Grant` with this digest.
    Ready {
        /// What this side holds.
        digest: Digest,
    },
    /// Nothing is heard of the source: the record is asked whether it has granted.
    Asking {
        /// Why nothing is heard.
        reason: String,
    },
    /// Granted; the record is being swapped.
    Claiming {
        /// A swap was tried whose answer is not known.
        tried: bool,
    },
    /// This side owns the guest, which is being started: only now are the disks taken.
    Starting,
    /// The guest runs here.
    Running,
    /// Owned by this side, and the guest could not be started: paused here.
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
    /// The stream is complete, loaded and checked.
    Loaded {
        /// The digest of what is held.
        digest: Digest,
        /// The record by which the source says that it owns the machine, if it keeps one.
        claim: Option<Record>,
    },
    /// This side's own arbiter knows this of the machine, and nobody here has a copy of it.
    Prepared {
        /// The machine.
        vm: VmId,
        /// Its record here.
        found: Option<Record>,
    },
    /// The source has given ownership up, to this claimant, of what has this digest.
    Grant {
        /// What the source holds.
        digest: Digest,
        /// Who is to have it.
        claimant: OwnerId,
    },
    /// The source has said that it keeps the guest.
    Cancelled(String),
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
    /// The guest was started.
    Started,
    /// Anything else that ends the migration: a difference, an error here, a lost link, an expired
    /// time limit, the operator's wish, a message that does not belong here.
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
    /// Ask this side's own arbiter about the machine, and make sure that no other process that
    /// the arbiter knows of has a copy of it, other than the source with this claim.
    Prepare(Option<Record>),
    /// Send `Ready`; wait for the answer.
    SendReady {
        /// What is held.
        digest: Digest,
        /// Who holds it.
        claimant: OwnerId,
        /// The record is the one that the source has named.
        shared: bool,
    },
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
    /// Take the disks, and let the guest go on.
    Run,
    /// Send `Running`, if the source can still be told.
    SendRunning(OwnerId),
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
    me: OwnerId,
    /// This side has an arbiter to ask.
    arbiter: bool,
    taking: Option<Taking>,
}

impl DestinationMachine {
    /// A destination to which somebody has just connected. `me` is new for every connection;
    /// `arbiter`: whether this side keeps records.
    pub fn new(me: OwnerId, arbiter: bool) -> Self {
        Self { state: DestinationState::Greeting, me, arbiter, taking: None }
    }

    /// Where it stands.
    pub fn state(&self) -> &DestinationState {
        &self.state
    }

    /// Who it is.
    pub fn me(&self) -> &OwnerId {
        &self.me
    }

    /// The record by which this side owns the machine, once it does and if one is kept.
    pub fn owned(&self) -> Option<&Record> {
        self.taking.as_ref().filter(|_| self.owns()).map(Taking::taken)
    }

    /// True if the migration is over.
    pub fn is_over(&self) -> bool {
        matches!(
            self.state,
            DestinationState::Running | DestinationState::Stuck | DestinationState::Discarded
        )
    }

    /// True if this side may let the guest run.
    pub fn owns(&self) -> bool {
        matches!(
            self.state,
            DestinationState::Starting | DestinationState::Running | DestinationState::Stuck
        )
    }

    /// True if what is held can be thrown away at the operator's word.
    pub fn can_be_cancelled(&self) -> bool {
        !self.owns() && !matches!(self.state, DestinationState::Claiming { .. })
    }

    fn is_shared(&self) -> bool {
        self.taking.as_ref().is_some_and(Taking::is_shared)
    }

    /// Takes an event in; what comes out is to be done, in this order. If doing it is itself an
    /// event, what that gives takes the place of what was still to be done.
    pub fn step(&mut self, event: DestinationEvent) -> Vec<DestinationAction> {
        use DestinationAction as Do;
        use DestinationEvent as Event;
        use DestinationState as State;

        let (next, actions) = match (self.state.clone(), event) {
            (State::Running | State::Stuck | State::Discarded, _) => return Vec::new(),

            (State::Greeting, Event::Greeted) => (State::Building, vec![Do::Build]),
            (State::Building, Event::Built) => {
                (State::Loading, vec![Do::SendMachineAccepted, Do::Load])
            }
            (State::Loading, Event::Loaded { digest, claim }) if self.arbiter => {
                let prepare = Do::Prepare(claim.clone());
                (State::Preparing { digest, claim }, vec![prepare])
            }
            (State::Loading, Event::Loaded { digest, claim: _ }) => self.ready(digest),
            (State::Preparing { digest, claim }, Event::Prepared { vm, found }) => {
                self.taking = Some(Taking::new(&self.me, vm, claim.as_ref(), found));
                self.ready(digest)
            }

            (State::Ready { digest }, Event::Grant { digest: theirs, claimant })
                if digest == theirs && claimant == self.me =>
            {
                self.take()
            }
            // The source owns the guest, and says so.
            (State::Ready { .. }, Event::Cancelled(reason)) => Self::discard(reason),
            // Silence says nothing of who owns the guest; the record does.
            (State::Ready { .. }, event) if self.is_shared() => {
                let reason = match event {
                    Event::Failed(reason) => reason,
                    event => format!("{event:?} came in place of the grant"),
                };
                (State::Asking { reason }, vec![Do::Read])
            }
            (State::Ready { .. }, Event::Grant { .. }) => {
                Self::discard("the grant is for somebody or something else".to_owned())
            }

            (State::Asking { reason }, Event::Found(found)) => match self.verdict(found.as_ref()) {
                Verdict::Swap { .. } => self.take(),
                _ => Self::discard(reason),
            },
            (State::Asking { reason }, Event::Unreadable(_)) => {
                (State::Asking { reason }, vec![Do::Wait])
            }
            (State::Asking { reason }, Event::Waited) => (State::Asking { reason }, vec![Do::Read]),

            (State::Claiming { .. }, Event::Swapped) => (State::Starting, vec![Do::Run]),
            (State::Claiming { tried: false }, Event::NotSwapped(reason)) => self.not_taken(reason),
            // A swap whose answer was lost may have been carried out: this side may own the guest.
            (State::Claiming { tried }, Event::NotSwapped(_) | Event::Unreadable(_)) => {
                (State::Claiming { tried }, vec![Do::Wait])
            }
            (State::Claiming { .. }, Event::SwapUnknown(_)) => {
                (State::Claiming { tried: true }, vec![Do::Wait])
            }
            (State::Claiming { tried }, Event::SwapLost | Event::Waited) => {
                (State::Claiming { tried }, vec![Do::Read])
            }
            (State::Claiming { tried }, Event::Found(found)) => {
                match self.verdict(found.as_ref()) {
                    Verdict::Mine => (State::Starting, vec![Do::Run]),
                    Verdict::Swap { expected, new } => {
                        (State::Claiming { tried }, vec![Do::Swap { expected, new }])
                    }
                    _ => {
                        let now = found.map_or("gone".to_owned(), |found| found.to_string());
                        self.not_taken(format!("the ownership record is {now}"))
                    }
                }
            }

            (State::Starting, Event::Started) => {
                (State::Running, vec![Do::SendRunning(self.me.clone()), Do::Finish])
            }
            (State::Starting, Event::Failed(reason)) => Self::stuck(reason),
            // The link has nothing more to say to an owner, or to whoever is about to be one.
            (State::Claiming { .. } | State::Starting, _) => return Vec::new(),

            (_, Event::Failed(reason) | Event::Cancelled(reason)) => Self::discard(reason),
            (state, event) => {
                Self::discard(format!("{event:?} does not belong into state {state:?}"))
            }
        };
        self.state = next;
        actions
    }

    fn ready(&self, digest: Digest) -> (DestinationState, Vec<DestinationAction>) {
        let (claimant, shared) = (self.me.clone(), self.is_shared());
        let actions = vec![DestinationAction::SendReady { digest, claimant, shared }];
        (DestinationState::Ready { digest }, actions)
    }

    /// The source has given up.
    fn take(&self) -> (DestinationState, Vec<DestinationAction>) {
        match &self.taking {
            None => (DestinationState::Starting, vec![DestinationAction::Run]),
            Some(taking) => {
                let (expected, new) = taking.swap();
                let swap = DestinationAction::Swap { expected, new };
                (DestinationState::Claiming { tried: false }, vec![swap])
            }
        }
    }

    fn verdict(&self, found: Option<&Record>) -> Verdict {
        self.taking.as_ref().map_or(Verdict::Theirs, |taking| taking.verdict(found))
    }

    /// Granted and not taken. Where the source reads the same record it finds that it can have the
    /// guest back. Where it does not, this side owns the guest by the grant alone.
    fn not_taken(&self, reason: String) -> (DestinationState, Vec<DestinationAction>) {
        if self.is_shared() { Self::discard(reason) } else { Self::stuck(reason) }
    }

    fn stuck(reason: String) -> (DestinationState, Vec<DestinationAction>) {
        let actions = vec![DestinationAction::SendRunFailed(reason), DestinationAction::Finish];
        (DestinationState::Stuck, actions)
    }

    fn discard(reason: String) -> (DestinationState, Vec<DestinationAction>) {
        let actions = vec![
            DestinationAction::Discard,
            DestinationAction::SendRefused(reason),
            DestinationAction::Finish,
        ];
        (DestinationState::Discarded, actions)
    }
}
