//! The two machines against each other, exhaustively: every order in which a step can be taken,
//! every place at which the link can be cut with any part of what is under way still arriving,
//! every action that can fail, every wait that can expire.

use std::collections::{HashSet, VecDeque};

use super::*;

const AGREED: Digest = [1; 32];
const OTHER: Digest = [2; 32];

/// A guest at one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    Absent,
    Built,
    Paused,
    Runs,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    ToDestination(ToDestination),
    ToSource(ToSource),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ToDestination {
    Hello,
    Machine,
    Offered,
    Grant(Digest),
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ToSource {
    Hello,
    MachineAccepted,
    Ready(Digest),
    Running,
    Refused,
    RunFailed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    source: SourceMachine,
    source_todo: VecDeque<SourceAction>,
    source_guest: Guest,
    destination: DestinationMachine,
    destination_todo: VecDeque<DestinationAction>,
    destination_guest: Guest,
    to_destination: VecDeque<ToDestination>,
    to_source: VecDeque<ToSource>,
    link: bool,
    /// How many things went wrong so far.
    failures: u8,
    pulled_back: bool,
}

#[derive(Clone, Copy)]
struct Rules {
    most_failures: u8,
    /// The mistake that the check must find: resuming on any error.
    resume_on_any_error: bool,
}

impl World {
    fn start() -> Self {
        Self {
            source: SourceMachine::new(),
            source_todo: VecDeque::new(),
            source_guest: Guest::Runs,
            destination: DestinationMachine::new(),
            destination_todo: VecDeque::new(),
            destination_guest: Guest::Absent,
            to_destination: VecDeque::from([ToDestination::Hello]),
            to_source: VecDeque::from([ToSource::Hello]),
            link: true,
            failures: 0,
            pulled_back: false,
        }
    }

    fn feed_source(mut self, event: SourceEvent, rules: Rules) -> Self {
        let actions = self.source.step(event);
        if rules.resume_on_any_error && *self.source.state() == SourceState::Unconfirmed {
            self.source_guest = Guest::Runs;
        }
        self.source_todo = actions.into();
        self
    }

    fn feed_destination(mut self, event: DestinationEvent) -> Self {
        let actions = self.destination.step(event);
        self.destination_todo = actions.into();
        self
    }

    fn failed(mut self) -> Self {
        self.failures += 1;
        self
    }

    fn source_fails(&self, rules: Rules) -> Self {
        self.clone().failed().feed_source(SourceEvent::Failed("model".into()), rules)
    }

    fn destination_fails(&self) -> Self {
        self.clone().failed().feed_destination(DestinationEvent::Failed("model".into()))
    }

    /// A message under way, or lost because there is no link.
    fn send(mut self, message: Message) -> Self {
        if self.link {
            match message {
                Message::ToDestination(message) => self.to_destination.push_back(message),
                Message::ToSource(message) => self.to_source.push_back(message),
            }
        }
        self
    }

    fn successors(&self, rules: Rules) -> Vec<Self> {
        let mut next = Vec::new();
        let may_fail = self.failures < rules.most_failures;
        if self.link && may_fail {
            for kept in 0..=self.to_destination.len() {
                for kept_back in 0..=self.to_source.len() {
                    let mut cut = self.clone().failed();
                    cut.link = false;
                    cut.to_destination.truncate(kept);
                    cut.to_source.truncate(kept_back);
                    next.push(cut);
                }
            }
        }
        self.source_moves(rules, may_fail, &mut next);
        self.destination_moves(rules, may_fail, &mut next);
        next
    }

    fn source_moves(&self, rules: Rules, may_fail: bool, next: &mut Vec<Self>) {
        let mut after = self.clone();
        let Some(action) = after.source_todo.pop_front() else {
            self.source_hears(rules, may_fail, next);
            return;
        };
        let say = |after: Self, message| after.send(Message::ToDestination(message));
        let mut or_fail = false;
        match action {
            SourceAction::SendMachine => next.push(say(after.clone(), ToDestination::Machine)),
            SourceAction::Stream => {
                next.push(after.clone().feed_source(SourceEvent::Converged, rules));
                or_fail = true;
            }
            SourceAction::Pause => {
                let mut paused = after.clone();
                paused.source_guest = Guest::Paused;
                next.push(paused.feed_source(SourceEvent::Paused, rules));
                or_fail = true;
            }
            SourceAction::Resume => {
                after.source_guest = Guest::Runs;
                next.push(after.clone());
            }
            SourceAction::SendRest => {
                assert_eq!(self.source_guest, Guest::Paused, "the last pages of a running guest");
                next.push(after.clone().feed_source(SourceEvent::Complete(AGREED), rules));
                if !self.pulled_back {
                    let mut back = after.clone();
                    back.pulled_back = true;
                    next.push(back.feed_source(SourceEvent::PulledBack, rules));
                }
                or_fail = true;
            }
            SourceAction::SendOffered => next.push(say(after.clone(), ToDestination::Offered)),
            SourceAction::GiveUp => {
                next.push(after.clone().feed_source(SourceEvent::GivenUp, rules));
                if may_fail {
                    let unknown = SourceEvent::GiveUpUnknown("model".into());
                    next.push(after.clone().failed().feed_source(unknown, rules));
                }
                or_fail = true;
            }
            SourceAction::SendGrant(digest) => {
                next.push(say(after.clone(), ToDestination::Grant(digest)));
                // A write that reports an error may have delivered the bytes all the same.
                if may_fail {
                    next.push(say(after.clone(), ToDestination::Grant(digest)).source_fails(rules));
                }
                or_fail = true;
            }
            SourceAction::SendCancel(_) => next.push(say(after.clone(), ToDestination::Cancel)),
            SourceAction::Finish => next.push(after.clone()),
        }
        if or_fail && may_fail {
            next.push(after.source_fails(rules));
        }
    }

    fn source_hears(&self, rules: Rules, may_fail: bool, next: &mut Vec<Self>) {
        if self.source.is_over() {
            return;
        }
        if may_fail {
            // A time limit, or the operator.
            next.push(self.source_fails(rules));
        }
        let mut after = self.clone();
        match after.to_source.pop_front() {
            Some(message) => {
                let event = match message {
                    ToSource::Hello => SourceEvent::Greeted,
                    ToSource::MachineAccepted => SourceEvent::MachineAccepted,
                    ToSource::Ready(digest) => SourceEvent::Ready(digest),
                    ToSource::Running => SourceEvent::Running,
                    ToSource::Refused => SourceEvent::Failed("refused".into()),
                    ToSource::RunFailed => SourceEvent::RunFailed("run".into()),
                };
                next.push(after.feed_source(event, rules));
            }
            None if !self.link => {
                next.push(after.feed_source(SourceEvent::Failed("link".into()), rules));
            }
            None => {}
        }
    }

    fn destination_moves(&self, _: Rules, may_fail: bool, next: &mut Vec<Self>) {
        let mut after = self.clone();
        let Some(action) = after.destination_todo.pop_front() else {
            self.destination_hears(may_fail, next);
            return;
        };
        let say = |after: Self, message| after.send(Message::ToSource(message));
        match action {
            // Waits for the source.
            DestinationAction::Build | DestinationAction::Load => next.push(after),
            DestinationAction::SendMachineAccepted => {
                if may_fail {
                    next.push(after.destination_fails());
                }
                next.push(say(after, ToSource::MachineAccepted));
            }
            DestinationAction::SendReady(digest) => next.push(say(after, ToSource::Ready(digest))),
            DestinationAction::Run => {
                let mut runs = after.clone();
                runs.destination_guest = Guest::Runs;
                next.push(runs.feed_destination(DestinationEvent::Started));
                if may_fail {
                    next.push(after.destination_fails());
                }
            }
            DestinationAction::SendRunning => next.push(say(after, ToSource::Running)),
            DestinationAction::SendRunFailed(_) => next.push(say(after, ToSource::RunFailed)),
            DestinationAction::Discard => {
                after.destination_guest = Guest::Absent;
                next.push(after);
            }
            DestinationAction::SendRefused(_) => next.push(say(after, ToSource::Refused)),
            DestinationAction::Finish => next.push(after),
        }
    }

    fn destination_hears(&self, may_fail: bool, next: &mut Vec<Self>) {
        if self.destination.is_over() {
            return;
        }
        if may_fail {
            next.push(self.destination_fails());
        }
        let mut after = self.clone();
        match after.to_destination.pop_front() {
            Some(ToDestination::Hello) => {
                next.push(after.feed_destination(DestinationEvent::Greeted));
            }
            Some(ToDestination::Machine) => {
                let refuses = after.clone();
                after.destination_guest = Guest::Built;
                next.push(after.feed_destination(DestinationEvent::Built));
                if may_fail {
                    next.push(refuses.destination_fails());
                }
            }
            Some(ToDestination::Offered) => {
                after.destination_guest = Guest::Paused;
                next.push(after.clone().feed_destination(DestinationEvent::Loaded(AGREED)));
                if may_fail {
                    next.push(after.clone().destination_fails());
                    // A check that is blind, on this side.
                    next.push(after.failed().feed_destination(DestinationEvent::Loaded(OTHER)));
                }
            }
            Some(ToDestination::Grant(digest)) => {
                next.push(after.feed_destination(DestinationEvent::Grant(digest)));
            }
            Some(ToDestination::Cancel) => {
                next.push(after.feed_destination(DestinationEvent::Failed("cancel".into())));
            }
            None if !self.link => {
                next.push(after.feed_destination(DestinationEvent::Failed("link".into())));
            }
            None => {}
        }
    }

    fn is_settled(&self) -> bool {
        self.source.is_over()
            && self.destination.is_over()
            && self.source_todo.is_empty()
            && self.destination_todo.is_empty()
    }

    /// What must hold in every state; the text says what does not.
    fn broken(&self) -> Option<&'static str> {
        if self.source_guest == Guest::Runs && self.destination_guest == Guest::Runs {
            return Some("both sides run");
        }
        if self.source.owns() && self.destination.owns() {
            return Some("both sides own");
        }
        if self.destination_guest == Guest::Runs && !self.destination.owns() {
            return Some("the destination runs what it does not own");
        }
        if *self.source.state() == SourceState::Gone && self.destination_guest != Guest::Runs {
            return Some("the source ended and nobody runs");
        }
        if self.source_guest == Guest::Runs && !self.source.owns() {
            return Some("the source runs what it does not own");
        }
        if self.is_settled() {
            let fits = match (self.source.state(), self.destination.state()) {
                (SourceState::Kept, DestinationState::Discarded) => {
                    self.source_guest == Guest::Runs && self.destination_guest == Guest::Absent
                }
                (SourceState::Gone, DestinationState::Running) => true,
                // Whole at the source, and the destination's state says who goes on.
                (SourceState::Unconfirmed, DestinationState::Running) => {
                    self.source_guest == Guest::Paused
                }
                (
                    SourceState::Unconfirmed,
                    DestinationState::Stuck | DestinationState::Discarded,
                ) => self.source_guest == Guest::Paused && self.destination_guest != Guest::Runs,
                _ => false,
            };
            if !fits {
                return Some("settled with no side, or two, that could run");
            }
            if self.failures == 0 && *self.source.state() != SourceState::Gone {
                return Some("nothing failed and the guest did not move");
            }
        }
        None
    }
}

