//! Under icount a machine that was moved is, to the bit, the one that was not.

mod common;

use common::{Random, configuration, machine, printed, restored, run_to, saved};
use machine::HostConfig;
use vmm::{Request, Stop};

const MOVES: usize = 1_000;
const ROUNDS: u64 = 6;

fn moved_at_random_instructions(cpus: u32, moves: usize, seed: u64) {
    let config = configuration(1 << 20, cpus);
    let mut still = machine(&config, ROUNDS);
    let end = run_to(&mut still, u64::MAX);
    let lines = printed(&mut still);
    assert!(matches!(end, Some(Stop::Request(Request::Exit(0)))), "{end:?}\n{lines}");
    let length = still.instructions();
    let expected = still.digest().unwrap();

    let mut random = Random(seed);
    let mut points: Vec<u64> = (0..moves).map(|_| 1 + random.below(length - 1)).collect();
    points.sort_unstable();
    let mut moving = machine(&config, ROUNDS);
    let mut moved_lines = String::new();
    for point in points {
        assert!(run_to(&mut moving, point).is_none(), "it ended before {point}");
        assert_eq!(moving.instructions(), point);
        moved_lines += &printed(&mut moving);
        let stream = saved(&mut moving);
        drop(moving);
        moving = restored(stream, &HostConfig::default()).unwrap();
    }
    let end = run_to(&mut moving, u64::MAX);
    moved_lines += &printed(&mut moving);
    assert!(matches!(end, Some(Stop::Request(Request::Exit(0)))), "{end:?}\n{moved_lines}");
    assert_eq!(moved_lines, lines);
    assert_eq!(moving.instructions(), length);
    assert_eq!(moving.digest().unwrap(), expected);
}

#[test]
fn moved_at_a_thousand_instructions_it_ends_the_same() {
    moved_at_random_instructions(1, MOVES, 1);
}

#[test]
fn two_vcpus_moved_end_the_same() {
    moved_at_random_instructions(2, MOVES / 4, 2);
}

#[test]
fn two_runs_agree_at_every_instruction_that_is_looked_at() {
    let config = configuration(1 << 20, 2);
    let (mut one, mut other) = (machine(&config, ROUNDS), machine(&config, ROUNDS));
    // One goes in steps, the other straight to each point.
    let mut random = Random(3);
    for point in (1..=20).map(|step| step * 50_000) {
        while one.instructions() < point {
            let next = (one.instructions() + 1 + random.below(3_000)).min(point);
            assert!(run_to(&mut one, next).is_none());
        }
        assert!(run_to(&mut other, point).is_none());
        assert_eq!(one.digest().unwrap(), other.digest().unwrap(), "at {point}");
    }
}
