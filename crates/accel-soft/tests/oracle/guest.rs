//! One instruction on the software CPU, at the linear addresses that it had on the host.

#[path = "../nothing/mod.rs"]
mod nothing;

use accel_soft::{SoftAccelerator, SoftVcpu};
use cpu::{CpuModel, CpuState, DescriptorTable, Segment, Topology, Vcpu, flags as f};
use memory::GuestRam;

use nothing::Nothing;

use super::{MAPPING, MEMORY, MEMORY_LENGTH, Outcome, Start};

const RAM: u64 = 1 << 20;
const PAGE_TABLES: u64 = 0x1000;
/// The mapping's first byte in guest-physical memory.
const PHYSICAL: u64 = 0x2_0000;
/// Tables of the exception handlers, mapped onto themselves.
const TABLES: u64 = 0x1_0000;
const IDT: u64 = TABLES;
const GDT: u64 = TABLES + 0x1000;
const TSS: u64 = TABLES + 0x1100;
const HANDLERS: u64 = TABLES + 0x2000;
const FAULT_STACK: u64 = TABLES + 0x4000;

/// A guest whose memory lies where the host's mapping lies.
pub struct Guest {
    base: u64,
    ram: GuestRam,
    vcpu: SoftVcpu,
    fresh: CpuState,
}

impl Guest {
    /// A guest with the mapping at `base`.
    pub fn new(base: u64) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let write = |address: u64, value: u64| ram.write(address, &value.to_le_bytes()).unwrap();
        let mut next = PAGE_TABLES + 0x1000;
        let mut map = |linear: u64, physical: u64| {
            let mut table = PAGE_TABLES;
            for shift in [39, 30, 21] {
                let entry = table + 8 * (linear >> shift & 511);
                let mut bytes = [0; 8];
                ram.read(entry, &mut bytes).unwrap();
                table = u64::from_le_bytes(bytes) & !0xfff;
                if table == 0 {
                    table = next;
                    next += 0x1000;
                    assert!(next <= TABLES);
                    write(entry, table | 7);
                }
            }
            write(table + 8 * (linear >> 12 & 511), physical | 7);
        };
        for page in 0..(MAPPING as u64 >> 12) {
            map(base + (page << 12), PHYSICAL + (page << 12));
        }
        for page in 0..8 {
            map(TABLES + (page << 12), TABLES + (page << 12));
        }
        for vector in 0..32 {
            let handler = HANDLERS + 16 * vector;
            // HLT, on the stack that the TSS names first.
            ram.write(handler, &[0xf4]).unwrap();
            write(
                IDT + 16 * vector,
                handler & 0xffff | 8 << 16 | 1 << 32 | 0x8e << 40 | (handler >> 16) << 48,
            );
            write(IDT + 16 * vector + 8, 0);
        }
        write(GDT + 8, 0x00af_9b00_0000_ffff);
        write(GDT + 16, 0x00cf_9300_0000_ffff);
        write(TSS + 36, FAULT_STACK);
        let model = CpuModel::find("Nehalem").unwrap();
        let vcpu = SoftAccelerator::new(ram.clone()).vcpu(model, Topology { apic_id: 0, count: 1 });
        let mut fresh = CpuState::at_reset(model, 0);
        let data = Segment { selector: 16, base: 0, limit: u32::MAX, attributes: 0xc93 };
        fresh.segments = [data; 6];
        fresh.segments[CpuState::CS] = Segment { selector: 8, attributes: 0xa9b, ..data };
        fresh.gdt = DescriptorTable { base: GDT, limit: 23 };
        fresh.idt = DescriptorTable { base: IDT, limit: 32 * 16 - 1 };
        fresh.tr = Segment { selector: 24, base: TSS, limit: 0x67, attributes: 0x8b };
        fresh.cr0 = f::CR0_PE | f::CR0_ET | f::CR0_NE | f::CR0_WP | f::CR0_PG;
        fresh.cr3 = PAGE_TABLES;
        fresh.cr4 = f::CR4_PAE | f::CR4_OSFXSR | f::CR4_OSXMMEXCPT;
        fresh.msrs.efer = f::EFER_LME | f::EFER_LMA | f::EFER_NXE;
        Self { base, ram, vcpu, fresh }
    }

    /// Runs an instruction from a state.
    pub fn run(&mut self, instruction: &[u8], start: &Start) -> Outcome {
        self.ram.write(PHYSICAL, instruction).unwrap();
        self.ram.write(PHYSICAL + MEMORY, &start.memory()).unwrap();
        let mut state = self.fresh.clone();
        state.general = start.registers;
        state.rflags = start.flags;
        state.rip = self.base;
        self.vcpu.set_state(&state, 0).unwrap();
        let end = self.base + instruction.len() as u64;
        // A repeated string instruction goes round several times.
        let after = loop {
            self.vcpu.run(&mut Nothing, 1).unwrap();
            let after = self.vcpu.state(0).unwrap();
            if after.rip != self.base {
                break after;
            }
        };
        let mut memory = vec![0; MEMORY_LENGTH];
        self.ram.read(PHYSICAL + MEMORY, &mut memory).unwrap();
        let fault = (after.rip != end).then(|| ((after.rip - HANDLERS) / 16) as u8);
        let mut registers = after.general;
        if fault.is_some() {
            // The stack pointer is the handler's; a fault leaves the instruction's own alone.
            registers[4] = start.registers[4];
        }
        Outcome { fault, registers, flags: after.rflags, memory }
    }
}
