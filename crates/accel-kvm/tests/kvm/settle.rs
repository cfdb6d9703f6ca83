//! The timer of a local APIC in the kernel ends while its vCPU is outside the guest: KVM counts
//! that and shows it nowhere, until the vCPU settles.

use std::thread;
use std::time::{Duration, Instant};

use accel_kvm::ApicPage;
use cpu::Vcpu;

use crate::guest::{Guest, TestBus};
use crate::{Test, basic, program};

pub const TESTS: &[Test] =
    &[basic("a timer that ended outside the guest asks once its vCPU settles", timer)];

const VECTOR: u32 = 0x40;
const CURRENT_COUNT: usize = 0x39;

fn requested(page: &ApicPage) -> bool {
    page.registers[0x20 + VECTOR as usize / 32] & 1 << (VECTOR % 32) != 0
}

fn timer() {
    let guest = Guest::new(program!("cli", "2: jmp 2b"));
    let mut vcpu = guest.ready();
    let mut bus = TestBus::default();
    let before = vcpu.state(0).unwrap();
    let mut page = vcpu.apic().unwrap();
    for (register, value) in [
        (0x0f, 0x1ff),
        // One-shot, divided by 1: a millisecond.
        (0x32, VECTOR),
        (0x38, 1_000_000),
        (CURRENT_COUNT, 1_000_000),
        (0x3e, 0xb),
    ] {
        page.registers[register] = value;
    }
    vcpu.set_apic(&page).unwrap();
    // It leaves before it enters the guest.
    vcpu.kicker().kick();
    vcpu.run(&mut bus, 0).unwrap();
    while vcpu.apic().unwrap().registers[CURRENT_COUNT] != 0 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(2));
    assert!(!requested(&vcpu.apic().unwrap()), "KVM asks by itself: there is nothing to settle");
    let start = Instant::now();
    let settled = vcpu.settle(&mut bus, || start.elapsed().as_nanos() as u64).unwrap();
    assert!(requested(&settled.page));
    assert!(requested(&vcpu.apic().unwrap()));
    // It did not run meanwhile.
    assert_eq!(vcpu.state(0).unwrap().rip, before.rip);
}
