//! The two machines, the network, the records and the operator, as one state and all the steps that
//! can follow it. Nothing here decides who may run: that is the machines', and the rules for a
//! start.

use std::collections::VecDeque;
use std::fmt;

use migration::handover::{
    DestinationAction, DestinationEvent, DestinationMachine, DestinationState, Digest, OwnerId,
    Record, RecordState, SourceAction, SourceEvent, SourceMachine, SourceState, Start, VmId, start,
};

const VM: VmId = [1; 16];
const AGREED: Digest = [1; 32];
const OTHER: Digest = [2; 32];
/// Moves that are tried one after the other.
const ATTEMPTS: usize = 2;

/// Who keeps the record, and who can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keeping {
    /// Both sides read the same record.
    Shared,
    /// Each side has a record of its own, which the other cannot read.
    Apart,
    /// Nobody keeps a record.
    None,
}

/// A mistake that the check must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// The source resumes on any error, whatever it has given up.
    ResumeOnAnyError,
    /// The destination runs on the grant, before it has swapped the record.
    RunOnGrant,
    /// A source that reads that it still owns resumes, while its own swap may be on its way.
    TrustAnOldRecord,
    /// A source that reads that it has granted ends, before the destination has taken.
    GoneOnceGranted,
    /// A destination that does not know whether it has taken throws the guest away.
    DiscardInDoubt,
    /// A destination takes a silence for the grant.
    RunOnSilence,
    /// A grant is taken whoever it names.
    AnyonesGrant,
    /// Who starts a machine does not look whether somebody alive has a copy.
    StartBesideTheLiving,
    /// A record that says that the machine was given away out of its reach is overwritten.
    StartWhatIsAway,
}

/// A guest's copy at one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    /// No copy, or a useless one.
    Absent,
    /// Built, not loaded.
    Built,
    /// Whole and paused.
    Paused,
    /// Running.
    Runs,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToDestination {
    Hello,
    Machine,
    Offered(Option<Record>),
    Grant(Digest, OwnerId),
    Cancel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToSource {
    Hello,
    MachineAccepted,
    Ready(Digest, OwnerId, bool),
    Running(OwnerId),
    Refused,
    RunFailed,
}

/// The side that has the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub machine: SourceMachine,
    todo: VecDeque<SourceAction>,
    pub guest: Guest,
    pub up: bool,
    /// A wait for the record is over when the next step says so.
    waits: bool,
}

/// The other side of one attempt, and the connection to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub machine: DestinationMachine,
    todo: VecDeque<DestinationAction>,
    pub guest: Guest,
    pub up: bool,
    pub ever_ran: bool,
    waits: bool,
    link: bool,
    to_destination: VecDeque<ToDestination>,
    to_source: VecDeque<ToSource>,
}

/// A swap that was sent and whose answer was lost: it may still be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    keeper: usize,
    expected: Option<Record>,
    new: Record,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub source: Source,
    pub destinations: Vec<Destination>,
    /// The source's record, and the destinations' where it is another one.
    pub records: [Option<Record>; 2],
    keeper_up: [bool; 2],
    pending: Vec<Pending>,
    /// Messages of earlier connections, which the network may bring again.
    stale_to_destination: Vec<ToDestination>,
    stale_to_source: Vec<ToSource>,
    /// A guest started anew from its disks: what was in memory is lost.
    pub booted: bool,
    /// The process that owned the guest was killed, and its memory is lost with it.
    pub owner_killed: bool,
    pulled_back: bool,
    /// The source ended before any destination owned the guest.
    pub ended_early: bool,
    pub faults: u8,
}

/// A step: what happens, whether it is a failure, and what comes of it.
#[derive(Clone, PartialEq)]
pub struct Step {
    what: String,
    pub fault: bool,
    pub next: Box<World>,
}

