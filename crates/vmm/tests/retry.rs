//! Under icount a machine whose moves fail, is cancelled or refused, and is moved again, is to the
//! bit the one that was never moved: what a failed attempt sent and marked clean is sent again.

mod common;

use std::collections::BTreeMap;
use std::thread;

use common::{Random, Stepping, configuration, machine, printed, run_to};
use machine::HostConfig;
use migration::{
    Cancel, MigrationError, Observer, Outcome, Ownership, Progress, Received, Settings, Silent,
    Standing,
};
use testkit::{Faults, Side, faulty};
use transport::Channel;
use vmm::{Endpoints, Machine, Request, Stop, VmTarget};

const POINTS: usize = 1_000;
const ROUNDS: u64 = 6;

/// What is done to an attempt.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The link ends after so many bytes from the source.
    CutThere(u64),
    /// The link ends after so many bytes from the destination.
    CutBack(u64),
    /// A bit of this byte from the source is another.
    Flipped(u64),
    /// The operator cancels after so many reports of progress.
    Cancelled(u32),
    None,
}

impl Trouble {
    /// Some trouble with a move that takes about so many bytes each way.
    fn new(random: &mut Random, sent: u64, received: u64) -> Self {
        match random.below(8) {
            0..=3 => Self::CutThere(random.below(sent)),
            4 => Self::CutBack(random.below(received)),
            5 => Self::Flipped(random.below(sent)),
            _ => Self::Cancelled(random.below(6) as u32),
        }
    }

    fn faults(self) -> Faults {
        let (mut sent, mut received) = (Side::default(), Side::default());
        match self {
            Self::CutThere(bytes) => sent.cut_after = Some(bytes),
            Self::CutBack(bytes) => received.cut_after = Some(bytes),
            Self::Flipped(at) => sent.flip = Some((at, 1 << (at % 8))),
            Self::Cancelled(_) | Self::None => {}
        }
        Faults { sent, received }
    }
}

/// An operator who cancels after some reports.
struct Operator {
    cancel: Cancel,
    patience: Option<u32>,
}

impl Observer for Operator {
    fn progress(&mut self, _: &Progress) {
        match &mut self.patience {
            None => {}
            Some(0) => self.cancel.cancel(),
            Some(left) => *left -= 1,
        }
    }
}

/// An attempt at a move, and what both sides say of it.
struct Attempt {
    sent: Result<Outcome, MigrationError>,
    received: Result<Received, MigrationError>,
    arrived: Option<Machine>,
    bytes_sent: u64,
    bytes_received: u64,
}

/// Tries to move a machine that goes on, up to an instruction, while rounds are sent.
fn attempt(machine: &mut Machine, until: u64, trouble: Trouble, lines: &mut String) -> Attempt {
    let (here, there) = Channel::pair().unwrap();
    let (here, traffic) = faulty(here, trouble.faults());
    let receiving = thread::spawn(move || {
        let mut target =
            VmTarget::new(HostConfig::default(), |_| Endpoints::default()).without_thread();
        let received = migration::receive(
            &mut target,
            there,
            &mut Ownership::without_record(),
            &Settings::default(),
            &mut Silent,
            &Cancel::new(),
        );
        (received, target.into_machine())
    });
    let step = (until - machine.instructions()) / 3 + 1;
    let mut source = Stepping { machine, until, step, lines: String::new() };
    let cancel = Cancel::new();
    let patience = if let Trouble::Cancelled(after) = trouble { Some(after) } else { None };
    let sent = migration::migrate(
        &mut source,
        here,
        &mut Ownership::without_record(),
        &Settings { allow_longer_pause: true, ..Settings::default() },
        &mut Operator { cancel: cancel.clone(), patience },
        &cancel,
    );
    *lines += &source.lines;
    let (received, arrived) = receiving.join().unwrap();
    let (bytes_sent, bytes_received) = (traffic.sent(), traffic.received());
    Attempt { sent, received, arrived, bytes_sent, bytes_received }
}

fn moved_after_failures(cpus: u32, points: usize, seed: u64) {
    let config = configuration(1 << 20, cpus);
    let mut still = machine(&config, ROUNDS);
    let end = run_to(&mut still, u64::MAX);
    let lines = printed(&mut still);
    assert!(matches!(end, Some(Stop::Request(Request::Exit(0)))), "{end:?}\n{lines}");
    let length = still.instructions();
    let expected = still.digest().unwrap();

    let mut random = Random(seed);
    let mut points: Vec<u64> = (0..points).map(|_| 1 + random.below(length - 1)).collect();
    points.sort_unstable();
    let number = points.len();
    let mut moving = machine(&config, ROUNDS);
    let mut moved_lines = String::new();
    let (mut sent_bytes, mut received_bytes) = (1 << 20, 100);
    let mut failures: BTreeMap<&str, u32> = BTreeMap::new();
    for point in points {
        let troubles = 1 + random.below(2);
        for left in (0..=troubles).rev() {
            // Up to the point each attempt leaves some for the next.
            let here = moving.instructions();
            let until = here + (point - here) / (left + 1);
            let trouble = match left {
                0 => Trouble::None,
                _ => Trouble::new(&mut random, sent_bytes, received_bytes),
            };
            let tried = attempt(&mut moving, until, trouble, &mut moved_lines);
            match (tried.sent, tried.received, tried.arrived) {
                (Ok(outcome), Ok(_), Some(arrived)) => {
                    assert!(outcome.confirmed, "{trouble:?}");
                    (sent_bytes, received_bytes) = (tried.bytes_sent, tried.bytes_received);
                    moving = arrived;
                }
                // It runs there, and the word of that was lost: the source stands still for good.
                (Err(here), Ok(_), Some(arrived)) => {
                    assert_eq!(here.standing, Standing::Unconfirmed, "{trouble:?}: {here}");
                    *failures.entry("word lost").or_default() += 1;
                    moving = arrived;
                }
                // Nobody over there has it. Where the source cannot know that, an operator says so.
                (Err(here), Err(there), _) => {
                    assert_eq!(there.standing, Standing::Discarded, "{trouble:?}: {there}");
                    let kind = match (&here.standing, trouble) {
                        (Standing::Unconfirmed, _) => "grant lost",
                        (_, Trouble::CutThere(_) | Trouble::CutBack(_)) => "link lost",
                        (_, Trouble::Flipped(_)) => "refused",
                        _ => "cancelled",
                    };
                    *failures.entry(kind).or_default() += 1;
                }
                (sent, received, _) => panic!("{trouble:?}: {sent:?} {received:?}"),
            }
        }
        assert!(run_to(&mut moving, point).is_none(), "it ended before {point}");
        moved_lines += &printed(&mut moving);
    }
    let end = run_to(&mut moving, u64::MAX);
    moved_lines += &printed(&mut moving);
    assert!(matches!(end, Some(Stop::Request(Request::Exit(0)))), "{end:?}\n{moved_lines}");
    assert_eq!(moved_lines, lines);
    assert_eq!(moving.instructions(), length);
    assert_eq!(moving.digest().unwrap(), expected);
    println!("{number} points, {failures:?}");
    for kind in ["link lost", "refused", "cancelled"] {
        assert!(failures.get(kind).is_some_and(|count| *count as usize > number / 40), "{kind}");
    }
}

#[test]
fn a_machine_whose_moves_fail_at_a_thousand_instructions_ends_the_same() {
    moved_after_failures(1, POINTS, 21);
}

#[test]
fn two_vcpus_whose_moves_fail_end_the_same() {
    moved_after_failures(2, POINTS / 4, 22);
}
