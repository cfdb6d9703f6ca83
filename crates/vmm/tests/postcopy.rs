//! The embedded guest, which checks itself, runs on before its memory is there: on either
//! accelerator, over links that are lost, and under icount to the bit as one that was never moved.

mod common;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::live::{Printed, patient, start};
use common::{Random, Stepping, configuration, machine, printed, run_to};
use machine::{AcceleratorChoice, HostConfig, MachineConfig};
use memory::{Userfault, UserfaultError};
use migration::{Cancel, Filling, MigrationSource, Ownership, PostCopy, Serving, Settings, Silent};
use transport::{Channel, Control};
use vmm::{End, Endpoints, Machine, Request, Stop, Vm, VmError, VmState, VmTarget, probe_kvm};

const MEMORY: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

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

fn after(rounds: u32) -> Settings {
    Settings { post_copy: Some(PostCopy::after(rounds)), ..patient() }
}

/// A machine that runs and has yet to get some of its memory, and who has it.
struct Moved {
    vm: Vm,
    owed: Serving,
    filling: Filling,
    control: Arc<dyn Control>,
}

/// Moves a machine by post-copy, up to where it runs. `None` if nothing was missing.
fn move_away(
    vm: &Vm,
    host: &HostConfig,
    printed: &Printed,
    settings: &Settings,
) -> Result<Moved, Vm> {
    let (here, there) = Channel::pair().unwrap();
    let control = here.control.clone();
    let mut target = VmTarget::new(host.clone(), {
        let printed = printed.clone();
        move |_| printed.endpoints()
    });
    let receiving = thread::spawn(move || {
        let received = migration::receive(
            &mut target,
            there,
            &mut Ownership::without_record(),
            &Settings::default(),
            &mut Silent,
            &Cancel::new(),
        );
        received
            .map(|received| (target.into_vm().expect("the machine was taken"), received.filling))
    });
    let sent = migration::migrate(
        &mut vm.source(),
        here,
        &mut Ownership::without_record(),
        settings,
        &mut Silent,
        &Cancel::new(),
    );
    let (taken, filling) = receiving.join().unwrap().unwrap_or_else(|error| {
        panic!("{error}; {:?}\n{}", sent.as_ref().err().map(ToString::to_string), printed.text())
    });
    let outcome = sent.unwrap();
    match (outcome.owed, filling) {
        (Some(owed), Some(filling)) => Ok(Moved { vm: taken, owed, filling, control }),
        (None, None) => Err(taken),
        (owed, filling) => panic!("{owed:?} {filling:?}"),
    }
}

/// Twenty moves in a row from one of these accelerators to the next, with or without the loss of
/// links.
fn moves_and_goes_on(config: &MachineConfig, accels: &[AcceleratorChoice], cutting: bool) {
    let hosts: Vec<HostConfig> =
        accels.iter().map(|accel| HostConfig { accel: *accel, ..HostConfig::default() }).collect();
    let printed = Printed::default();
    let mut random = Random(u64::from(config.cpus.count));
    let mut vm = start(config, 0, &hosts[0], &printed);
    let (mut late, mut cuts) = (0, 0);
    for turn in 0..20 {
        let host = &hosts[(turn as usize + 1) % hosts.len()];
        printed.wait_for_rounds(1);
        let moved = match move_away(&vm, host, &printed, &after(turn % 2)) {
            Ok(moved) => moved,
            // The guest had stored to nothing since the last round.
            Err(arrived) => {
                vm.set_gone();
                vm = arrived;
                continue;
            }
        };
        assert_eq!(vm.status().state, VmState::Paused);
        late += moved.owed.pages();
        if cutting {
            cuts += serve_over_bad_links(&moved, &mut random);
        } else {
            moved.owed.serve(&mut Silent, &Cancel::new()).unwrap();
        }
        assert!(moved.owed.is_done() && moved.filling.is_complete());
        vm.set_gone();
        assert_eq!(vm.wait(), VmState::Gone);
        vm = moved.vm;
    }
    printed.wait_for_rounds(2);
    assert_eq!(vm.status().state, VmState::Running, "{}", printed.text());
    vm.quit();
    assert_eq!(vm.wait(), VmState::Ended(End::Quit));
    let rounds = printed.rounds();
    assert_eq!(rounds, (1..=rounds.len() as u64).collect::<Vec<_>>());
    println!(
        "{} rounds of the guest, {late} pages came late, {cuts} links were lost",
        rounds.len()
    );
    assert!(late > 0);
}

/// Serves what is owed over links that are cut once some pages have come; how many were cut.
fn serve_over_bad_links(moved: &Moved, random: &mut Random) -> u64 {
    let mut cuts = 0;
    let mut control = moved.control.clone();
    let mut link = None;
    loop {
        let owed = moved.owed.clone();
        let serving = thread::spawn(move || match link.take() {
            None => owed.serve(&mut Silent, &Cancel::new()),
            Some(channel) => owed.recover(channel, &mut Silent, &Cancel::new()),
        });
        let left = moved.filling.left();
        if left > 0 && cuts < 5 {
            let until = left - random.below(left) - 1;
            let started = Instant::now();
            while moved.filling.left() > until && !serving.is_finished() {
                assert!(started.elapsed() < PATIENCE, "{:?}", moved.filling.trouble());
                thread::yield_now();
            }
            control.shutdown();
        }
        if serving.join().unwrap().is_ok() {
            return cuts;
        }
        cuts += 1;
        let (near, far) = Channel::pair().unwrap();
        control = near.control.clone();
        link = Some(near);
        let filling = moved.filling.clone();
        // It was the source, or the link is gone: the source sees which.
        thread::spawn(move || drop(filling.recover(far, &Cancel::new())));
    }
}