impl fmt::Debug for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source { machine, guest, up, .. } = &self.source;
        write!(formatter, "source {:?} {guest:?} up {up}", machine.state())?;
        for there in &self.destinations {
            let state = there.machine.state();
            write!(formatter, "; destination {state:?} {:?} up {}", there.guest, there.up)?;
        }
        write!(formatter, "; records {:?}; booted {}", self.records, self.booted)
    }
}

fn id(number: u8) -> OwnerId {
    OwnerId::new("", [number; 16])
}

const SOURCE: u8 = 1;
const FIRST_DESTINATION: u8 = 2;
const STARTER: u8 = 9;

/// The rules of one check.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub keeping: Keeping,
    pub most_faults: u8,
    pub mistake: Option<Mistake>,
}

struct Steps<'a> {
    from: &'a World,
    rules: Rules,
    out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    fn may_fail(&self) -> bool {
        self.from.faults < self.rules.most_faults
    }

    fn well(&mut self, what: impl Into<String>, next: World) {
        self.out.push(Step { what: what.into(), fault: false, next: Box::new(next) });
    }

    fn fault(&mut self, what: impl Into<String>, mut next: World) {
        if self.may_fail() {
            next.faults += 1;
            self.out.push(Step { what: what.into(), fault: true, next: Box::new(next) });
        }
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.rules.mistake == Some(mistake)
    }
}

impl World {
    pub fn start(keeping: Keeping) -> Self {
        let owned = Record::first(VM, id(SOURCE));
        let record = (keeping != Keeping::None).then_some(owned);
        let machine = SourceMachine::new(record.clone());
        let source =
            Source { machine, todo: VecDeque::new(), guest: Guest::Runs, up: true, waits: false };
        let mut world = Self {
            source,
            destinations: Vec::new(),
            records: [record, None],
            keeper_up: [true; 2],
            pending: Vec::new(),
            stale_to_destination: Vec::new(),
            stale_to_source: Vec::new(),
            booted: false,
            owner_killed: false,
            pulled_back: false,
            ended_early: false,
            faults: 0,
        };
        world.connect(keeping);
        world
    }

    fn connect(&mut self, keeping: Keeping) {
        let me = id(FIRST_DESTINATION + self.destinations.len() as u8);
        self.destinations.push(Destination {
            machine: DestinationMachine::new(me, keeping != Keeping::None),
            todo: VecDeque::new(),
            guest: Guest::Absent,
            up: true,
            ever_ran: false,
            waits: false,
            link: true,
            to_destination: VecDeque::from([ToDestination::Hello]),
            to_source: VecDeque::from([ToSource::Hello]),
        });
    }

    /// Every step that can follow.
    pub fn steps(&self, rules: Rules, out: &mut Vec<Step>) {
        let mut steps = Steps { from: self, rules, out };
        if steps.may_fail() {
            self.network_fails(&mut steps);
            self.processes_fail(&mut steps);
        }
        self.keepers(&mut steps);
        if self.source.up {
            self.source_steps(&mut steps);
        }
        for at in 0..self.destinations.len() {
            if self.destinations[at].up {
                self.destination_steps(at, &mut steps);
            }
        }
        self.operator(&mut steps);
    }

    fn current(&self) -> usize {
        self.destinations.len() - 1
    }

    /// The keeper of a destination's record.
    fn keeper(&self, rules: Rules) -> usize {
        usize::from(rules.keeping == Keeping::Apart)
    }

    // ---- What fails ----

