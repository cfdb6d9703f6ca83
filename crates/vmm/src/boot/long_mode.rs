//! A bootstrap processor in 64-bit mode with paging on, as the Linux boot protocol asks for.

use cpu::{CpuModel, CpuState, DescriptorTable, Segment, flags as f};
use memory::{GuestRam, MemoryError};

/// Where the descriptor table lies.
const GDT: u64 = 0x500;
/// Page tables: one PML4, one PDPT, four page directories that map 4 GiB onto itself.
const PAGE_TABLES: u64 = 0x9000;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const CODE_ATTRIBUTES: u16 = 0xa9b;
const DATA_ATTRIBUTES: u16 = 0xc93;
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
const TABLE_ENTRY: u64 = 0x3;
const LARGE_PAGE: u64 = 0x83;

/// Writes descriptor table and page tables and returns the state that uses them.
pub(super) fn enter(
    model: &'static CpuModel,
    ram: &GuestRam,
    rip: u64,
) -> Result<CpuState, MemoryError> {
    let gdt = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR];
    for (index, descriptor) in gdt.iter().enumerate() {
        ram.write(GDT + 8 * index as u64, &descriptor.to_le_bytes())?;
    }
    ram.write(PAGE_TABLES, &((PAGE_TABLES + 0x1000) | TABLE_ENTRY).to_le_bytes())?;
    for gibibyte in 0..4 {
        let directory = PAGE_TABLES + 0x2000 + 0x1000 * gibibyte;
        ram.write(PAGE_TABLES + 0x1000 + 8 * gibibyte, &(directory | TABLE_ENTRY).to_le_bytes())?;
        for index in 0..512 {
            let page = gibibyte << 30 | index << 21;
            ram.write(directory + 8 * index, &(page | LARGE_PAGE).to_le_bytes())?;
        }
    }
    let mut state = CpuState::at_reset(model, 0);
    let data =
        Segment { selector: DATA_SELECTOR, base: 0, limit: u32::MAX, attributes: DATA_ATTRIBUTES };
    state.segments = [data; 6];
    state.segments[CpuState::CS] =
        Segment { selector: CODE_SELECTOR, attributes: CODE_ATTRIBUTES, ..data };
    state.gdt = DescriptorTable { base: GDT, limit: 8 * gdt.len() as u16 - 1 };
    state.idt = DescriptorTable { base: 0, limit: 0 };
    state.cr0 = f::CR0_PE | f::CR0_ET | f::CR0_PG;
    state.cr3 = PAGE_TABLES;
    state.cr4 = f::CR4_PAE;
    state.msrs.efer = f::EFER_LME | f::EFER_LMA;
    state.rip = rip;
    Ok(state)
}
