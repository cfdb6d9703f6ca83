//! The programs' machine code, assembled by rustc from the files in `asm/`, the tables that it
//! stands on, and the state in which the bootstrap processor begins a program.

use cpu::{CpuModel, CpuState, DescriptorTable, Segment, flags as f};

use super::layout;

/// The assembly and the symbols that bound it.
#[expect(unsafe_code, reason = "the programs are assembly; the host never runs it, it is data")]
mod assembly {
    use std::arch::global_asm;

    use super::layout;

    global_asm!(
        include_str!("asm/runtime.s"),
        include_str!("asm/integer.s"),
        include_str!("asm/data.s"),
        include_str!("asm/exceptions.s"),
        include_str!("asm/paging.s"),
        include_str!("asm/interrupts.s"),
        include_str!("asm/timers.s"),
        include_str!("asm/sse.s"),
        include_str!("asm/x87.s"),
        include_str!("asm/syscall.s"),
        include_str!("asm/io.s"),
        include_str!("asm/identity.s"),
        include_str!("asm/walk.s"),
        include_str!("asm/stores.s"),
        include_str!("asm/end.s"),
        idt = const layout::IDT,
        gdt = const layout::GDT,
        tasks = const layout::TASKS,
        task_size = const layout::TASK_SIZE,
        page_tables = const layout::PAGE_TABLES,
        spare_tables = const layout::SPARE_TABLES,
        variables = const layout::VARIABLES,
        image = const layout::IMAGE,
        stacks = const layout::STACKS,
        stack_size = const layout::STACK_SIZE,
        scratch = const layout::SCRATCH,
        results = const layout::RESULTS,
        records = const layout::RECORDS,
        record_size = const layout::RECORD_SIZE,
        results_end = const layout::RESULTS_END,
        large = const layout::LARGE,
        code = const layout::CODE,
        data = const layout::DATA,
        code_32 = const layout::CODE_32,
        user_code_32 = const layout::USER_CODE_32,
        user_data = const layout::USER_DATA,
        user_code = const layout::USER_CODE,
        task = const layout::TASK,
        spare_descriptors = const layout::SPARE_DESCRIPTORS,
        gdt_size = const layout::GDT_SIZE,
        stores_tables = const layout::STORES_TABLES,
        stores_area = const layout::STORES_AREA,
        stores_budget = const layout::STORES_BUDGET,
        stores_done = const layout::STORES_DONE,
        stores_total = const layout::STORES_TOTAL,
    );

    // SAFETY: the symbols are defined by the assembly above, in one read-only section; they are
    // never called, only their addresses and the bytes between them are used.
    unsafe extern "C" {
        pub(super) static ferry_conformance_start: u8;
        pub(super) static ferry_conformance_vectors: u8;
        pub(super) static ferry_conformance_end: u8;
    }
}

/// Code and data of every program.
pub fn bytes() -> &'static [u8] {
    let start = &raw const assembly::ferry_conformance_start;
    let length = (&raw const assembly::ferry_conformance_end).addr() - start.addr();
    assert!(length as u64 <= layout::IMAGE_END - layout::IMAGE);
    // SAFETY: both symbols bound one contiguous run of initialised bytes in `.rodata`, which is
    // mapped readable for the life of the program and never written.
    #[expect(unsafe_code, reason = "the image lies between two symbols of the assembly")]
    unsafe {
        std::slice::from_raw_parts(start, length)
    }
}

/// Guest address of a symbol of the assembly, given its address here.
pub fn guest_address(symbol: *const u8) -> u64 {
    let start = (&raw const assembly::ferry_conformance_start).addr();
    layout::IMAGE + (symbol.addr() - start) as u64
}

