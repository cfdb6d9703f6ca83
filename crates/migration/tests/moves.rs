//! Moves that work: over every kind of channel, there and back, with a guest that keeps storing.

mod support;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use migration::{
    Cancel, Observer, Phase, Progress, RoundStats, Settings, Verify, migrate, receive,
};
use support::*;
use transport::{Address, Channel, Listener, connect};

fn busy() -> Load {
    Load { working_set: 400, rate: 20_000 }
}

#[test]
fn a_busy_guest_moves_and_goes_on() {
    let guests = RunningGuests::default();
    let mut machine = Machine::new(4096, 1500, busy(), &guests).started();
    let settings = Settings { verify: Verify::Full, ..settings() };
    let (mut arrived, outcome) = move_well(&mut machine, &guests, &settings);
    assert!(!machine.is_running());
    arrived.check_alive();
    assert_eq!(guests.count(), 1);
    assert!(outcome.confirmed);
    assert!(outcome.downtime < settings.downtime_limit, "{outcome:?}");
    assert!(outcome.downtime >= machine_pause(&machine));
    let first = &outcome.rounds[0];
    assert_eq!(first.pages + first.zero_pages, 4096);
    assert!(first.zero_pages >= 2000 && first.pages >= 1500, "{first:?}");
    assert!(outcome.rounds.last().unwrap().paused);
    assert!(outcome.bytes > 1500 * 4096);
    // And away again, from where it is now.
    drop(machine);
    let (arrived_again, _) = move_well(&mut arrived, &guests, &settings);
    arrived_again.check_alive();
}

fn machine_pause(machine: &Machine) -> Duration {
    assert_eq!(machine.pauses, 1);
    machine.longest_pause
}

#[test]
fn a_guest_goes_to_and_fro_over_real_sockets() {
    let folder = std::env::temp_dir().join(format!("ferry-moves-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for address in ["tcp:127.0.0.1:0".parse().unwrap(), Address::Unix(folder.join("socket"))] {
        let guests = RunningGuests::default();
        let mut machine = Machine::new(1024, 300, busy(), &guests).started();
        for _ in 0..5 {
            let listener = Listener::bind(&address).unwrap();
            let at = listener.address().clone();
            let mut target = Target::new(&guests);
            std::thread::scope(|scope| {
                let far = scope.spawn(|| {
                    let limit = Some(Duration::from_secs(10));
                    let channel = listener.accept(limit, &AtomicBool::new(false)).unwrap();
                    receive(
                        &mut target,
                        channel,
                        &mut unrecorded(),
                        &settings(),
                        &mut migration::Silent,
                        &Cancel::new(),
                    )
                });
                let channel = connect(&at, Duration::from_secs(10)).unwrap();
                migrate(
                    &mut machine,
                    channel,
                    &mut unrecorded(),
                    &settings(),
                    &mut migration::Silent,
                    &Cancel::new(),
                )
                .unwrap();
                far.join().unwrap().unwrap();
            });
            machine = target.take();
            machine.check_alive();
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_paused_guest_moves_and_nothing_stops_or_starts_at_the_source() {
    let guests = RunningGuests::default();
    let mut machine = Machine::new(64, 10, Load { working_set: 32, rate: 1000 }, &guests);
    let (arrived, outcome) = move_well(&mut machine, &guests, &settings());
    assert_eq!(outcome.rounds.len(), 1);
    assert!(!machine.calls.contains(&"resume") && !machine.calls.contains(&"start_dirty_log"));
    arrived.check();
}

#[derive(Default)]
struct Watcher {
    rounds: Vec<RoundStats>,
    phases: Vec<Phase>,
    bytes: u64,
}

impl Observer for Watcher {
    fn progress(&mut self, progress: &Progress) {
        if self.phases.last() != Some(&progress.phase) {
            self.phases.push(progress.phase);
        }
        assert!(progress.bytes >= self.bytes, "bytes go backwards");
        assert!(progress.round_pages_done <= progress.round_pages);
        self.bytes = progress.bytes;
    }

    fn round(&mut self, stats: &RoundStats) {
        self.rounds.push(*stats);
    }
}

#[test]
fn an_observer_sees_every_phase_and_round_and_the_cap_holds() {
    let guests = RunningGuests::default();
    let mut machine =
        Machine::new(1024, 768, Load { working_set: 50, rate: 500 }, &guests).started();
    let mut target = Target::new(&guests);
    let (near, far) = Channel::pair().unwrap();
    let settings = Settings { bandwidth_limit: Some(8 << 20), ..settings() };
    let mut watcher = Watcher::default();
    let started = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(
                &mut target,
                far,
                &mut unrecorded(),
                &settings,
                &mut migration::Silent,
                &Cancel::new(),
            )
        });
        let outcome =
            migrate(&mut machine, near, &mut unrecorded(), &settings, &mut watcher, &Cancel::new());
        far.join().unwrap().unwrap();
        outcome.unwrap()
    });
    assert_eq!(
        watcher.phases,
        [
            Phase::Greeting,
            Phase::Building,
            Phase::Memory,
            Phase::SwitchOver,
            Phase::Granting,
            Phase::Over
        ]
    );
    assert_eq!(watcher.rounds, outcome.rounds);
    // 3 MiB at 8 MiB/s, less a burst.
    assert!(started.elapsed() > Duration::from_millis(300), "{:?}", started.elapsed());
    let rate = outcome.rounds[0].bytes_per_second();
    assert!(rate < 10 << 20, "{rate}");
}
