//! The numbers of the format. Those that QEMU defines are named as there
//! (`migration/qemu-file-types.h`, `migration/ram.c`).

use vmstate::VmState;

/// Bytes of a page, and the alignment of everything about memory.
pub const PAGE_SIZE: usize = 4096;
/// Bytes that the device tree may have.
pub const MAX_MACHINE: u32 = 1 << 20;
/// Bytes that the name of a machine type may have.
pub const MAX_MACHINE_TYPE: u32 = 255;
/// RAM blocks that a machine may have.
pub const MAX_RAM_BLOCKS: usize = 1 << 16;

pub(crate) const MAGIC: u32 = 0x5145_564d;
pub(crate) const VERSION: u32 = 3;

pub(crate) const EOF: u8 = 0x00;
pub(crate) const SECTION_START: u8 = 0x01;
pub(crate) const SECTION_PART: u8 = 0x02;
pub(crate) const SECTION_END: u8 = 0x03;
pub(crate) const SECTION_FULL: u8 = 0x04;
pub(crate) const DESCRIPTION: u8 = 0x06;
pub(crate) const CONFIGURATION: u8 = 0x07;
pub(crate) const FOOTER: u8 = 0x7e;

/// Where the flags of a RAM record are: below the page's offset.
pub(crate) const FLAGS: u64 = PAGE_SIZE as u64 - 1;
pub(crate) const FLAG_ZERO: u64 = 0x02;
pub(crate) const FLAG_MEM_SIZE: u64 = 0x04;
pub(crate) const FLAG_PAGE: u64 = 0x08;
pub(crate) const FLAG_EOS: u64 = 0x10;
pub(crate) const FLAG_CONTINUE: u64 = 0x20;

pub(crate) const RAM: &str = "ram";
pub(crate) const RAM_VERSION: u32 = 4;

pub(crate) const MACHINE_ID: u32 = 0;
pub(crate) const RAM_ID: u32 = 1;
/// The first device's section; the others follow one by one.
pub(crate) const FIRST_DEVICE_ID: u32 = 2;

/// The machine configuration.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "machine", version = 1)]
pub(crate) struct Machine {
    /// The flattened device tree.
    #[vmstate(max = MAX_MACHINE)]
    pub(crate) tree: Vec<u8>,
}