    fn network_fails(&self, steps: &mut Steps<'_>) {
        for (at, there) in self.destinations.iter().enumerate() {
            if !there.link {
                continue;
            }
            // Whatever was under way arrives up to some point, in each direction.
            for kept in 0..=there.to_destination.len() {
                for kept_back in 0..=there.to_source.len() {
                    let mut cut = self.clone();
                    cut.destinations[at].link = false;
                    cut.destinations[at].to_destination.truncate(kept);
                    cut.destinations[at].to_source.truncate(kept_back);
                    steps.fault(format!("link {at} cut, {kept} and {kept_back} arrive"), cut);
                }
            }
        }
        if self.destinations.len() == ATTEMPTS {
            let now = &self.destinations[self.current()];
            for message in self.stale_to_destination.iter().filter(|_| now.up) {
                let mut again = self.clone();
                let queue = &mut again.destinations[self.current()].to_destination;
                queue.push_front(message.clone());
                steps.fault(format!("{message:?} comes again"), again);
            }
            for message in self.stale_to_source.iter().filter(|_| self.source.up) {
                let mut again = self.clone();
                again.destinations[self.current()].to_source.push_front(message.clone());
                steps.fault(format!("{message:?} comes again"), again);
            }
        }
    }

    fn processes_fail(&self, steps: &mut Steps<'_>) {
        if self.source.up {
            let mut killed = self.clone();
            // Where the destination cannot read the source's record it only knows what it was told.
            killed.owner_killed |= match (&self.records[0], steps.rules.keeping) {
                (Some(record), Keeping::Shared) => record.is_owned_by(&id(SOURCE)),
                _ => *self.source.machine.state() != SourceState::Gone,
            };
            killed.source.up = false;
            killed.source.guest = Guest::Absent;
            killed.source.todo.clear();
            for there in &mut killed.destinations {
                there.link = false;
            }
            steps.fault("the source is killed", killed);
        }
        for (at, there) in self.destinations.iter().enumerate() {
            if !there.up || *there.machine.state() == DestinationState::Discarded {
                continue;
            }
            let mut killed = self.clone();
            let machine = &there.machine;
            killed.owner_killed |= match steps.rules.keeping {
                Keeping::Shared => {
                    self.records[0].as_ref().is_some_and(|r| r.is_owned_by(machine.me()))
                }
                Keeping::Apart | Keeping::None => there.ever_ran,
            };
            let gone = &mut killed.destinations[at];
            gone.up = false;
            gone.guest = Guest::Absent;
            gone.todo.clear();
            gone.link = false;
            steps.fault(format!("destination {at} is killed"), killed);
        }
    }

    fn keepers(&self, steps: &mut Steps<'_>) {
        for keeper in 0..2 {
            if self.records[keeper].is_none() {
                continue;
            }
            let mut other = self.clone();
            other.keeper_up[keeper] = !self.keeper_up[keeper];
            if self.keeper_up[keeper] {
                steps.fault(format!("arbiter {keeper} goes down"), other);
            } else {
                steps.well(format!("arbiter {keeper} comes up"), other);
            }
        }
        for at in 0..self.pending.len() {
            let mut dropped = self.clone();
            let Pending { keeper, expected, new } = dropped.pending.remove(at);
            let mut carried_out = dropped.clone();
            steps.well("a late swap is never carried out", dropped);
            if self.keeper_up[keeper] && carried_out.records[keeper] == expected {
                carried_out.records[keeper] = Some(new);
                steps.well("a late swap is carried out", carried_out);
            }
        }
    }

    /// Every way in which a swap can end; the outcome goes to `tell`.
    fn swap(
        &self,
        steps: &mut Steps<'_>,
        keeper: usize,
        (expected, new): (Option<Record>, Record),
        tell: impl Fn(World, Swapped, Rules) -> World,
    ) {
        let rules = steps.rules;
        if self.keeper_up[keeper] {
            let mut after = self.clone();
            if self.records[keeper] == expected {
                after.records[keeper] = Some(new.clone());
                steps.well("swap", tell(after, Swapped::Yes, rules));
            } else {
                steps.well("swap lost", tell(after, Swapped::Lost, rules));
            }
            let mut after = self.clone();
            after.pending.push(Pending { keeper, expected, new });
            steps.fault("swap unanswered", tell(after, Swapped::Unknown, rules));
            steps.fault("swap refused", tell(self.clone(), Swapped::Not, rules));
        } else {
            steps.well("swap refused", tell(self.clone(), Swapped::Not, rules));
            steps.well("swap unanswered", tell(self.clone(), Swapped::Unknown, rules));
        }
    }

