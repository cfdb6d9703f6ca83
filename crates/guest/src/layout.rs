//! Where everything lies in guest-physical memory, which is also guest-virtual: the guest runs
//! identity-mapped. Addresses in bytes. The assembly gets the same numbers from `code.rs`.

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// The parameter block: one page, written by the host before the guest starts.
pub const PARAMETERS: u64 = 0x1000;
/// Instruction slots for the self-modifying code check, 64 bytes for each vCPU. They share a page
/// with the parameters because nothing else is stored there while the guest runs.
pub const CODE_SLOTS: u64 = 0x1800;
/// The image: code and variables. It begins with the start-up code of the other vCPUs, so this
/// is also the page that a start-up IPI names.
pub const IMAGE: u64 = 0x2000;
/// End of the room for the image.
pub const IMAGE_END: u64 = 0x8000;
/// Page tables: PML4, page-directory-pointer table, four page directories of 2 MiB pages.
pub const PAGE_TABLES: u64 = 0x8000;
/// A page directory and a page table for the window at [`WINDOW`].
pub const WINDOW_TABLES: u64 = 0xe000;
/// Interrupt descriptor table, 256 gates.
pub const INTERRUPT_TABLE: u64 = 0x1_1000;
/// Virtqueue of the disk.
pub const DISK_QUEUE: u64 = 0x1_2000;
/// Data of the disk requests, one page.
pub const DISK_BUFFER: u64 = 0x1_3000;
/// First vCPU's own memory; the others follow.
pub const PER_VCPU: u64 = 0x1_4000;
/// Bytes of each vCPU's own memory: a page of variables, a page of stacks, a scratch page.
pub const PER_VCPU_SIZE: u64 = 0x3000;
/// Most vCPUs that the guest drives.
pub const MAX_VCPUS: u64 = 4;
/// First address that the guest does not use for itself: the work area may begin here.
pub const WORK_AREA_MIN: u64 = 0x2_0000;
/// Where the work area begins if memory is large enough to leave the ISA hole alone.
pub const WORK_AREA_HIGH: u64 = 0x10_0000;
/// End of the memory below the ISA hole that the work area may use.
pub const WORK_AREA_LOW_END: u64 = 0x8_0000;
/// Least memory that the guest runs in.
pub const MEMORY_MIN: u64 = 0x4_0000;
/// Memory above this address is not used: it is where the board's devices begin.
pub const MEMORY_MAX: u64 = 0xe000_0000;
/// A virtual address at which the guest maps one page of the work area after the other; the only
/// place where virtual and physical addresses differ.
pub const WINDOW: u64 = 0x1_0000_0000;
/// A virtual address that is never mapped.
pub const UNMAPPED: u64 = 0x1_4000_0000;

/// I/O port of the first serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// I/O port of the exit device: one byte, 0 for success, else the number of a [`crate::Check`].
pub const EXIT_PORT: u16 = 0xf4;
/// Registers of the disk's virtio-mmio slot.
pub const DISK_REGISTERS: u64 = 0xfeb0_2e00;
/// Global system interrupt of the disk.
pub const DISK_INTERRUPT: u32 = 47;
