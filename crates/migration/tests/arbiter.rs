//! Moves with a record of who owns the machine: whatever becomes of the link and of the record's
//! keeper, one side has the guest, and it is the one that the record names.

mod support;

use std::thread;
use std::time::Duration;

use migration::arbiter::Ownership;
use migration::handover::RecordState;
use migration::{
    Cancel, MigrationError, Outcome, Received, Settings, Settled, Silent, Standing, Word, migrate,
    receive, settle,
};
use support::arbiter::{Keeper, SwapFault, has_released};
use support::*;
use testkit::{Faults, Side, Traffic, faulty};
use transport::Channel;

const IDLE: Load = Load { working_set: 2, rate: 0 };

fn small(guests: &RunningGuests) -> Machine {
    Machine::new(24, 3, IDLE, guests).started()
}

fn quick() -> Settings {
    Settings { decide_timeout: Duration::from_millis(600), ..settings() }
}

struct Moved {
    source: Result<Outcome, MigrationError>,
    destination: Result<Received, MigrationError>,
    machine: Machine,
    target: Target,
    here: Ownership,
    there: Ownership,
    traffic: Traffic,
}

/// One move over a channel with faults.
fn move_with(
    guests: &RunningGuests,
    (mut here, mut there): (Ownership, Ownership),
    faults: Faults,
    meanwhile: impl FnOnce() + Send,
) -> Moved {
    let mut machine = small(guests);
    let mut target = Target::new(guests);
    let (near, far) = Channel::pair().unwrap();
    let (near, traffic) = faulty(near, faults);
    let settings = quick();
    let (source, destination) = thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(&mut target, far, &mut there, &settings, &mut Silent, &Cancel::new())
        });
        scope.spawn(meanwhile);
        let near = migrate(&mut machine, near, &mut here, &settings, &mut Silent, &Cancel::new());
        (near, far.join().unwrap())
    });
    Moved { source, destination, machine, target, here, there, traffic }
}

fn shared(keeper: &Keeper) -> (Ownership, Ownership) {
    (keeper.owner(), keeper.arriving())
}

#[test]
fn the_record_follows_the_guest() {
    let (guests, keeper) = (RunningGuests::default(), Keeper::default());
    let mut moved = move_with(&guests, shared(&keeper), Faults::default(), || ());
    moved.source.unwrap();
    moved.destination.unwrap();
    let record = keeper.record().unwrap();
    assert!(record.is_owned_by(moved.there.me()), "{record}");
    assert_eq!(record.epoch, 3, "started, granted, taken");
    assert_eq!(moved.there.owned(), Some(&record));
    assert_eq!(moved.here.owned(), None);
    assert!(has_released(&moved.machine));
    moved.target.take().check_alive();
    moved.there.end().unwrap();
    assert_eq!(keeper.record().unwrap().state, RecordState::Free);
}

/// The bytes that each side sends in a move that goes well, and those of its last frames.
fn lengths() -> (u64, u64) {
    let (guests, keeper) = (RunningGuests::default(), Keeper::default());
    let moved = move_with(&guests, shared(&keeper), Faults::default(), || ());
    moved.source.unwrap();
    (moved.traffic.sent(), moved.traffic.received())
}

/// Exactly one side has the guest, and the record names it.
fn one_side(guests: &RunningGuests, keeper: &Keeper, mut moved: Moved, what: &str) -> bool {
    let record = keeper.record().unwrap();
    assert_eq!(guests.count(), 1, "{what}: {record}");
    let there = record.is_owned_by(moved.there.me());
    if there {
        moved.source.unwrap_or_else(|error| panic!("{what}: {error}"));
        moved.destination.unwrap_or_else(|error| panic!("{what}: {error}"));
        moved.target.take().check_alive();
    } else {
        assert!(record.is_owned_by(moved.here.me()), "{what}: {record}");
        assert_eq!(moved.here.owned(), Some(&record), "{what}");
        let error = moved.source.err().unwrap_or_else(|| panic!("{what}: it moved"));
        assert_eq!(error.standing, Standing::Running, "{what}: {error}");
        assert!(moved.destination.is_err(), "{what}");
        assert!(!has_released(&moved.machine), "{what}");
        moved.machine.check_alive();
    }
    there
}

