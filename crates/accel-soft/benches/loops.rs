//! How fast the software CPU runs: a loop of integer instructions, and one of loads, stores, calls
//! and returns, in millions of guest instructions a second.

#[path = "../tests/nothing/mod.rs"]
mod nothing;

use std::time::Instant;

use accel_soft::SoftAccelerator;
use cpu::{CpuModel, CpuState, Exit, Segment, Topology, Vcpu, flags as f};
use memory::GuestRam;
use nothing::Nothing;

const PAGE_TABLES: u64 = 0x1000;
const CODE: u64 = 0x10_0000;
const STACK: u64 = 0x80_0000;
const RUNS: usize = 3;

/// `1: add rax, rcx; xor rdx, rax; lea rbx, [rax + 2 * rdx + 3]; sub rcx, 1; jnz 1b`, then HLT.
const INTEGERS: &[u8] = &[
    0x48, 0xc7, 0xc1, 0x00, 0xe1, 0xf5, 0x05, // mov rcx, 100_000_000
    0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x5c, 0x50, 0x03, 0x48, 0x83, 0xe9, 0x01, 0x75,
    0xef, 0xf4,
];

/// A store, a load, a read-modify-write, PUSH, CALL, RET and POP over 64 KiB.
const STORES: &[u8] = &[
    0x48, 0xc7, 0xc1, 0x80, 0xf0, 0xfa, 0x02, // mov rcx, 50_000_000
    0x48, 0xc7, 0xc7, 0x00, 0x00, 0x20, 0x00, // mov rdi, 0x200000
    0x48, 0x89, 0x0f, 0x48, 0x8b, 0x07, 0x48, 0x01, 0x47, 0x08, 0x81, 0xe7, 0xf0, 0xff, 0x00, 0x00,
    0x48, 0x81, 0xc7, 0x10, 0x00, 0x20, 0x00, 0x50, 0xe8, 0x07, 0x00, 0x00, 0x00, 0x58, 0x48, 0xff,
    0xc9, 0x75, 0xdd, 0xf4, 0xc3,
];

fn millions_a_second(code: &[u8]) -> f64 {
    let ram = GuestRam::new(16 << 20).expect("memory");
    let write = |at: u64, value: u64| ram.write(at, &value.to_le_bytes()).expect("RAM");
    write(PAGE_TABLES, (PAGE_TABLES + 0x1000) | 3);
    write(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 3);
    for index in 0..8 {
        write(PAGE_TABLES + 0x2000 + 8 * index, index << 21 | 0x83);
    }
    ram.write(CODE, code).expect("RAM");
    let model = CpuModel::find("qemu64").expect("the model");
    let mut vcpu = SoftAccelerator::new(ram).vcpu(model, Topology { apic_id: 0, count: 1 });
    let mut state = CpuState::at_reset(model, 0);
    let data = Segment { selector: 16, base: 0, limit: u32::MAX, attributes: 0xc93 };
    state.segments = [data; 6];
    state.segments[CpuState::CS] = Segment { selector: 8, attributes: 0xa9b, ..data };
    state.cr0 = f::CR0_PE | f::CR0_ET | f::CR0_PG;
    state.cr3 = PAGE_TABLES;
    state.cr4 = f::CR4_PAE;
    state.msrs.efer = f::EFER_LME | f::EFER_LMA;
    state.rip = CODE;
    state.general[4] = STACK;
    vcpu.set_state(&state, 0).expect("a state that can run");
    let started = Instant::now();
    let mut instructions = 0;
    loop {
        let ran = vcpu.run(&mut Nothing, u64::MAX).expect("it runs");
        instructions += ran.instructions;
        if ran.exit == Exit::Idle {
            return instructions as f64 / started.elapsed().as_secs_f64() / 1e6;
        }
    }
}

fn main() {
    for (name, code) in [("integer loop", INTEGERS), ("store loop", STORES)] {
        let best = (0..RUNS).map(|_| millions_a_second(code)).fold(0.0, f64::max);
        println!("software cpu, {name}: {best:.0} million instructions a second");
    }
}
