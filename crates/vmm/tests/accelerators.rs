//! The embedded guest moves between the software CPU and KVM while it works, and every move that
//! cannot be kept is refused by name.
//!
//! What a host's KVM can run decides how much of this runs: each test prints the tier that it found
//! and what it left out.

mod common;

use common::live::{Printed, move_to, patient, start};
use machine::{AcceleratorChoice, HostConfig, MachineConfig};
use migration::Standing;
use vmm::{Accelerator, End, Vm, VmState, probe_kvm};

const MEMORY: u64 = 16 << 20;
const MOVES: u64 = 50;

fn on(accel: AcceleratorChoice) -> HostConfig {
    HostConfig { accel, ..HostConfig::default() }
}

/// A machine that promises neither its counter nor its CPUID: one that any KVM may run.
fn unpromised(cpus: u32) -> MachineConfig {
    let mut config = MachineConfig::new("between", [9; 16], MEMORY);
    config.cpus.count = cpus;
    config.cpus.promise_tsc = false;
    config.cpus.promise_cpuid = false;
    config
}

/// True if KVM runs guests here; if not, says what is left out.
fn kvm_runs(what: &str) -> bool {
    let tier = probe_kvm().tier();
    match tier {
        Some(tier) => println!("kvm tier {tier:?}: {what} ran"),
        None => println!("no kvm that runs guests: {what} not run"),
    }
    tier.is_some()
}

/// The guest has found nothing wrong, and not missed a round.
fn end(vm: &Vm, printed: &Printed) {
    printed.wait_for_rounds(2);
    assert_eq!(vm.status().state, VmState::Running, "{}", printed.text());
    vm.quit();
    assert_eq!(vm.wait(), VmState::Ended(End::Quit));
    let rounds = printed.rounds();
    assert_eq!(rounds, (1..=rounds.len() as u64).collect::<Vec<_>>());
}

fn between_accelerators(cpus: u32) {
    let printed = Printed::default();
    let mut vm = start(&unpromised(cpus), 0, &on(AcceleratorChoice::Soft), &printed);
    for number in 0..MOVES {
        let (accel, expected) = if number.is_multiple_of(2) {
            (AcceleratorChoice::Kvm, Accelerator::Kvm)
        } else {
            (AcceleratorChoice::Soft, Accelerator::Soft)
        };
        printed.wait_for_rounds(1);
        let (sent, taken) = move_to(&vm, &on(accel), &printed, &patient());
        let outcome = sent.unwrap_or_else(|error| {
            panic!("move {number}: {error:?}: {:?}\n{}", vm.status(), printed.text())
        });
        assert!(outcome.confirmed);
        vm.set_gone();
        assert_eq!(vm.wait(), VmState::Gone);
        vm = taken.unwrap();
        assert_eq!(vm.accelerator().accelerator, expected);
    }
    end(&vm, &printed);
}

#[test]
fn a_guest_moves_fifty_times_between_accelerators() {
    if kvm_runs("50 moves with one vcpu") {
        between_accelerators(1);
    }
}

#[test]
fn a_guest_with_two_vcpus_moves_fifty_times_between_accelerators() {
    if kvm_runs("50 moves with two vcpus") {
        between_accelerators(2);
    }
}

#[test]
fn a_guest_on_kvm_is_moved_to_kvm() {
    if !kvm_runs("10 moves from kvm to kvm") {
        return;
    }
    let printed = Printed::default();
    let kvm = on(AcceleratorChoice::Kvm);
    let mut vm = start(&unpromised(2), 0, &kvm, &printed);
    for _ in 0..10 {
        printed.wait_for_rounds(1);
        let (sent, taken) = move_to(&vm, &kvm, &printed, &patient());
        sent.unwrap_or_else(|error| panic!("{error:?}: {:?}\n{}", vm.status(), printed.text()));
        vm.set_gone();
        vm = taken.unwrap();
    }
    end(&vm, &printed);
}

#[test]
fn a_guest_on_kvm_is_paused_and_goes_on_without_losing_a_tick() {
    if !kvm_runs("200 pauses") {
        return;
    }
    let printed = Printed::default();
    let vm = start(&unpromised(2), 0, &on(AcceleratorChoice::Kvm), &printed);
    for number in 0..200 {
        let paused = vm.pause().and_then(|()| vm.resume());
        paused.unwrap_or_else(|error| {
            panic!("pause {number}: {error}: {:?}\n{}", vm.status(), printed.text())
        });
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    end(&vm, &printed);
}

/// The move is refused with this text on both sides, and the guest goes on.
fn refused(config: &MachineConfig, from: AcceleratorChoice, to: AcceleratorChoice, texts: &[&str]) {
    let printed = Printed::default();
    let vm = start(config, 0, &on(from), &printed);
    printed.wait_for_rounds(1);
    let (sent, taken) = move_to(&vm, &on(to), &printed, &patient());
    let (sent, taken) = (sent.unwrap_err(), taken.map(|_| ()).unwrap_err());
    assert_eq!(sent.standing, Standing::Running);
    assert_eq!(taken.standing, Standing::Discarded);
    for sentence in [sent.failure.sentence(), taken.failure.sentence()] {
        for text in texts {
            assert!(sentence.contains(text), "{sentence}");
        }
        println!("{sentence}");
    }
    printed.wait_for_rounds(2);
    vm.quit();
    vm.wait();
}

#[test]
fn kvm_that_cannot_keep_a_promise_is_refused_by_name() {
    if !kvm_runs("refusals by promise") {
        return;
    }
    if probe_kvm().tier() == Some(vmm::Tier::Full) {
        println!("kvm keeps every promise here: refusals by promise not run");
        return;
    }
    let mut counter = unpromised(1);
    counter.cpus.promise_tsc = true;
    refused(&counter, AcceleratorChoice::Soft, AcceleratorChoice::Kvm, &["tsc: "]);
    let mut model = unpromised(1);
    model.cpus.promise_cpuid = true;
    refused(&model, AcceleratorChoice::Soft, AcceleratorChoice::Kvm, &["cpu model qemu64: "]);
}

#[test]
fn counted_instructions_are_refused_on_kvm() {
    if !kvm_runs("a refusal of icount") {
        return;
    }
    let mut config = unpromised(1);
    config.clock = machine::ClockMode::Icount { shift: 3 };
    let text = "clock: the machine counts instructions";
    refused(&config, AcceleratorChoice::Soft, AcceleratorChoice::Kvm, &[text]);
}

#[test]
fn a_hosts_own_processor_goes_nowhere_else() {
    if !kvm_runs("the model host") {
        return;
    }
    let mut config = unpromised(1);
    config.cpus.model = machine::HOST_MODEL.to_owned();
    config.cpus.host_cpuid = vmm::host_cpuid();
    let text = "cpu model host: this accelerator has no such model";
    refused(&config, AcceleratorChoice::Kvm, AcceleratorChoice::Soft, &[text]);
}
