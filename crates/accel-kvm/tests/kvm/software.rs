//! Exceptions that an instruction raises on purpose. KVM does not show one that is on its way, so a
//! vCPU that is stopped must not be in the middle of one whose instruction is behind it.

use std::time::Duration;

use accel_kvm::bare;
use cpu::{Exit, Vcpu};

use crate::guest::{Guest, TestBus, model};
use crate::kicks::kicked;
use crate::{Test, basic, program};

pub const TESTS: &[Test] =
    &[basic("a breakpoint is neither lost nor doubled by a stop at any instant", breakpoints)];

const BREAKPOINT: u8 = 3;

/// Ring 3 counts its breakpoints, ring 0 counts them too.
fn breakpoints() {
    let guest = Guest::new(program!(
        "jmp 3f",
        "inc r13",
        "iretq",
        "3: inc rbx",
        "int3",
        "cmp rbx, r13",
        "jne 4f",
        "cmp rbx, 20000",
        "jne 3b",
        "4: mov ecx, 0xfeb00ff0",
        "mov dword ptr [rcx], ebx",
    ));
    guest.gate(BREAKPOINT, 2);
    let mut vcpu = guest.ready();
    vcpu.set_state(&bare::ring_3(model()), 0).unwrap();
    let mut bus = TestBus::default();
    let mut stops = 0;
    kicked(vcpu.kicker(), Duration::from_micros(20), || {
        loop {
            match vcpu.run(&mut bus, 0).unwrap().exit {
                Exit::Budget => {
                    let state = vcpu.state(0).unwrap();
                    vcpu.set_state(&state, 0).unwrap();
                    stops += 1;
                }
                Exit::Attention => break,
                other => panic!("{other:?}"),
            }
        }
    });
    let state = vcpu.state(0).unwrap();
    let (raised, delivered) = (state.general[3], state.general[13]);
    assert_eq!((raised, delivered), (20_000, 20_000), "after {stops} stops");
    println!("{stops} stops in {raised} breakpoints");
}
