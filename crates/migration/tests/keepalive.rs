//! Links that end without a word, and what a failed attempt leaves for the next one.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use migration::{Cancel, MigrationError, Settings, Silent, Standing, Verify, migrate, receive};
use support::*;
use testkit::{Faults, Side, faulty};
use transport::Channel;

const IDLE: Load = Load { working_set: 2, rate: 0 };

/// Every other limit is out of reach.
fn patient(keepalive_timeout: Duration) -> Settings {
    let long = Duration::from_secs(120);
    Settings {
        downtime_limit: long,
        hello_timeout: long,
        build_timeout: long,
        io_timeout: long,
        switchover_timeout: long,
        keepalive_interval: keepalive_timeout / 8,
        keepalive_timeout,
        ..settings()
    }
}

fn both(faults: Faults, settings: &Settings) -> (MigrationError, MigrationError) {
    let guests = RunningGuests::default();
    let mut machine = Machine::new(24, 3, IDLE, &guests).started();
    let mut target = Target::new(&guests);
    let (near, far) = Channel::pair().unwrap();
    let (near, _) = faulty(near, faults);
    let (source, destination) =
        move_over(&mut machine, &mut target, (near, far), settings, &Cancel::new());
    assert_eq!(guests.count(), 1);
    machine.check_alive();
    (source.unwrap_err(), destination.unwrap_err())
}

#[test]
fn a_half_open_link_is_noticed_on_both_sides_in_every_state() {
    let settings = patient(Duration::from_millis(400));
    let stall = |at| Side { stall_after: Some(at), ..Side::default() };
    // Behind the hello, within the machine, within memory, and where the answers are short.
    let sent = [32, 60, 2000, 12_000].map(|at| Faults { sent: stall(at), ..Faults::default() });
    let back = [32, 41, 60].map(|at| Faults { received: stall(at), ..Faults::default() });
    let open = [100, 5000].map(|at| Faults { sent: stall(at), received: stall(45) });
    for faults in sent.into_iter().chain(back).chain(open) {
        let started = Instant::now();
        let (source, destination) = both(faults.clone(), &settings);
        assert!(started.elapsed() < Duration::from_secs(20), "{faults:?}");
        assert_eq!(source.standing, Standing::Running, "{faults:?}: {source}");
        let said = format!("{source}\n{destination}");
        assert!(said.contains("no sign of life for 0.4 s"), "{faults:?}: {said}");
    }
}

#[test]
fn who_only_takes_long_is_not_taken_for_dead() {
    let settings = patient(Duration::from_millis(400));
    let guests = RunningGuests::default();
    let mut machine = Machine::new(24, 3, IDLE, &guests).started();
    let mut target = Target::new(&guests);
    target.build_takes = Duration::from_millis(1500);
    let pair = Channel::pair().unwrap();
    let (source, destination) =
        move_over(&mut machine, &mut target, pair, &settings, &Cancel::new());
    source.unwrap();
    destination.unwrap();
    target.take().check_alive();
}

#[test]
fn the_next_attempt_sends_all_that_the_failed_one_has_cleared() {
    let guests = RunningGuests::default();
    let load = Load { working_set: 300, rate: 20_000 };
    let mut machine = Machine::new(700, 300, load, &guests).started();
    // What was dirtied, harvested and sent in the first attempts is not dirty any more.
    for cut_after in [1_500_000, 2_300_000, 3_000_000] {
        let mut target = Target::new(&guests);
        let (near, far) = Channel::pair().unwrap();
        let sent = Side { cut_after: Some(cut_after), ..Side::default() };
        let (near, traffic) = faulty(near, Faults { sent, ..Faults::default() });
        let limits = Settings {
            downtime_limit: Duration::from_millis(1),
            bandwidth_limit: Some(20 << 20),
            ..settings()
        };
        let (source, _) =
            move_over(&mut machine, &mut target, (near, far), &limits, &Cancel::new());
        let error = source.unwrap_err();
        assert_eq!(error.standing, Standing::Running, "{error}");
        assert!(traffic.sent() > 1_000_000, "{error}");
        machine.check_alive();
    }
    let mut target = Target::new(&guests);
    let (near, far) = Channel::pair().unwrap();
    // Full: a page that was not sent, and should have been, is named.
    let all = Settings { verify: Verify::Full, ..settings() };
    let outcome = thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(&mut target, far, &mut unrecorded(), &all, &mut Silent, &Cancel::new())
        });
        let near =
            migrate(&mut machine, near, &mut unrecorded(), &all, &mut Silent, &Cancel::new());
        far.join().unwrap().unwrap();
        near.unwrap()
    });
    let first = &outcome.rounds[0];
    assert_eq!(first.pages + first.zero_pages, 700, "all of memory, whatever was sent before");
    target.take().check_alive();
}
