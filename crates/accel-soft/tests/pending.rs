//! Events that another accelerator took up and did not deliver: the software CPU delivers them
//! before it executes anything.

use accel_soft::SoftAccelerator;
use cpu::{
    Bus, CpuModel, CpuState, Exit, GeneralProtection, PendingEvent, Topology, Vcpu, flags as f,
};
use memory::GuestRam;

/// A machine without devices.
struct Nothing;

impl Bus for Nothing {
    fn port_in(&mut self, _: u64, port: u16, _: u8) -> u32 {
        panic!("port {port:#x} read")
    }
    fn port_out(&mut self, _: u64, port: u16, _: u8, _: u32) {
        panic!("port {port:#x} written")
    }
    fn mmio_read(&mut self, _: u64, address: u64, _: &mut [u8]) {
        panic!("{address:#x} read")
    }
    fn mmio_write(&mut self, _: u64, address: u64, _: &[u8]) {
        panic!("{address:#x} written")
    }
    fn tsc(&mut self, at: u64) -> u64 {
        at
    }
    fn apic_base(&mut self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&mut self, _: u64, _: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u64, _: u8) {}
    fn interrupt_pending(&mut self) -> bool {
        false
    }
    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
    fn attention(&mut self) -> bool {
        false
    }
}

const CODE: u64 = 0x1000;
const STACK: u64 = 0x8000;

/// Where the handler of a vector halts.
fn handler(vector: u8) -> u64 {
    0x2000 + 0x10 * u64::from(vector)
}

/// Runs a real-mode guest whose handlers halt, from code that halts, with these events; what came
/// of it, and the return addresses on the stack, the newest first.
fn run(exception: PendingEvent, interrupt: PendingEvent) -> (CpuState, Vec<u16>) {
    let ram = GuestRam::new(0x1_0000).unwrap();
    for vector in 0..=255u8 {
        ram.write(4 * u64::from(vector), &(handler(vector) as u32).to_le_bytes()).unwrap();
        ram.write(handler(vector), &[0xf4]).unwrap();
    }
    ram.write(CODE, &[0xf4]).unwrap();
    let model = CpuModel::find("qemu64").unwrap();
    let mut vcpu = SoftAccelerator::new(ram.clone()).vcpu(model, Topology { apic_id: 0, count: 1 });
    let mut state = CpuState::at_reset(model, 0);
    for segment in &mut state.segments {
        segment.selector = 0;
        segment.base = 0;
    }
    state.rip = CODE;
    state.general[4] = STACK;
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