/// What lies in memory when a program starts.
pub fn segments() -> Vec<(u64, Vec<u8>)> {
    vec![
        (layout::IDT, idt()),
        (layout::GDT, gdt()),
        (layout::TASKS, [task(0), task(1)].concat()),
        (layout::PAGE_TABLES, page_tables()),
        (layout::IMAGE, bytes().to_vec()),
    ]
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Gates of 64-bit mode (Intel SDM volume 3, section 6.14.1). Breakpoints may be used from ring 3;
/// NMI, double fault and machine check have a stack of their own.
fn idt() -> Vec<u8> {
    let vectors = guest_address(&raw const assembly::ferry_conformance_vectors);
    let gates: Vec<u64> = (0..256)
        .flat_map(|vector| {
            let at = vectors + 16 * vector;
            let privilege = if vector == 3 { 3 } else { 0 };
            let stack = u64::from(matches!(vector, 2 | 8 | 18));
            let kind = 0x8e | privilege << 5;
            let code = u64::from(layout::CODE);
            let low =
                at & 0xffff | code << 16 | stack << 32 | kind << 40 | (at >> 16 & 0xffff) << 48;
            [low, at >> 32]
        })
        .collect();
    words(&gates)
}

fn gdt() -> Vec<u8> {
    let task = |index: u64| {
        let base = layout::TASKS + layout::TASK_SIZE * index;
        (layout::TASK_SIZE - 1) | (base & 0xff_ffff) << 16 | 0x89 << 40
    };
    let mut table = vec![
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        task(0),
        0,
        task(1),
        0,
    ];
    table.resize(usize::from(layout::GDT_SIZE) / 8, 0);
    words(&table)
}

/// A task state segment that lets ring 3 use no port (Intel SDM volume 3, section 7.7).
fn task(vcpu: u64) -> Vec<u8> {
    let mut task = vec![0xff; layout::TASK_SIZE as usize];
    task[..0x68].fill(0);
    let stacks = layout::STACKS + vcpu * layout::STACK_SIZE;
    task[0x04..0x0c].copy_from_slice(&(stacks + 0x2000).to_le_bytes());
    task[0x24..0x2c].copy_from_slice(&(stacks + 0x3000).to_le_bytes());
    task[0x66..0x68].copy_from_slice(&0x68u16.to_le_bytes());
    task
}

/// The first 4 GiB mapped to themselves in 2 MiB pages, for ring 3 too. Accessed and dirty bits
/// start clear: setting them is the page walker's work.
fn page_tables() -> Vec<u8> {
    const USER: u64 = 7;
    const LARGE: u64 = 0x80;
    let mut tables = vec![0; 6 * 512];
    tables[0] = layout::PAGE_TABLES + 0x1000 + USER;
    for gibibyte in 0..4 {
        tables[512 + gibibyte] = layout::PAGE_TABLES + 0x2000 + 0x1000 * gibibyte as u64 + USER;
    }
    for (page, entry) in tables[1024..].iter_mut().enumerate() {
        *entry = (page as u64) << 21 | USER | LARGE;
    }
    words(&tables)
}

/// The bootstrap processor at the first instruction of a program: 64-bit mode, ring 0, interrupts
/// off, tables loaded, x87 and SSE as after FNINIT.
pub fn entry(model: &CpuModel, rip: u64) -> CpuState {
    let mut state = CpuState::at_reset(model, 0);
    state.general = [0; 16];
    state.general[4] = layout::STACKS + 0x1000;
    state.rip = rip;
    state.cr0 = f::CR0_PE | f::CR0_MP | f::CR0_ET | f::CR0_NE | f::CR0_WP | f::CR0_PG;
    state.cr3 = layout::PAGE_TABLES;
    state.cr4 = f::CR4_PAE | f::CR4_OSFXSR | f::CR4_OSXMMEXCPT;
    state.msrs.efer = f::EFER_LME | f::EFER_LMA | f::EFER_NXE;
    // Data segments that ring 3 may keep.
    let user = Segment { selector: layout::USER_DATA, base: 0, limit: u32::MAX, attributes: 0xcf3 };
    state.segments = [user; 6];
    state.segments[CpuState::CS] = Segment { selector: layout::CODE, attributes: 0xa9b, ..user };
    state.segments[CpuState::SS] = Segment { selector: layout::DATA, attributes: 0xc93, ..user };
    state.tr = Segment {
        selector: layout::TASK,
        base: layout::TASKS,
        limit: layout::TASK_SIZE as u32 - 1,
        attributes: 0x8b,
    };
    state.gdt = DescriptorTable { base: layout::GDT, limit: layout::GDT_SIZE - 1 };
    state.idt = DescriptorTable { base: layout::IDT, limit: 256 * 16 - 1 };
    state.x87.control = 0x37f;
    state.x87.tags = 0xffff;
    state
}