struct Checked {
    states: usize,
    ends: HashSet<(SourceState, DestinationState)>,
}

fn check(rules: Rules) -> Result<Checked, Box<(World, &'static str)>> {
    let mut seen = HashSet::new();
    let mut ends = HashSet::new();
    let mut open = vec![World::start()];
    while let Some(world) = open.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        if let Some(what) = world.broken() {
            return Err(Box::new((world, what)));
        }
        if world.is_settled() {
            ends.insert((world.source.state().clone(), world.destination.state().clone()));
        }
        let next = world.successors(rules);
        if next.is_empty() && !world.is_settled() {
            return Err(Box::new((world, "somebody waits for ever")));
        }
        open.extend(next);
    }
    Ok(Checked { states: seen.len(), ends })
}

#[test]
fn no_order_of_events_runs_the_guest_twice_or_loses_it() {
    let checked = check(Rules { most_failures: 3, resume_on_any_error: false }).unwrap();
    println!("{} states", checked.states);
    assert!(checked.states > 2_000, "{} states are too few to be all", checked.states);
    let all = [
        (SourceState::Kept, DestinationState::Discarded),
        (SourceState::Gone, DestinationState::Running),
        (SourceState::Unconfirmed, DestinationState::Running),
        (SourceState::Unconfirmed, DestinationState::Stuck),
        (SourceState::Unconfirmed, DestinationState::Discarded),
    ];
    assert_eq!(checked.ends, HashSet::from(all), "every end is reached, and no other");
}

