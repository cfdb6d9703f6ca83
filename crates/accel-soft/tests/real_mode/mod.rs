//! A guest in real mode whose handlers halt, in a machine without devices.

#[path = "../nothing/mod.rs"]
mod nothing;

use accel_soft::{SoftAccelerator, SoftVcpu};
use cpu::{CpuModel, CpuState, Topology};
use memory::GuestRam;

pub use nothing::Nothing;

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