    // ---- The source ----

    fn tell_source(mut self, event: SourceEvent, rules: Rules) -> Self {
        let event = self.misread_by_source(event, rules);
        self.source.waits = false;
        self.source.todo = self.source.machine.step(event).into();
        let state = self.source.machine.state();
        // A destination may not have been told yet that its swap was carried out.
        let recorded = |me: &OwnerId| self.records[0].as_ref().is_some_and(|r| r.is_owned_by(me));
        let owned = |there: &Destination| {
            there.machine.owns() || there.ever_ran || recorded(there.machine.me())
        };
        self.ended_early |= *state == SourceState::Gone && !self.destinations.iter().any(owned);
        let doubt = matches!(state, SourceState::Unconfirmed | SourceState::Deciding);
        if rules.mistake == Some(Mistake::ResumeOnAnyError) && doubt {
            self.source.guest = Guest::Runs;
        }
        self
    }

    fn misread_by_source(&self, event: SourceEvent, rules: Rules) -> SourceEvent {
        match (rules.mistake, event) {
            (Some(Mistake::TrustAnOldRecord), SourceEvent::Found(Some(record)))
                if record.is_owned_by(&id(SOURCE)) =>
            {
                let newer = record.next(record.owner.clone(), RecordState::Owned);
                SourceEvent::Found(Some(newer))
            }
            (Some(Mistake::GoneOnceGranted), SourceEvent::Found(Some(record)))
                if record.owner != id(SOURCE) =>
            {
                let taken = record.next(record.owner.clone(), RecordState::Owned);
                SourceEvent::Found(Some(taken))
            }
            (_, event) => event,
        }
    }

    fn source_says(mut self, message: ToDestination) -> Self {
        let at = self.current();
        let now = &mut self.destinations[at];
        if now.link {
            now.to_destination.push_back(message.clone());
        }
        if at + 1 < ATTEMPTS && !self.stale_to_destination.contains(&message) {
            let old = matches!(message, ToDestination::Grant(..) | ToDestination::Cancel);
            if old {
                self.stale_to_destination.push(message);
            }
        }
        self
    }

