//! A guest in real mode whose handlers halt, in a machine without devices.

use accel_soft::{SoftAccelerator, SoftVcpu};
use cpu::{Bus, CpuModel, CpuState, GeneralProtection, Topology};
use memory::GuestRam;

/// A machine without devices.
pub struct Nothing;

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

pub const CODE: u64 = 0x1000;
pub const STACK: u64 = 0x8000;

/// Where the handler of a vector halts.
pub fn handler(vector: u8) -> u64 {
    0x2000 + 0x10 * u64::from(vector)
}

/// A vCPU of this model, its memory with this code, and the state in which it starts there.
pub fn guest(model: &'static CpuModel, code: &[u8]) -> (SoftVcpu, GuestRam, CpuState) {
    let ram = GuestRam::new(0x1_0000).unwrap();
    for vector in 0..=255u8 {
        ram.write(4 * u64::from(vector), &(handler(vector) as u32).to_le_bytes()).unwrap();
        ram.write(handler(vector), &[0xf4]).unwrap();
    }
    ram.write(CODE, code).unwrap();
    let vcpu = SoftAccelerator::new(ram.clone()).vcpu(model, Topology { apic_id: 0, count: 2 });
    let mut state = CpuState::at_reset(model, 0);
    for segment in &mut state.segments {
        segment.selector = 0;
        segment.base = 0;
    }
    state.rip = CODE;
    state.general[4] = STACK;
    (vcpu, ram, state)
}
