//! Events that another accelerator took up and did not deliver: the software CPU delivers them
//! before it executes anything.

mod real_mode;

use cpu::{CpuModel, CpuState, Exit, PendingEvent, Vcpu, flags as f};
use real_mode::{CODE, Nothing, STACK, guest, handler};

/// Runs a real-mode guest whose handlers halt, from code that halts, with these events; what came
/// of it, and the return addresses on the stack, the newest first.
fn run(exception: PendingEvent, interrupt: PendingEvent) -> (CpuState, Vec<u16>) {
    let (mut vcpu, ram, mut state) = guest(CpuModel::find("qemu64").unwrap(), &[0xf4]);
    state.rflags |= f::IF;
    (state.exception, state.interrupt) = (exception, interrupt);
    vcpu.set_state(&state, 0).unwrap();
    // Before it runs it holds what it was given.
    assert_eq!(vcpu.state(0).unwrap(), state);
    assert_eq!(vcpu.run(&mut Nothing, 100).unwrap().exit, Exit::Idle);
    let state = vcpu.state(0).unwrap();
    let mut returns = Vec::new();
    for frame in (state.general[4]..STACK).step_by(6) {
        let mut address = [0; 2];
        ram.read(frame, &mut address).unwrap();
        returns.push(u16::from_le_bytes(address));
    }
    (state, returns)
}

fn event(vector: u8) -> PendingEvent {
    PendingEvent { present: true, vector, ..PendingEvent::default() }
}

#[test]
fn an_interrupt_is_delivered_first() {
    let (state, returns) = run(PendingEvent::default(), event(0x40));
    assert_eq!(state.rip, handler(0x40) + 1);
    assert_eq!(returns, [CODE as u16]);
    assert!(!state.interrupt.present);
}

#[test]
fn an_exception_brings_its_payload() {
    let fault = PendingEvent { payload: 0x1234_5678, ..event(14) };
    let (state, returns) = run(fault, PendingEvent::default());
    assert_eq!(state.rip, handler(14) + 1);
    assert_eq!(state.cr2, 0x1234_5678);
    assert_eq!(returns, [CODE as u16]);
    let step = PendingEvent { payload: 1 << 14, ..event(1) };
    let (state, _) = run(step, PendingEvent::default());
    assert_eq!(state.rip, handler(1) + 1);
    assert_ne!(state.dr6 & 1 << 14, 0);
}

#[test]
fn an_interrupt_waits_behind_an_exception() {
    let (state, returns) = run(event(6), event(0x40));
    assert_eq!(state.rip, handler(0x40) + 1);
    assert_eq!(returns, [handler(6) as u16, CODE as u16]);
}

#[test]
fn an_int_instruction_that_was_not_passed_is_executed_anew() {
    let software = PendingEvent { software: true, ..event(0x40) };
    let (state, returns) = run(PendingEvent::default(), software);
    assert_eq!(state.rip, CODE + 1);
    assert!(returns.is_empty() && !state.interrupt.present);
}