    fn source_steps(&self, steps: &mut Steps<'_>) {
        let rules = steps.rules;
        let mut after = self.clone();
        let Some(action) = after.source.todo.pop_front() else {
            self.source_hears(steps);
            return;
        };
        let failed = || SourceEvent::Failed(String::new());
        match action {
            SourceAction::SendMachine => {
                steps.well("source: machine", after.source_says(ToDestination::Machine));
            }
            SourceAction::Stream => {
                let next = after.clone().tell_source(SourceEvent::Converged, rules);
                steps.well("source: converged", next);
                steps.fault("source: cannot send", after.tell_source(failed(), rules));
            }
            SourceAction::Pause => {
                let refused = after.clone().tell_source(failed(), rules);
                after.source.guest = Guest::Paused;
                steps.well("source: pauses", after.tell_source(SourceEvent::Paused, rules));
                steps.fault("source: cannot pause", refused);
            }
            SourceAction::Resume => {
                after.source.guest = Guest::Runs;
                steps.well("source: resumes", after);
            }
            SourceAction::SendRest => {
                assert_eq!(self.source.guest, Guest::Paused, "the last pages of a running guest");
                let complete = SourceEvent::Complete(AGREED);
                steps.well("source: rest", after.clone().tell_source(complete, rules));
                if !self.pulled_back {
                    let mut back = after.clone();
                    back.pulled_back = true;
                    let back = back.tell_source(SourceEvent::PulledBack, rules);
                    steps.fault("source: pulls back", back);
                }
                steps.fault("source: cannot save", after.tell_source(failed(), rules));
            }
            SourceAction::SendOffered => {
                let claim = after.source.machine.owned().cloned();
                steps.well("source: offers", after.source_says(ToDestination::Offered(claim)));
            }
            SourceAction::Release => {
                let next = after.clone().tell_source(SourceEvent::Released, rules);
                steps.well("source: releases", next);
                steps.fault("source: cannot flush", after.tell_source(failed(), rules));
            }
            SourceAction::Retake | SourceAction::Finish => steps.well("source: on", after),
            SourceAction::Swap { expected, new } => {
                after.swap(steps, 0, (expected, new), |world, swapped, rules| {
                    let event = match swapped {
                        Swapped::Yes => SourceEvent::Swapped,
                        Swapped::Lost => SourceEvent::SwapLost,
                        Swapped::Not => SourceEvent::NotSwapped(String::new()),
                        Swapped::Unknown => SourceEvent::SwapUnknown(String::new()),
                    };
                    world.tell_source(event, rules)
                });
            }
            SourceAction::Read => {
                let unreadable =
                    after.clone().tell_source(SourceEvent::Unreadable(String::new()), rules);
                if self.keeper_up[0] {
                    let found = SourceEvent::Found(self.records[0].clone());
                    steps.well("source: reads", after.tell_source(found, rules));
                    steps.fault("source: cannot read", unreadable);
                } else {
                    steps.well("source: cannot read", unreadable);
                }
            }
            SourceAction::Wait => {
                after.source.waits = true;
                steps.well("source: waits", after);
            }
            SourceAction::SendGrant { digest, claimant } => {
                let sent = after.source_says(ToDestination::Grant(digest, claimant));
                // A write that reports an error may have delivered the bytes all the same.
                steps.fault("source: grants?", sent.clone().tell_source(failed(), rules));
                steps.well("source: grants", sent);
            }
            SourceAction::SendCancel(_) => {
                steps.well("source: cancels", after.source_says(ToDestination::Cancel));
            }
        }
    }

    fn source_hears(&self, steps: &mut Steps<'_>) {
        let rules = steps.rules;
        let tell = |world: &Self, event| world.clone().tell_source(event, rules);
        if self.source.waits {
            steps.well("source: looks again", tell(self, SourceEvent::Waited));
            let tired = SourceEvent::Failed(String::new());
            steps.fault("source: is tired of waiting", tell(self, tired));
            return;
        }
        if self.source.machine.is_in_dispute() {
            steps.well("source: looks again", tell(self, SourceEvent::Waited));
            return;
        }
        let kept = *self.source.machine.state() == SourceState::Kept;
        if kept && self.source.guest == Guest::Runs && self.destinations.len() < ATTEMPTS {
            let mut again = self.clone();
            let owned = self.records[0].clone().filter(|record| record.is_owned_by(&id(SOURCE)));
            again.source.machine = SourceMachine::new(owned);
            again.connect(rules.keeping);
            steps.well("the move is tried again", again);
        }
        if self.source.machine.is_over() {
            return;
        }
        let at = self.current();
        let failed = || SourceEvent::Failed(String::new());
        let there = &self.destinations[at];
        let mut after = self.clone();
        match after.destinations[at].to_source.pop_front() {
            Some(message) => {
                let event = match message.clone() {
                    ToSource::Hello => SourceEvent::Greeted,
                    ToSource::MachineAccepted => SourceEvent::MachineAccepted,
                    ToSource::Ready(digest, claimant, shared) => {
                        SourceEvent::Ready { digest, claimant, shared }
                    }
                    ToSource::Running(who) => SourceEvent::Running(who),
                    ToSource::Refused => failed(),
                    ToSource::RunFailed => SourceEvent::RunFailed(String::new()),
                };
                steps.well(format!("source: hears {message:?}"), after.tell_source(event, rules));
                steps.fault("source: time-out", tell(self, failed()));
            }
            None if !there.link => steps.well("source: hears the end", tell(self, failed())),
            None => steps.fault("source: time-out", tell(self, failed())),
        }
    }

