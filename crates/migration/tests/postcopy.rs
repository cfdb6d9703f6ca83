//! Moves that end before all memory is there: whatever becomes of the links, every page comes, once.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use memory::{Userfault, UserfaultError};
use migration::{
    Cancel, Failure, Filling, Observer, Outcome, PostCopy, Progress, RoundStats, Serving, Settings,
    Silent, Standing, Verify, migrate, receive,
};
use support::*;
use testkit::{Faults, Side, faulty};
use transport::{Channel, Control};

const PATIENCE: Duration = Duration::from_secs(20);
const PAGES: usize = 4096;

/// False, with a word, on a host that does not let this process catch faults.
fn possible() -> bool {
    match Userfault::open() {
        Ok(_) => true,
        Err(error @ UserfaultError::Privilege) => {
            println!("not tested here: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn busy() -> Load {
    Load { working_set: 400, rate: 20_000 }
}

fn after(rounds: u32) -> Settings {
    Settings {
        post_copy: Some(PostCopy::after(rounds)),
        verify: Verify::Full,
        // So that the guest has time to store to something in each round.
        bandwidth_limit: Some(64 << 20),
        ..settings()
    }
}

/// A guest that has moved and has yet to get some of its memory.
struct Moved {
    machine: Machine,
    outcome: Outcome,
    owed: Serving,
    filling: Filling,
    control: Arc<dyn Control>,
}

fn move_away(machine: &mut Machine, guests: &RunningGuests, settings: &Settings) -> Moved {
    let (near, far) = Channel::pair().unwrap();
    let control = near.control.clone();
    let mut target = Target::new(guests);
    target.check_on_run = false;
    let (near, far) = move_over(machine, &mut target, (near, far), settings, &Cancel::new());
    let (outcome, mut received) = (near.unwrap(), far.unwrap());
    assert_eq!(outcome.digest, received.digest);
    let filling = received.filling.take().expect("memory is missing");
    let owed = outcome.owed.clone().expect("memory is owed");
    assert_eq!(owed.pages(), filling.pages());
    Moved { machine: target.take(), outcome, owed, filling, control }
}

impl Moved {
    fn check_complete(&self) {
        assert!(self.owed.is_done() && self.filling.is_complete());
        let until = Instant::now() + PATIENCE;
        while !self.filling.is_released() {
            assert!(Instant::now() < until, "{:?}", self.filling.trouble());
            thread::sleep(Duration::from_millis(1));
        }
        self.machine.check_alive();
    }
}

#[test]
fn a_busy_guest_runs_before_its_memory_is_there() {
    if !possible() {
        return;
    }
    for rounds in [0, 1] {
        let guests = RunningGuests::default();
        let mut machine = Machine::new(PAGES, 1500, busy(), &guests).started();
        let moved = move_away(&mut machine, &guests, &after(rounds));
        assert!(!machine.is_running());
        assert_eq!(guests.count(), 1);
        // What went in rounds is not owed, unless the guest stored to it since.
        let all = moved.owed.pages() == PAGES as u64;
        assert_eq!(all, rounds == 0, "{} pages", moved.owed.pages());
        assert_eq!(moved.outcome.rounds.len(), rounds as usize);
        let served = moved.owed.serve(&mut Silent, &Cancel::new()).unwrap();
        assert_eq!(served.pages, moved.owed.pages(), "each page once");
        moved.check_complete();
        assert_eq!(moved.owed.serve(&mut Silent, &Cancel::new()).unwrap().pages, 0);
        // And on, in the ordinary way, from where it is.
        let mut machine = moved.machine;
        let (arrived, _) = move_well(&mut machine, &guests, &settings());
        arrived.check_alive();
    }
}

#[test]
fn what_is_waited_for_comes_first() {
    if !possible() {
        return;
    }
    let guests = RunningGuests::default();
    // All stores go to the last pages of the working set's half of memory, which the push would
    // reach late over so slow a link.
    let load = Load { working_set: PAGES, rate: 2_000 };
    let mut machine = Machine::new(PAGES, PAGES / 4 * 3, load, &guests).started();
    let settings = Settings { bandwidth_limit: Some(8 << 20), ..after(0) };
    let moved = move_away(&mut machine, &guests, &settings);
    let served = moved.owed.serve(&mut Silent, &Cancel::new()).unwrap();
    assert!(served.requested > 0, "{served:?}");
    assert_eq!(served.pages, PAGES as u64);
    moved.check_complete();
}

/// Gives the word for post-copy in the middle of the first round.
struct Impatient(PostCopy);

impl Observer for Impatient {
    fn progress(&mut self, progress: &Progress) {
        if progress.round_pages_done > 100 {
            self.0.switch();
        }
    }
    fn round(&mut self, _: &RoundStats) {
        self.0.switch();
    }
}

#[test]
fn the_operator_can_switch_while_rounds_are_sent() {
    if !possible() {
        return;
    }
    let guests = RunningGuests::default();
    let mut machine = Machine::new(PAGES, 3000, busy(), &guests).started();
    let switch = PostCopy::default();
    let settings = Settings {
        post_copy: Some(switch.clone()),
        bandwidth_limit: Some(8 << 20),
        downtime_limit: Duration::from_millis(200),
        ..settings()
    };
    let (near, far) = Channel::pair().unwrap();
    let mut target = Target::new(&guests);
    target.check_on_run = false;
    let (outcome, received) = thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(&mut target, far, &mut unrecorded(), &settings, &mut Silent, &Cancel::new())
        });
        let mut observer = Impatient(switch.clone());
        let cancel = Cancel::new();
        let near =
            migrate(&mut machine, near, &mut unrecorded(), &settings, &mut observer, &cancel);
        (near.unwrap(), far.join().unwrap().unwrap())
    });
    assert_eq!(outcome.rounds.len(), 1);
    let (owed, filling) = (outcome.owed.unwrap(), received.filling.unwrap());
    assert!(owed.pages() > 0);
    owed.serve(&mut Silent, &Cancel::new()).unwrap();
    assert!(filling.is_complete());
    target.take().check_alive();
}

