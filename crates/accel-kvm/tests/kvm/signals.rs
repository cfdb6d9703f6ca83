//! What reaches a vCPU past its interrupt flag: NMI, INIT, start-up.

use std::thread;
use std::time::Duration;

use accel_kvm::{KvmVcpu, bare};
use cpu::{Activity, CpuState, Exit, Signal, Vcpu};

use crate::guest::{Guest, TestBus, model};
use crate::{Test, basic, program};

pub const TESTS: &[Test] = &[
    basic("an NMI is taken once and blocks the next", nmi),
    basic("a handler of an NMI can be moved", nmi_and_move),
    basic("INIT and start-up by signal", by_signal),
    basic("INIT and start-up by another vCPU", by_ipi),
    basic("a start-up is part of the state", startup_in_the_state),
];

fn nmi_guest() -> Guest {
    let guest = Guest::new(program!(
        "jmp 80f",
        ".skip 14, 0x90",
        "mov al, 1",
        "out 0x21, al",
        "mov al, 2",
        "out 0x21, al",
        "iretq",
        "80: mov dx, 0xf4",
        "2: out dx, al",
        "jmp 2b",
    ));
    guest.gate(2, 16);
    guest
}

/// `moved`: the state goes out and in again in the middle of the handler.
fn take_two(moved: bool) {
    let guest = nmi_guest();
    let mut vcpu = guest.ready();
    let mut bus = TestBus { attentive: vec![0x21, 0xf4], ..TestBus::default() };
    vcpu.signal(Signal::Nmi);
    let state = vcpu.state(0).unwrap();
    assert!(state.nmi_pending && !state.nmi_blocked);
    vcpu.set_state(&state, 0).unwrap();
    bus.run(&mut vcpu);
    let state = vcpu.state(0).unwrap();
    assert_eq!(bus.out(0x21), [1]);
    assert!(!state.nmi_pending && state.nmi_blocked);
    // A second one waits for the handler's end.
    vcpu.signal(Signal::Nmi);
    let state = vcpu.state(0).unwrap();
    assert!(state.nmi_pending && state.nmi_blocked);
    if moved {
        vcpu.set_state(&state, 0).unwrap();
    }
    for _ in 0..4 {
        bus.run(&mut vcpu);
    }
    assert_eq!(bus.out(0x21), [1, 2, 1, 2]);
    assert_eq!(bus.out(0xf4).len(), 1);
    // A KVM that takes ring 0 apart notices the end of the handler only on the next entry.
    bus.run(&mut vcpu);
    assert!(!vcpu.state(0).unwrap().nmi_blocked);
}

fn nmi() {
    take_two(false);
}

fn nmi_and_move() {
    take_two(true);
}

/// In real mode: puts CS out and ends.
fn put_trampoline(guest: &Guest) {
    // mov ax, cs; out 0x21, ax; out 0xf4, al; hlt
    guest.ram.write(0x8000, &[0x8c, 0xc8, 0xe7, 0x21, 0xe6, 0xf4, 0xf4]).unwrap();
}

fn check_started(vcpu: &mut KvmVcpu, bus: &TestBus) {
    assert_eq!(bus.out(0x21), [0x800]);
    let state = vcpu.state(0).unwrap();
    let mut wanted = CpuState::at_reset(model(), 1);
    wanted.start_at(8);
    assert_eq!(state.segments[CpuState::CS].selector, 0x800);
    assert_eq!(state.segments[CpuState::CS].base, 0x8000);
    assert_eq!(state.cr0 & 1, 0);
    assert_eq!(state.general[2], wanted.general[2], "the signature, in EDX");
    assert_eq!(state.activity, Activity::Running);
}

fn by_signal() {
    let guest = Guest::new(program!("hlt"));
    put_trampoline(&guest);
    let mut vcpu = guest.vcpu(1);
    assert_eq!(vcpu.state(0).unwrap().activity, Activity::WaitForStartup);
    vcpu.set_state(&bare::ring_0(model()), 0).unwrap();
    vcpu.signal(Signal::Init);
    assert_eq!(vcpu.state(0).unwrap().activity, Activity::WaitForStartup);
    vcpu.signal(Signal::Startup(8));
    let mut bus = TestBus::default();
    bus.run(&mut vcpu);
    check_started(&mut vcpu, &bus);
}

fn by_ipi() {
    let guest = Guest::new(program!(
        "mov ebx, 0xfee00000",
        "mov dword ptr [rbx + 0x310], 0x01000000",
        // INIT, asserted; then start at page 8, twice.
        "mov dword ptr [rbx + 0x300], 0x4500",
        "mov dword ptr [rbx + 0x300], 0x4608",
        "mov dword ptr [rbx + 0x300], 0x4608",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    put_trampoline(&guest);
    let (mut first, mut second) = (guest.ready(), guest.vcpu(1));
    let waiting = thread::spawn(move || {
        let mut bus = TestBus::default();
        bus.run(&mut second);
        check_started(&mut second, &bus);
    });
    let mut bus = TestBus::default();
    bus.run(&mut first);
    waiting.join().unwrap();
}

/// A vCPU that was told to start but has not run yet moves as one that runs.
fn startup_in_the_state() {
    let guest = Guest::new(program!("hlt"));
    put_trampoline(&guest);
    let mut vcpu = guest.vcpu(1);
    vcpu.signal(Signal::Startup(8));
    let state = vcpu.state(0).unwrap();
    assert_eq!((state.activity, state.rip), (Activity::Running, 0));
    let other = Guest::new(program!("hlt"));
    put_trampoline(&other);
    let mut moved = other.vcpu(1);
    moved.set_state(&state, 0).unwrap();
    let mut bus = TestBus::default();
    bus.run(&mut moved);
    check_started(&mut moved, &bus);
    // One that waits stays in the kernel until somebody kicks it.
    let mut idle = other.vcpu(0);
    idle.set_state(&CpuState::at_reset(model(), 1), 0).unwrap();
    let mut bus = TestBus::default();
    let kicker = idle.kicker();
    let kicking = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        kicker.kick();
    });
    assert_eq!(idle.run(&mut bus, 0).unwrap().exit, Exit::Budget);
    kicking.join().unwrap();
    assert_eq!(idle.state(0).unwrap().activity, Activity::WaitForStartup);
}