    // ---- A destination ----

    fn tell_destination(mut self, at: usize, event: DestinationEvent, rules: Rules) -> Self {
        let event = self.misread_by_destination(at, event, rules);
        let there = &mut self.destinations[at];
        there.waits = false;
        there.todo = there.machine.step(event).into();
        let claiming = matches!(there.machine.state(), DestinationState::Claiming { .. });
        if rules.mistake == Some(Mistake::RunOnGrant) && claiming {
            there.guest = Guest::Runs;
        }
        self
    }

    fn misread_by_destination(
        &self,
        at: usize,
        event: DestinationEvent,
        rules: Rules,
    ) -> DestinationEvent {
        let machine = &self.destinations[at].machine;
        let ready = matches!(machine.state(), DestinationState::Ready { .. });
        match (rules.mistake, event) {
            (Some(Mistake::RunOnSilence), DestinationEvent::Failed(_)) if ready => {
                DestinationEvent::Grant { digest: AGREED, claimant: machine.me().clone() }
            }
            (Some(Mistake::AnyonesGrant), DestinationEvent::Grant { digest, .. }) => {
                DestinationEvent::Grant { digest, claimant: machine.me().clone() }
            }
            (Some(Mistake::DiscardInDoubt), DestinationEvent::SwapUnknown(reason)) => {
                DestinationEvent::NotSwapped(reason)
            }
            (_, event) => event,
        }
    }

    fn destination_says(mut self, at: usize, message: ToSource) -> Self {
        let there = &mut self.destinations[at];
        if there.link {
            there.to_source.push_back(message.clone());
        }
        let old = matches!(message, ToSource::Ready(..) | ToSource::Running(_) | ToSource::Refused);
        if at + 1 < ATTEMPTS && old && !self.stale_to_source.contains(&message) {
            self.stale_to_source.push(message);
        }
        self
    }

    fn destination_steps(&self, at: usize, steps: &mut Steps<'_>) {
        let rules = steps.rules;
        let mut after = self.clone();
        let Some(action) = after.destinations[at].todo.pop_front() else {
            self.destination_hears(at, steps);
            return;
        };
        let failed = || DestinationEvent::Failed(String::new());
        let keeper = self.keeper(rules);
        match action {
            // Waits for the source.
            DestinationAction::Build | DestinationAction::Load | DestinationAction::Finish => {
                steps.well("destination: on", after);
            }
            DestinationAction::SendMachineAccepted => {
                let next = after.clone().destination_says(at, ToSource::MachineAccepted);
                steps.well("destination: accepts", next);
                steps.fault("destination: cannot", after.tell_destination(at, failed(), rules));
            }
            DestinationAction::Prepare(claim) => {
                let refused = after.clone().tell_destination(at, failed(), rules);
                if !self.keeper_up[keeper] {
                    steps.well("destination: cannot read", refused);
                    return;
                }
                steps.fault("destination: cannot read", refused.clone());
                let found = self.records[keeper].clone();
                if found != claim && self.somebody_holds(rules, keeper, Some(at)) {
                    steps.well("destination: the machine is in use", refused);
                    return;
                }
                let prepared = DestinationEvent::Prepared { vm: VM, found };
                let next = after.tell_destination(at, prepared, rules);
                steps.well("destination: reads", next);
            }
            DestinationAction::SendReady { digest, claimant, shared } => {
                let ready = ToSource::Ready(digest, claimant, shared);
                steps.well("destination: ready", after.destination_says(at, ready));
            }
            DestinationAction::Swap { expected, new } => {
                after.swap(steps, keeper, (expected, new), |world, swapped, rules| {
                    let event = match swapped {
                        Swapped::Yes => DestinationEvent::Swapped,
                        Swapped::Lost => DestinationEvent::SwapLost,
                        Swapped::Not => DestinationEvent::NotSwapped(String::new()),
                        Swapped::Unknown => DestinationEvent::SwapUnknown(String::new()),
                    };
                    world.tell_destination(at, event, rules)
                });
            }
            DestinationAction::Read => {
                let reason = DestinationEvent::Unreadable(String::new());
                let unreadable = after.clone().tell_destination(at, reason, rules);
                if self.keeper_up[keeper] {
                    let found = DestinationEvent::Found(self.records[keeper].clone());
                    let next = after.tell_destination(at, found, rules);
                    steps.well("destination: reads", next);
                    steps.fault("destination: cannot read", unreadable);
                } else {
                    steps.well("destination: cannot read", unreadable);
                }
            }
            DestinationAction::Wait => {
                after.destinations[at].waits = true;
                steps.well("destination: waits", after);
            }
            DestinationAction::Run => {
                let stuck = after.clone().tell_destination(at, failed(), rules);
                let there = &mut after.destinations[at];
                there.guest = Guest::Runs;
                there.ever_ran = true;
                let next = after.tell_destination(at, DestinationEvent::Started, rules);
                steps.well("destination: runs", next);
                steps.fault("destination: cannot run", stuck);
            }
            DestinationAction::SendRunning(who) => {
                let said = after.destination_says(at, ToSource::Running(who));
                steps.well("destination: says that it runs", said);
            }
            DestinationAction::SendRunFailed(_) => {
                let said = after.destination_says(at, ToSource::RunFailed);
                steps.well("destination: says that it cannot run", said);
            }
            DestinationAction::Discard => {
                after.destinations[at].guest = Guest::Absent;
                steps.well("destination: discards", after);
            }
            DestinationAction::SendRefused(_) => {
                // Its last word: the channel ends behind it.
                let mut said = after.destination_says(at, ToSource::Refused);
                said.destinations[at].link = false;
                steps.well("destination: refuses", said);
            }
        }
    }

