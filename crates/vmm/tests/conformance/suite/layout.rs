//! Where everything lies in guest-physical memory, which is also guest-virtual unless a program
//! maps it otherwise. Addresses in bytes; the assembly gets the same numbers from `image.rs`.

/// Interrupt descriptor table, 256 gates.
pub const IDT: u64 = 0x1000;
/// Global descriptor table.
pub const GDT: u64 = 0x2000;
/// Task state segments, one a vCPU.
pub const TASKS: u64 = 0x2400;
/// Bytes of each: 0x68, a bitmap of the ports below 0x400, and the byte of ones that ends it.
pub const TASK_SIZE: u64 = 0x100;
/// Page tables: PML4, page-directory-pointer table, four page directories of 2 MiB pages.
pub const PAGE_TABLES: u64 = 0x3000;
/// Six pages for the page tables of programs.
pub const SPARE_TABLES: u64 = 0x9000;
/// What runtime and programs keep: one page.
pub const VARIABLES: u64 = 0xf000;
/// Code. Its first page is what a start-up IPI names.
pub const IMAGE: u64 = 0x1_0000;
/// End of the room for code.
pub const IMAGE_END: u64 = 0x4_0000;
/// Stacks of the vCPUs.
pub const STACKS: u64 = 0x4_0000;
/// Bytes of each vCPU's stacks: programs, faults from ring 3, faults with a stack of their own,
/// ring 3; a page each, growing down.
pub const STACK_SIZE: u64 = 0x4000;
/// 64 KiB for programs to write into.
pub const SCRATCH: u64 = 0x6_0000;
/// What the programs found: a count, what stopped them if something did, then records.
pub const RESULTS: u64 = 0x10_0000;
/// Where records start.
pub const RECORDS: u64 = RESULTS + 0x80;
/// Bytes of a record: where, whether a value is wanted, the value, the value wanted.
pub const RECORD_SIZE: u64 = 32;
/// End of the room for records.
pub const RESULTS_END: u64 = 0x40_0000;
/// Memory for programs that map large pages.
pub const LARGE: u64 = 0x40_0000;
/// Bytes of memory.
pub const MEMORY: u64 = 0x80_0000;

/// Page tables of the program that stores: 8 pages, in memory that no other uses then.
pub const STORES_TABLES: u64 = LARGE;
/// The 16 MiB that it stores to, past the memory of the others.
pub const STORES_AREA: u64 = MEMORY;
/// Bytes of it.
pub const STORES_AREA_SIZE: u64 = 16 << 20;
/// Where its window is mapped.
pub const WINDOW: u64 = 0x400_0000_0000;
/// How many stores it may have made.
pub const STORES_BUDGET: u64 = SCRATCH + 0x1000;
/// How many it has made.
pub const STORES_DONE: u64 = SCRATCH + 0x2000;
/// After how many it ends.
pub const STORES_TOTAL: u64 = 1_000_000;

/// Selectors.
pub const CODE: u16 = 0x08;
pub const DATA: u16 = 0x10;
pub const CODE_32: u16 = 0x18;
pub const USER_CODE_32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER_CODE: u16 = 0x33;
/// The first vCPU's task; the second's is 16 further.
pub const TASK: u16 = 0x40;
/// Descriptors for programs to fill in.
pub const SPARE_DESCRIPTORS: u16 = 0x60;
/// Bytes of the global descriptor table.
pub const GDT_SIZE: u16 = 0x100;
