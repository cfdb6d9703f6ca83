//! How fast memory moves over loopback, beside what the raw socket carries in the same run.
//!
//! `cargo bench -p migration`; the argument is the guest's memory in MiB (default 512).

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use migration::{Cancel, Ownership, Settings, Silent, migrate, receive};
use support::{Load, Machine, RunningGuests, Target};
use transport::{Channel, Listener, connect};

fn pair() -> (Channel, Channel) {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let limit = Duration::from_secs(10);
    let near = connect(listener.address(), limit).unwrap();
    (near, listener.accept(Some(limit), &AtomicBool::new(false)).unwrap())
}

/// Seconds that the socket alone takes for so many bytes.
fn raw(bytes: u64) -> f64 {
    let (mut near, mut far) = pair();
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![1; 256 * 1024];
            for _ in 0..bytes / chunk.len() as u64 {
                near.writer.write_all(&chunk).unwrap();
            }
            near.control.shutdown();
        });
        let mut chunk = vec![0; 256 * 1024];
        while far.reader.read(&mut chunk).unwrap() > 0 {}
    });
    started.elapsed().as_secs_f64()
}

fn moved(mebibytes: usize, filled_percent: usize, load: Load) {
    let guests = RunningGuests::default();
    let pages = mebibytes * 256;
    let filled = pages * 3 / 4 * filled_percent / 100;
    let mut machine = Machine::new(pages, filled, load, &guests).started();
    let mut target = Target::new(&guests);
    target.check_on_run = false;
    let (near, far) = pair();
    let settings = Settings { allow_longer_pause: true, ..Settings::default() };
    let outcome = thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(
                &mut target,
                far,
                &mut Ownership::without_record(),
                &settings,
                &mut Silent,
                &Cancel::new(),
            )
        });
        let outcome = migrate(
            &mut machine,
            near,
            &mut Ownership::without_record(),
            &settings,
            &mut Silent,
            &Cancel::new(),
        );
        far.join().unwrap().unwrap();
        outcome.unwrap()
    });
    let first = outcome.rounds[0];
    let memory_rate = mebibytes as f64 / first.duration.as_secs_f64();
    let arrived = target.take();
    arrived.check();
    println!(
        "{mebibytes} MiB, {filled_percent:3} % filled: {:.3} s in all, {:.1} ms of downtime, {} MiB \
         sent in {} rounds; round 1: {:.0} MiB/s on the link, {memory_rate:.0} MiB/s of memory",
        outcome.total.as_secs_f64(),
        outcome.downtime.as_secs_f64() * 1e3,
        outcome.bytes >> 20,
        outcome.rounds.len(),
        first.bytes_per_second() as f64 / f64::from(1 << 20),
    );
}

fn main() {
    let mebibytes = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(512);
    let seconds = raw((mebibytes as u64) << 20);
    println!("raw socket over loopback: {:.0} MiB/s", mebibytes as f64 / seconds);
    for filled in [100, 10] {
        moved(mebibytes, filled, Load { working_set: 1000, rate: 0 });
    }
    moved(mebibytes, 100, Load { working_set: 2000, rate: 5000 });
}