    fn destination_hears(&self, at: usize, steps: &mut Steps<'_>) {
        let rules = steps.rules;
        let there = &self.destinations[at];
        let tell = |world: &Self, event| world.clone().tell_destination(at, event, rules);
        let failed = || DestinationEvent::Failed(String::new());
        if there.waits {
            steps.well("destination: looks again", tell(self, DestinationEvent::Waited));
            if there.machine.can_be_cancelled() {
                steps.fault("destination: is told to end", tell(self, failed()));
            }
            return;
        }
        if there.machine.is_over() {
            return;
        }
        let mut after = self.clone();
        let Some(message) = after.destinations[at].to_destination.pop_front() else {
            let silence = tell(self, failed());
            if there.link {
                steps.fault("destination: time-out", silence);
            } else {
                steps.well("destination: hears the end", silence);
            }
            return;
        };
        steps.fault("destination: time-out", tell(self, failed()));
        let what = format!("destination {at}: hears {message:?}");
        match message {
            ToDestination::Hello => {
                let next = after.tell_destination(at, DestinationEvent::Greeted, rules);
                steps.well(what, next);
            }
            ToDestination::Machine => {
                after.destinations[at].guest = Guest::Built;
                let next = after.tell_destination(at, DestinationEvent::Built, rules);
                steps.well(what, next);
            }
            ToDestination::Offered(claim) => {
                after.destinations[at].guest = Guest::Paused;
                let loaded = |digest| DestinationEvent::Loaded { digest, claim: claim.clone() };
                let well = after.clone().tell_destination(at, loaded(AGREED), rules);
                steps.well(what, well);
                let blind = after.tell_destination(at, loaded(OTHER), rules);
                steps.fault("destination: holds something else", blind);
            }
            ToDestination::Grant(digest, claimant) => {
                let grant = DestinationEvent::Grant { digest, claimant };
                steps.well(what, after.tell_destination(at, grant, rules));
            }
            ToDestination::Cancel => {
                let cancelled = DestinationEvent::Cancelled(String::new());
                steps.well(what, after.tell_destination(at, cancelled, rules));
            }
        }
    }

