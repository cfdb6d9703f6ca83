//! The hand-over, checked exhaustively: every order in which steps can be taken, every place at
//! which a connection can be cut with any part of what is under way still arriving, messages of an
//! earlier connection that come again, swaps of the record whose answer is lost and that are
//! carried out late or never, time limits that pass at any moment, processes that are killed and
//! started again, arbiters that go down and come up.
//!
//! Two things are shown. Whatever fails (up to a number of failures that is printed), never two
//! guests run, and whoever runs one is who the record names. And from every state that one failure
//! can lead to, steps without a failure lead to one running guest, with its memory, unless the
//! failure was that the process that owned it was killed. Deliberate mistakes are found by the same
//! check.

mod world;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use migration::handover::SourceState;
use stateright::{Checker, Model, Property};
use world::{Guest, Keeping, Mistake, Rules, Step, World};

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::start(self.keeping)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps(*self, steps);
    }

    fn next_state(&self, _: &World, step: Step) -> Option<World> {
        Some(*step.next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWO, |_, world: &World| world.running() <= 1),
            Property::always(OWNER, |rules: &Self, world: &World| {
                world.runs_as_recorded(rules.keeping)
            }),
            Property::always(ENDED, |_, world: &World| !world.ended_early),
        ]
    }
}

const TWO: &str = "never two guests run";
const OWNER: &str = "who runs the guest is who the record names";
const ENDED: &str = "the source ends only when the destination has owned the guest";

impl World {
    fn running(&self) -> usize {
        let there = self.destinations.iter().filter(|there| there.guest == Guest::Runs).count();
        usize::from(self.source.guest == Guest::Runs) + there + usize::from(self.booted)
    }

    fn runs_as_recorded(&self, keeping: Keeping) -> bool {
        let here = self.source.guest == Guest::Runs;
        if here && !self.source.machine.owns() {
            return false;
        }
        let there = self.destinations.iter().find(|there| there.guest == Guest::Runs);
        if there.is_some_and(|there| !there.machine.owns()) {
            return false;
        }
        let Some(record) = self.records[0].as_ref().filter(|_| keeping == Keeping::Shared) else {
            return true;
        };
        let owner = self.source.machine.owned().map(|owned| &owned.owner);
        (!here || owner.is_some_and(|owner| record.is_owned_by(owner)))
            && there.is_none_or(|there| record.is_owned_by(there.machine.me()))
    }