#[test]
fn without_a_failure_there_is_one_end() {
    let checked = check(Rules { most_failures: 0, resume_on_any_error: false }).unwrap();
    assert_eq!(checked.ends, HashSet::from([(SourceState::Gone, DestinationState::Running)]));
}

#[test]
fn a_source_that_resumes_on_any_error_is_caught() {
    let rules = Rules { most_failures: 1, resume_on_any_error: true };
    let (world, what) = *check(rules).err().expect("a fault");
    assert!(
        matches!(what, "both sides run" | "the source runs what it does not own"),
        "{what}: {world:?}"
    );
}

#[test]
fn after_the_grant_no_event_resumes_the_source() {
    let grant = [
        SourceEvent::Greeted,
        SourceEvent::MachineAccepted,
        SourceEvent::Converged,
        SourceEvent::Paused,
        SourceEvent::Complete(AGREED),
        SourceEvent::Ready(AGREED),
        SourceEvent::GivenUp,
    ];
    let events = [
        SourceEvent::Greeted,
        SourceEvent::MachineAccepted,
        SourceEvent::PulledBack,
        SourceEvent::Ready(AGREED),
        SourceEvent::RunFailed(String::new()),
        SourceEvent::GiveUpUnknown(String::new()),
        SourceEvent::Failed(String::new()),
    ];
    for event in events {
        let mut source = SourceMachine::new();
        for step in grant.clone() {
            source.step(step);
        }
        assert_eq!(*source.state(), SourceState::Granted);
        assert_eq!(source.step(event), [SourceAction::Finish]);
        assert_eq!(*source.state(), SourceState::Unconfirmed);
        assert!(source.step(SourceEvent::Running).is_empty(), "over is over");
    }
}