fn on_the_host_clock(cpus: u32) -> MachineConfig {
    let mut config = MachineConfig::new("late", [5; 16], MEMORY);
    config.cpus.count = cpus;
    config
}

#[test]
fn a_guest_goes_twenty_times_before_its_memory() {
    if possible() {
        moves_and_goes_on(&on_the_host_clock(1), &[AcceleratorChoice::Soft], false);
    }
}

#[test]
fn a_guest_with_two_vcpus_goes_twenty_times_before_its_memory() {
    if possible() {
        moves_and_goes_on(&on_the_host_clock(2), &[AcceleratorChoice::Soft], false);
    }
}

#[test]
fn links_are_lost_and_the_guest_finds_every_page_right() {
    if possible() {
        for cpus in [1, 2] {
            moves_and_goes_on(&on_the_host_clock(cpus), &[AcceleratorChoice::Soft], true);
        }
    }
}

#[test]
fn on_kvm_too() {
    let tier = probe_kvm().tier();
    if !possible() || tier.is_none() {
        println!("no kvm that runs guests: not run");
        return;
    }
    println!("kvm tier {tier:?}");
    for cpus in [1, 2] {
        let mut config = on_the_host_clock(cpus);
        config.cpus.promise_tsc = false;
        config.cpus.promise_cpuid = false;
        for cutting in [false, true] {
            moves_and_goes_on(&config, &[AcceleratorChoice::Kvm], cutting);
            let both = [AcceleratorChoice::Soft, AcceleratorChoice::Kvm];
            moves_and_goes_on(&config, &both, cutting);
        }
    }
}

#[test]
fn a_machine_that_is_not_all_here_is_not_stopped_saved_or_moved_and_can_be_ended() {
    if !possible() {
        return;
    }
    let printed = Printed::default();
    let host = HostConfig::default();
    let vm = start(&on_the_host_clock(1), 0, &host, &printed);
    printed.wait_for_rounds(1);
    let moved = move_away(&vm, &host, &printed, &after(0)).ok().expect("memory is missing");
    let here = &moved.vm;
    assert!(matches!(here.pause(), Err(VmError::Incomplete(_))));
    assert!(matches!(here.save(), Err(VmError::Incomplete(_))));
    let (near, _far) = Channel::pair().unwrap();
    let refused = here.source().start_dirty_log().unwrap_err();
    assert!(refused.to_string().contains("have not arrived"), "{refused}");
    drop(near);
    // The guest waits for its first page, and nobody will serve it.
    moved.control.shutdown();
    here.quit();
    assert_eq!(here.wait(), VmState::Ended(End::Quit));
    vm.quit();
}

/// A machine that was moved by post-copy, with what fills it while it runs on.
fn moved_late(from: Machine, until: u64, rounds: u32, lines: &mut String) -> (Machine, Late) {
    let mut from = from;
    let (here, there) = Channel::pair().unwrap();
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
        )
        .unwrap();
        (target.into_machine().expect("the machine is built"), received.filling)
    });
    let left = until - from.instructions();
    let mut source =
        Stepping { machine: &mut from, until, step: left / 2 + 1, lines: String::new() };
    let outcome = migration::migrate(
        &mut source,
        here,
        &mut Ownership::without_record(),
        &after(rounds),
        &mut Silent,
        &Cancel::new(),
    )
    .unwrap();
    *lines += &source.lines;
    let (machine, filling) = receiving.join().unwrap();
    // The pages are served while the machine runs on; the source's memory stays as long.
    let serving = outcome.owed.map(|owed| {
        thread::spawn(move || {
            let served = owed.serve(&mut Silent, &Cancel::new()).unwrap();
            drop(from);
            served.pages
        })
    });
    (machine, Late { serving, filling })
}

/// What is still on its way to a machine.
struct Late {
    serving: Option<thread::JoinHandle<u64>>,
    filling: Option<Filling>,
}

impl Late {
    /// Waits for it; how many pages there were.
    fn all_here(self) -> u64 {
        let pages = self.serving.map_or(0, |serving| serving.join().unwrap());
        assert!(self.filling.is_none_or(|filling| filling.is_complete()));
        pages
    }
}

fn moved_late_at_random_instructions(cpus: u32, moves: usize, seed: u64) {
    const ROUNDS: u64 = 6;
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
    let mut late: Option<Late> = None;
    let mut pages = 0;
    for (number, point) in points.into_iter().enumerate() {
        // It runs up to half-way before it moves, and the rest while rounds are sent.
        let half = moving.instructions() + (point - moving.instructions()) / 2;
        assert!(run_to(&mut moving, half).is_none(), "it ended before {half}");
        moved_lines += &printed(&mut moving);
        // Whoever is not all here cannot be moved on.
        pages += late.take().map_or(0, Late::all_here);
        let (machine, coming) = moved_late(moving, point, (number % 3) as u32, &mut moved_lines);
        moving = machine;
        late = Some(coming);
    }
    let end = run_to(&mut moving, u64::MAX);
    moved_lines += &printed(&mut moving);
    pages += late.take().map_or(0, Late::all_here);
    assert!(matches!(end, Some(Stop::Request(Request::Exit(0)))), "{end:?}\n{moved_lines}");
    assert_eq!(moved_lines, lines);
    assert_eq!(moving.instructions(), length);
    assert_eq!(moving.digest().unwrap(), expected);
    println!("{moves} moves, {pages} pages came late");
    assert!(pages > moves as u64);
}

#[test]
fn moved_late_at_a_thousand_instructions_it_ends_the_same() {
    if possible() {
        moved_late_at_random_instructions(1, 1_000, 11);
    }
}

#[test]
fn two_vcpus_moved_late_end_the_same() {
    if possible() {
        moved_late_at_random_instructions(2, 250, 12);
    }
}