    /// One guest runs, and if it is not the one that was, then its memory was lost with the process
    /// that owned it.
    fn is_well(&self) -> bool {
        self.running() == 1 && (!self.booted || self.owner_killed)
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// The states from which no sequence of steps without a failure leads to one running guest: one of
/// them, and how it came about.
fn lost(rules: Rules) -> (usize, Option<(World, Vec<String>)>) {
    let first = World::start(rules.keeping);
    let mut index = HashMap::from([(fingerprint(&first), 0u32)]);
    // For each state: how it was reached, the states that lead to it without a failure.
    let mut reached: Vec<(u32, String)> = vec![(0, "start".to_owned())];
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut well: Vec<bool> = vec![first.is_well()];
    let mut open = VecDeque::from([(0u32, first)]);
    while let Some((at, world)) = open.pop_front() {
        let mut steps = Vec::new();
        world.steps(rules, &mut steps);
        for step in steps {
            let what = format!("{step:?}");
            let fault = step.fault;
            let print = fingerprint(&step.next);
            let next = *index.entry(print).or_insert_with(|| {
                let next = reached.len() as u32;
                reached.push((at, what));
                before.push(Vec::new());
                well.push(step.next.is_well());
                open.push_back((next, *step.next));
                next
            });
            if !fault {
                before[next as usize].push(at);
            }
        }
    }
    let mut leads: Vec<u32> = (0..well.len() as u32).filter(|at| well[*at as usize]).collect();
    while let Some(at) = leads.pop() {
        for from in std::mem::take(&mut before[at as usize]) {
            if !std::mem::replace(&mut well[from as usize], true) {
                leads.push(from);
            }
        }
    }
    let found = well.iter().position(|well| !well).map(|at| {
        let mut at = at as u32;
        let mut path = Vec::new();
        while at != 0 {
            let (from, what) = &reached[at as usize];
            path.push(what.clone());
            at = *from;
        }
        path.reverse();
        path
    });
    let states = well.len();
    let found = found.map(|path| (replay(rules, &path), path));
    (states, found)
}

fn replay(rules: Rules, path: &[String]) -> World {
    path.iter().fold(World::start(rules.keeping), |world, what| {
        let mut steps = Vec::new();
        world.steps(rules, &mut steps);
        let step = steps.into_iter().find(|step| format!("{step:?}") == *what);
        *step.expect("the step was there before").next
    })
}

/// Checks safety; gives the name of what does not hold, and how it came about.
fn unsafe_path(rules: Rules) -> (usize, Option<(&'static str, String)>) {
    let checker = rules.checker().threads(2).spawn_bfs().join();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    // The worst first.
    found.sort_by_key(|(name, _)| *name != TWO);
    let found = found.into_iter().next().map(|(name, path)| {
        let steps: Vec<_> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        (name, steps.join("\n"))
    });
    (checker.unique_state_count(), found)
}

const ALL: [Keeping; 3] = [Keeping::Shared, Keeping::Apart, Keeping::None];

/// Failures in one run at most: with three, it takes minutes on a busy host.
fn most_faults() -> u8 {
    std::env::var("FERRY_MODEL_FAULTS").map_or(2, |most| most.parse().expect("a number"))
}

#[test]
fn never_two_guests_run() {
    let most_faults = most_faults();
    for keeping in ALL {
        let rules = Rules { keeping, most_faults, mistake: None };
        let (states, found) = unsafe_path(rules);
        println!("{keeping:?}: {states} states with up to {most_faults} failures");
        assert!(states > 1000, "{states} states are too few to be all");
        if let Some((what, path)) = found {
            panic!("{keeping:?}: not so: {what}\n{path}");
        }
    }
}

#[test]
fn after_one_failure_one_guest_can_run() {
    for keeping in ALL {
        let (states, found) = lost(Rules { keeping, most_faults: 1, mistake: None });
        println!("{keeping:?}: {states} states with up to 1 failure, a way out of each");
        if let Some((world, path)) = found {
            panic!("{keeping:?}: no way out of {world:?}\n{}", path.join("\n"));
        }
    }
}

#[test]
fn without_a_failure_the_guest_moves() {
    for keeping in ALL {
        let rules = Rules { keeping, most_faults: 0, mistake: None };
        let mut open = vec![World::start(keeping)];
        let mut ends = 0;
        while let Some(world) = open.pop() {
            let mut steps = Vec::new();
            world.steps(rules, &mut steps);
            if steps.is_empty() {
                ends += 1;
                assert_eq!(*world.source.machine.state(), SourceState::Gone, "{world:?}");
                assert_eq!(world.destinations[0].guest, Guest::Runs, "{world:?}");
            }
            open.extend(steps.into_iter().map(|step| *step.next));
        }
        assert!(ends > 0);
    }
}

#[test]
fn every_mistake_is_found() {
    let safety = [
        (Mistake::ResumeOnAnyError, Keeping::Shared, 1),
        (Mistake::ResumeOnAnyError, Keeping::Apart, 1),
        (Mistake::ResumeOnAnyError, Keeping::None, 1),
        (Mistake::RunOnGrant, Keeping::Shared, 1),
        (Mistake::TrustAnOldRecord, Keeping::Shared, 2),
        (Mistake::RunOnSilence, Keeping::None, 1),
        (Mistake::AnyonesGrant, Keeping::None, 3),
        (Mistake::StartBesideTheLiving, Keeping::Shared, 2),
        (Mistake::StartWhatIsAway, Keeping::Apart, 1),
    ];
    for (mistake, keeping, most_faults) in safety {
        let rules = Rules { keeping, most_faults, mistake: Some(mistake) };
        let (_, found) = unsafe_path(rules);
        let (what, path) =
            found.unwrap_or_else(|| panic!("{mistake:?} with {keeping:?} was not found"));
        assert_eq!(what, TWO, "{mistake:?} with {keeping:?}\n{path}");
        println!(
            "{mistake:?} with {keeping:?}: not so: {what}, after {} steps",
            path.lines().count()
        );
    }
    for mistake in [Mistake::GoneOnceGranted, Mistake::DiscardInDoubt] {
        let rules = Rules { keeping: Keeping::Shared, most_faults: 1, mistake: Some(mistake) };
        let (_, found) = lost(rules);
        let (_, path) = found.unwrap_or_else(|| panic!("{mistake:?} was not found"));
        println!("{mistake:?}: the guest is lost after {} steps", path.len());
    }
}