#[test]
fn a_guest_that_does_not_converge_goes_all_the_same_where_that_is_allowed() {
    if !possible() {
        return;
    }
    let guests = RunningGuests::default();
    let load = Load { working_set: 3000, rate: 200_000 };
    let mut machine = Machine::new(PAGES, 3000, load, &guests).started();
    let settings = Settings {
        post_copy: Some(PostCopy::default()),
        bandwidth_limit: Some(20 << 20),
        downtime_limit: Duration::from_millis(300),
        max_rounds: 3,
        allow_longer_pause: false,
        ..settings()
    };
    let moved = move_away(&mut machine, &guests, &settings);
    assert!(moved.outcome.rounds.len() <= 3, "{:?}", moved.outcome.rounds);
    moved.owed.serve(&mut Silent, &Cancel::new()).unwrap();
    moved.check_complete();
}

#[test]
fn a_guest_that_converges_owes_nothing() {
    let guests = RunningGuests::default();
    let mut machine = Machine::new(PAGES, 500, Load { working_set: 1, rate: 0 }, &guests).started();
    if !possible() {
        return;
    }
    let settings = Settings { post_copy: Some(PostCopy::default()), ..settings() };
    let (arrived, outcome) = move_well(&mut machine, &guests, &settings);
    assert_eq!(outcome.owed, None);
    arrived.check_alive();
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// One attempt over a link that is cut after so many bytes in one direction.
fn recover_over(moved: &Moved, cut: Option<(bool, u64)>) -> bool {
    let (near, far) = Channel::pair().unwrap();
    let mut faults = Faults::default();
    if let Some((sent, bytes)) = cut {
        let side = Side { cut_after: Some(bytes), ..Side::default() };
        if sent { faults.sent = side } else { faults.received = side }
    }
    let (near, _) = faulty(near, faults);
    let filling = moved.filling.clone();
    let accepting = thread::spawn(move || filling.recover(far, &Cancel::new()));
    let served = moved.owed.recover(near, &mut Silent, &Cancel::new());
    // Whether the destination took the link or not shows at the source.
    let _ = accepting.join().unwrap();
    served.is_ok()
}

#[test]
fn links_are_lost_at_any_point_and_what_came_stays() {
    if !possible() {
        return;
    }
    let mut state = 7;
    let mut cuts = 0;
    for turn in 0..12 {
        let guests = RunningGuests::default();
        let mut machine = Machine::new(PAGES, 3500, busy(), &guests).started();
        let moved = move_away(&mut machine, &guests, &after(turn % 2));
        // The first link goes after some pages.
        let (total, control) = (moved.owed.pages(), moved.control.clone());
        let (owed, filling) = (moved.owed.clone(), moved.filling.clone());
        let left = random(&mut state) % total;
        let serving = thread::spawn(move || owed.serve(&mut Silent, &Cancel::new()).is_ok());
        while filling.left() > left {
            thread::yield_now();
        }
        control.shutdown();
        let mut done = serving.join().unwrap();
        while !done {
            cuts += 1;
            assert!(cuts < 1000);
            assert_eq!(guests.count(), 1);
            let bytes = match random(&mut state) % 3 {
                // Within the words of the recovery, or a little behind them.
                0 => random(&mut state) % 400,
                1 => random(&mut state) % 40_000,
                _ => random(&mut state) % (4096 * total),
            };
            let sent = !random(&mut state).is_multiple_of(4);
            let cut = (!random(&mut state).is_multiple_of(6)).then_some((sent, bytes));
            done = recover_over(&moved, cut);
        }
        // The very last word may have been lost too: the destination then goes on listening.
        assert!(moved.owed.is_done() && moved.filling.is_complete());
        moved.machine.check_alive();
    }
    println!("{cuts} links were cut");
    assert!(cuts > 12);
}

#[test]
fn a_new_link_takes_over_from_one_that_hangs() {
    if !possible() {
        return;
    }
    let guests = RunningGuests::default();
    let mut machine = Machine::new(PAGES, 3500, busy(), &guests).started();
    let moved = move_away(&mut machine, &guests, &after(0));
    // The destination still holds the first link, of which the source knows nothing any more.
    let cancel = Cancel::new();
    cancel.cancel();
    let failure = moved.owed.serve(&mut Silent, &cancel).unwrap_err();
    assert!(matches!(failure, Failure::Cancelled), "{failure}");
    assert!(matches!(moved.owed.serve(&mut Silent, &Cancel::new()).unwrap_err(), Failure::NoLink));
    assert!(recover_over(&moved, None));
    moved.check_complete();
}

#[test]
fn strangers_are_refused_and_change_nothing() {
    if !possible() {
        return;
    }
    let guests = RunningGuests::default();
    let mut machine = Machine::new(PAGES, 3500, busy(), &guests).started();
    let moved = move_away(&mut machine, &guests, &after(0));
    let others = RunningGuests::default();
    let mut other_machine = Machine::new(PAGES, 3500, busy(), &others).started();
    let other = move_away(&mut other_machine, &others, &after(0));
    let linked = moved.filling.is_linked();
    // The source of another move at this destination, and this source at another destination.
    for (source, destination) in [(&other.owed, &moved.filling), (&moved.owed, &other.filling)] {
        let (near, far) = Channel::pair().unwrap();
        let filling = destination.clone();
        let accepting = thread::spawn(move || filling.recover(far, &Cancel::new()));
        let failure = source.recover(near, &mut Silent, &Cancel::new()).unwrap_err();
        assert!(failure.sentence().contains("not the other side of this move"), "{failure}");
        accepting.join().unwrap().unwrap_err();
    }
    // One that wants to move a guest to where a guest is.
    let (near, far) = Channel::pair().unwrap();
    let filling = moved.filling.clone();
    let accepting = thread::spawn(move || filling.recover(far, &Cancel::new()));
    let third_guests = RunningGuests::default();
    let mut third =
        Machine::new(64, 10, Load { working_set: 32, rate: 100 }, &third_guests).started();
    let error =
        migrate(&mut third, near, &mut unrecorded(), &settings(), &mut Silent, &Cancel::new())
            .unwrap_err();
    assert_eq!(error.standing, Standing::Running);
    accepting.join().unwrap().unwrap_err();
    // And one that waits for a guest, and gets the wish for a recovery.
    let (near, far) = Channel::pair().unwrap();
    let waiting = thread::spawn(move || {
        let mut target = Target::new(&third_guests);
        let settings = settings();
        let cancel = Cancel::new();
        receive(&mut target, far, &mut unrecorded(), &settings, &mut Silent, &cancel).map(|_| ())
    });
    let failure = moved.owed.recover(near, &mut Silent, &Cancel::new()).unwrap_err();
    assert!(matches!(failure, Failure::RefusedByDestination(_)), "{failure}");
    waiting.join().unwrap().unwrap_err();
    assert!(linked && moved.filling.left() > 0);
    for moved in [moved, other] {
        assert!(recover_over(&moved, None));
        moved.check_complete();
    }
}