    // ---- The operator ----

    /// True if somebody alive, other than one destination, has a copy of the guest in memory, as
    /// the locks on the storage of a record would tell.
    fn somebody_holds(&self, rules: Rules, keeper: usize, other_than: Option<usize>) -> bool {
        let both = rules.keeping != Keeping::Apart;
        let source = self.source.up && *self.source.machine.state() != SourceState::Gone;
        let holds = |there: &Destination| {
            there.up
                && !matches!(
                    there.machine.state(),
                    DestinationState::Greeting
                        | DestinationState::Building
                        | DestinationState::Loading
                        | DestinationState::Preparing { .. }
                        | DestinationState::Discarded
                )
        };
        let mut others = self.destinations.iter().enumerate();
        let there = others.any(|(at, there)| Some(at) != other_than && holds(there));
        (source && (both || keeper == 0)) || (there && (both || keeper == 1))
    }

    fn operator(&self, steps: &mut Steps<'_>) {
        let rules = steps.rules;
        let state = self.source.machine.state();
        let idle = self.source.up && self.source.todo.is_empty();
        if idle && *state == SourceState::Unconfirmed && !self.source.machine.is_in_dispute() {
            // Nothing but a look at the other side can tell.
            let there = &self.destinations[self.current()];
            let run = |event| self.clone().tell_source(event, rules);
            if there.ever_ran || (there.up && there.machine.owns()) {
                steps.well("operator: it runs there", run(SourceEvent::RunsElsewhere));
            } else if !there.up || *there.machine.state() == DestinationState::Discarded {
                let mut here = run(SourceEvent::RunHere);
                if let (Some(_), Start::Swap { new, .. }) =
                    (&self.records[0], start(&id(SOURCE), VM, self.records[0].clone(), true))
                    && self.keeper_up[0]
                {
                    here.records[0] = Some(new);
                }
                steps.well("operator: run it here", here);
            }
        }
        for (at, there) in self.destinations.iter().enumerate() {
            let stuck = there.up && *there.machine.state() == DestinationState::Stuck;
            if stuck && there.todo.is_empty() && there.guest == Guest::Paused {
                let mut runs = self.clone();
                runs.destinations[at].guest = Guest::Runs;
                steps.well(format!("operator: resume at {at}"), runs);
            }
        }
        self.start_again(steps);
    }

    /// A process that is started from the disks, after a crash.
    fn start_again(&self, steps: &mut Steps<'_>) {
        if self.booted || (self.source.up && self.destinations.iter().all(|there| there.up)) {
            return;
        }
        let rules = steps.rules;
        if self.somebody_holds(rules, 0, None) && !steps.has(Mistake::StartBesideTheLiving) {
            return;
        }
        // The operator has looked everywhere.
        let nobody = !self.somebody_holds(rules, 0, None) && !self.somebody_holds(rules, 1, None);
        if rules.keeping == Keeping::None {
            if nobody {
                let mut booted = self.clone();
                booted.booted = true;
                steps.well("a new process boots the disks", booted);
            }
            return;
        }
        if !self.keeper_up[0] {
            return;
        }
        // What was given away out of a record's reach is started by the operator's word only.
        let by_force = steps.has(Mistake::StartWhatIsAway) || nobody;
        match start(&id(STARTER), VM, self.records[0].clone(), by_force) {
            Start::Mine => {
                let mut booted = self.clone();
                booted.booted = true;
                steps.well("a new process boots the disks", booted);
            }
            Start::Away(_) => {}
            Start::Swap { expected, new } => {
                self.swap(steps, 0, (expected, new), |mut world, swapped, _| {
                    world.booted = swapped == Swapped::Yes;
                    world
                });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Swapped {
    Yes,
    Lost,
    Not,
    Unknown,
}
