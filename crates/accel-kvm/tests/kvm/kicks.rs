//! Kicks: a vCPU leaves the guest wherever it is.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use cpu::{Activity, Exit, Vcpu};

use crate::guest::{Guest, TestBus, rip};
use crate::{Test, basic, program};

pub const TESTS: &[Test] = &[
    basic("a kick ends a spin loop", spin),
    basic("a kick ends HLT", halt),
    basic("a kick before the run ends it at once", before),
    basic("kicks at any instant are never lost", storm),
];

/// Kicks again and again until told to stop: no test depends on how soon the first one strikes.
pub fn kicked<R>(kicker: accel_kvm::Kicker, pause: Duration, work: impl FnOnce() -> R) -> R {
    let (stop, stopped) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                kicker.kick();
            }
        });
        let result = work();
        drop(stop);
        result
    })
}

fn spin() {
    let guest = Guest::new(program!("2: jmp 2b"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let kicker = vcpu.kicker();
    let ran = kicked(kicker, Duration::from_millis(5), || vcpu.run(&mut bus, 0).unwrap());
    assert_eq!(ran.exit, Exit::Budget);
    assert_eq!(rip(&vcpu), accel_kvm::bare::CODE);
}

fn halt() {
    let guest = Guest::new(program!("sti", "hlt"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    for _ in 0..1000 {
        let kicker = vcpu.kicker();
        let ran = kicked(kicker, Duration::from_millis(5), || vcpu.run(&mut bus, 0).unwrap());
        assert_eq!(ran.exit, Exit::Budget);
        let state = vcpu.state(0).unwrap();
        if state.activity == Activity::Halted {
            assert_eq!(state.rip, accel_kvm::bare::CODE + 2);
            return;
        }
    }
    panic!("the guest never came to its HLT");
}

fn before() {
    let guest = Guest::new(program!("2: jmp 2b"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let before = vcpu.state(0).unwrap();
    for _ in 0..10 {
        vcpu.kicker().kick();
        assert_eq!(vcpu.run(&mut bus, 0).unwrap().exit, Exit::Budget);
    }
    crate::guest::assert_same(&before, &vcpu.state(0).unwrap(), "after a run of no length");
}

/// The guest counts and puts each count out; kicks fall wherever they fall. No count is lost, and
/// none comes twice.
fn storm() {
    let guest = Guest::new(program!(
        "xor eax, eax",
        "mov dx, 0x72",
        "2: inc eax",
        "out dx, eax",
        "mov ecx, eax",
        "in eax, dx",
        "mov eax, ecx",
        "cmp eax, 5000",
        "jne 2b",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let kicker = vcpu.kicker();
    kicked(kicker, Duration::from_micros(20), || {
        loop {
            match vcpu.run(&mut bus, 0).unwrap().exit {
                // Every so often the whole state goes out and in again.
                Exit::Budget => {
                    let state = vcpu.state(0).unwrap();
                    vcpu.set_state(&state, 0).unwrap();
                }
                Exit::Attention => break,
                other => panic!("{other:?}"),
            }
        }
    });
    let counts: Vec<u32> = (1..=5000).collect();
    assert_eq!(bus.out(0x72), counts);
}
