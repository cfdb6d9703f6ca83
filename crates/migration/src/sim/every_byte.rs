//! A connection that is cut, reset or stalled after each byte of a whole move, in both directions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pipe::{Fault, Place, pair};
use super::time::{Simulation, spawn};
use crate::handover::Record;
use crate::support::arbiter::Keeper;
use crate::support::{Load, Machine, RunningGuests, Target};
use crate::{
    Cancel, MigrationError, Outcome, Ownership, Received, Settings, Settled, Silent, Standing,
    Word, migrate, receive, settle,
};

/// It stores to nothing, so that every move is the same, byte for byte.
const IDLE: Load = Load { working_set: 2, rate: 0 };

fn settings() -> Settings {
    let long = Duration::from_secs(20);
    Settings {
        downtime_limit: Duration::from_secs(5),
        hello_timeout: long,
        build_timeout: long,
        io_timeout: long,
        switchover_timeout: long,
        keepalive_interval: Duration::from_millis(400),
        keepalive_timeout: Duration::from_secs(2),
        ..Settings::default()
    }
}

struct Moved {
    source: Result<Outcome, MigrationError>,
    destination: Result<Received, MigrationError>,
    machine: Machine,
    target: Target,
    here: Ownership,
    there: Ownership,
    passed: [u64; 2],
}

/// One move, in a simulation of its own.
fn simulate(guests: &RunningGuests, rights: (Ownership, Ownership), place: Option<Place>) -> Moved {
    let (mut here, mut there) = rights;
    let mut machine = Machine::new(8, 1, IDLE, guests).started();
    let mut target = Target::new(guests);
    Simulation::run(move || {
        let (near, far, passed) = pair(place);
        let far = spawn("destination", move || {
            let received =
                receive(&mut target, far, &mut there, &settings(), &mut Silent, &Cancel::new());
            (received, target, there)
        })
        .unwrap();
        let source =
            migrate(&mut machine, near, &mut here, &settings(), &mut Silent, &Cancel::new());
        let (destination, target, there) = far.join().unwrap();
        let passed = passed.bytes();
        Moved { source, destination, machine, target, here, there, passed }
    })
}

/// The record says who has the guest, and it is whole.
fn with_a_record(place: Option<Place>) -> (&'static str, [u64; 2]) {
    let (guests, keeper) = (RunningGuests::default(), Keeper::default());
    let mut moved = simulate(&guests, (keeper.owner(), keeper.arriving()), place);
    assert_eq!(guests.count(), 1, "{place:?}");
    let record: Record = keeper.record().unwrap();
    let end = if record.is_owned_by(moved.there.me()) {
        let there = moved.destination.unwrap_or_else(|error| panic!("{place:?}: {error}"));
        let here = moved.source.unwrap_or_else(|error| panic!("{place:?}: {error}"));
        assert_eq!(here.digest, there.digest, "{place:?}");
        moved.target.take().check();
        "went"
    } else {
        assert!(record.is_owned_by(moved.here.me()), "{place:?}: {record}");
        let error = moved.source.err().unwrap_or_else(|| panic!("{place:?}: it went"));
        assert_eq!(error.standing, Standing::Running, "{place:?}: {error}");
        assert!(moved.destination.is_err(), "{place:?}");
        moved.machine.check();
        "stayed"
    };
    (end, moved.passed)
}

/// No record: a grant that was not confirmed is the operator's, who looks at the other side.
fn without_a_record(place: Option<Place>) -> (&'static str, [u64; 2]) {
    let guests = RunningGuests::default();
    let rights = (Ownership::without_record(), Ownership::without_record());
    let mut moved = simulate(&guests, rights, place);
    let there = moved.destination.is_ok();
    let end = match moved.source {
        Ok(_) => "went",
        Err(error) if error.standing == Standing::Running => "stayed",
        Err(error) => {
            assert_eq!(error.standing, Standing::Unconfirmed, "{place:?}: {error}");
            assert_eq!(guests.count(), usize::from(there), "{place:?}");
            let word = if there { Word::Gone } else { Word::RunHere };
            let settled = settle(&mut moved.machine, &mut moved.here, true, Some(word));
            let expected = if there { Settled::Gone } else { Settled::Here };
            assert_eq!(settled, expected, "{place:?}");
            if there { "unconfirmed, went" } else { "unconfirmed, stayed" }
        }
    };
    assert_eq!(guests.count(), 1, "{place:?}");
    assert_eq!(end.ends_with("went"), there, "{place:?}: {end}");
    if there {
        moved.target.take().check()
    } else {
        moved.machine.check()
    }
    (end, moved.passed)
}

/// Every place, or with this many left out after each.
fn places([sent, answered]: [u64; 2], step: u64) -> Vec<Place> {
    let mut places = Vec::new();
    for (from_source, length) in [(true, sent), (false, answered)] {
        for fault in [Fault::Cut, Fault::Reset, Fault::Stall] {
            let all = (0..length).step_by(step as usize);
            places.extend(all.map(|after| Place { from_source, after, fault }));
        }
    }
    places
}

/// Each byte if `FERRY_EVERY_BYTE` is set; without it some, in a few seconds.
fn every_byte(
    name: &str,
    step: u64,
    run: fn(Option<Place>) -> (&'static str, [u64; 2]),
) -> BTreeMap<&'static str, u64> {
    let (end, lengths) = run(None);
    assert_eq!(end, "went");
    assert_eq!(run(None).1, lengths, "a run is the same whenever it is repeated");
    let step = if std::env::var_os("FERRY_EVERY_BYTE").is_some() { 1 } else { step };
    let places = places(lengths, step);
    let (next, ends) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let (end, _) = run(Some(*place));
                    *ends.lock().unwrap().entry(end).or_insert(0) += 1;
                }
            });
        }
    });
    let ends = ends.into_inner().unwrap();
    println!(
        "{name}: {} places in {} bytes out and {} back: {ends:?}",
        places.len(),
        lengths[0],
        lengths[1]
    );
    assert_eq!(ends.values().sum::<u64>(), places.len() as u64);
    ends
}

#[test]
fn with_a_record_one_side_has_the_guest_wherever_the_link_fails() {
    let ends = every_byte("with a record", 11, with_a_record);
    assert!(ends["stayed"] > 0 && ends["went"] > 0, "{ends:?}");
}

#[test]
fn without_a_record_one_side_can_be_made_to_have_it() {
    let ends = every_byte("without a record", 11, without_a_record);
    for end in ["stayed", "unconfirmed, stayed", "unconfirmed, went"] {
        assert!(ends.contains_key(end), "{end} never happened: {ends:?}");
    }
}

#[test]
fn a_simulated_hour_takes_no_time() {
    let started = std::time::Instant::now();
    let woken = Simulation::run(|| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = [30u64, 10, 20]
            .map(|minutes| {
                let order = order.clone();
                spawn("sleeper", move || {
                    super::time::sleep(Duration::from_secs(60 * minutes));
                    order.lock().unwrap().push(minutes);
                })
                .unwrap()
            })
            .into();
        for thread in threads {
            thread.join().unwrap();
        }
        order.lock().unwrap().clone()
    });
    assert_eq!(woken, [10, 20, 30]);
    assert!(started.elapsed() < Duration::from_secs(600));
}