#[test]
fn a_link_cut_around_the_grant_is_decided_by_the_record() {
    let (sent, received) = lengths();
    let (mut here, mut there) = (0, 0);
    let cut = |at| Side { cut_after: Some(at), ..Side::default() };
    let last = (sent - 200..=sent).map(|at| (cut(at), Side::default()));
    let back = (received - 260..=received).map(|at| (Side::default(), cut(at)));
    for (sent, received) in last.chain(back) {
        let (guests, keeper) = (RunningGuests::default(), Keeper::default());
        let what = format!("{sent:?} {received:?}");
        let moved = move_with(&guests, shared(&keeper), Faults { sent, received }, || ());
        if one_side(&guests, &keeper, moved, &what) { there += 1 } else { here += 1 }
    }
    println!("{here} times the guest stayed, {there} times it went");
    assert!(here > 0 && there > 0, "{here} and {there}");
}

#[test]
fn a_swap_that_fails_or_is_not_answered_loses_nothing() {
    use SwapFault::{DoneUnheard, LostUnheard, Refused};
    // The first swap is that of the start; the second is the grant, the third the taking.
    for (faults, goes) in [
        (vec![Some(Refused)], false),
        (vec![Some(DoneUnheard)], false),
        (vec![Some(LostUnheard)], false),
        (vec![Some(LostUnheard), Some(LostUnheard)], false),
        (vec![Some(DoneUnheard), Some(DoneUnheard)], false),
        (vec![None, Some(Refused)], false),
        (vec![None, Some(DoneUnheard)], true),
        (vec![None, Some(LostUnheard)], true),
        (vec![None, Some(LostUnheard), Some(DoneUnheard)], true),
    ] {
        let (guests, keeper) = (RunningGuests::default(), Keeper::default());
        let pair = shared(&keeper);
        keeper.fail_next(&faults);
        let moved = move_with(&guests, pair, Faults::default(), || ());
        let what = format!("{faults:?}");
        assert_eq!(one_side(&guests, &keeper, moved, &what), goes, "{what}");
    }
}

#[test]
fn a_keeper_that_goes_down_at_the_grant_leaves_it_unconfirmed_until_it_is_back() {
    let (sent, _) = lengths();
    let (guests, keeper) = (RunningGuests::default(), Keeper::default());
    let pair = shared(&keeper);
    keeper.fail_next(&[Some(SwapFault::DoneThenDown)]);
    // The grant itself does not arrive.
    let faults =
        Faults { sent: Side { cut_after: Some(sent - 5), ..Side::default() }, ..Faults::default() };
    let back = keeper.clone();
    let mut moved = move_with(&guests, pair, faults, move || {
        // Long after the source has given up waiting.
        while back.swaps() < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(2500));
        back.set_down(false);
    });
    let error = moved.source.unwrap_err();
    assert_eq!(error.standing, Standing::Unconfirmed, "{error}");
    assert!(moved.here.is_undecided());
    // The destination has found the grant in the record, and runs.
    moved.destination.unwrap();
    assert_eq!(guests.count(), 1);
    assert_eq!(settle(&mut moved.machine, &mut moved.here, true, None), Settled::Gone);
    assert_eq!(guests.count(), 1);
    moved.target.take().check_alive();
}

#[test]
fn records_out_of_each_others_reach_leave_doubt_to_the_operator() {
    let (sent, received) = lengths();
    let cut = |at| Side { cut_after: Some(at), ..Side::default() };
    for (faults, word) in [
        (Faults { sent: cut(sent - 5), ..Faults::default() }, Word::RunHere),
        (Faults { received: cut(received - 5), ..Faults::default() }, Word::Gone),
    ] {
        let (guests, near, far) = (RunningGuests::default(), Keeper::default(), Keeper::default());
        let pair = (near.owner(), far.arriving());
        let mut moved = move_with(&guests, pair, faults, || ());
        let error = moved.source.unwrap_err();
        assert_eq!(error.standing, Standing::Unconfirmed, "{error}");
        let record = near.record().unwrap();
        assert!(matches!(record.state, RecordState::Away { .. }), "{record}");
        assert_eq!(&record.owner, moved.there.me());
        // Whoever starts it again here is told.
        let refused = Ownership::start(Box::new(near.clone()), false).unwrap_err().to_string();
        assert!(refused.contains("--take-ownership"), "{refused}");

        let undecided = settle(&mut moved.machine, &mut moved.here, true, None);
        assert!(matches!(undecided, Settled::Undecided(_)), "{undecided:?}");
        let settled = settle(&mut moved.machine, &mut moved.here, true, Some(word));
        assert_eq!(guests.count(), 1, "{settled:?}");
        if word == Word::RunHere {
            moved.destination.unwrap_err();
            assert_eq!(settled, Settled::Here);
            assert!(near.record().unwrap().is_owned_by(moved.here.me()));
            moved.machine.check_alive();
        } else {
            moved.destination.unwrap();
            assert_eq!(settled, Settled::Gone);
            assert!(far.record().unwrap().is_owned_by(moved.there.me()));
            moved.target.take().check_alive();
        }
    }
}
