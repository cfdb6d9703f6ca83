//! The entry contract: the state in which the bootstrap vCPU begins the image.

use crate::layout;

/// A segment register as the guest expects it at entry (Intel SDM volume 3, section 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Type, S, DPL, P in bits 0 to 7; AVL, L, D/B, G in bits 12 to 15, as in bytes 5 and 6 of a descriptor.
    pub attributes: u16,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Registers of the bootstrap vCPU at entry. Every general register that is not named is 0, every
/// other register is as after reset; the other vCPUs wait for INIT and SIPI as after reset.
/// The guest loads its own GDT, IDT and TSS before it enables interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// First instruction.
    pub rip: u64,
    /// Address of the parameter block.
    pub rsi: u64,
    /// Stack pointer; the guest sets its own before it pushes anything.
    pub rsp: u64,
    /// Flags: interrupts off.
    pub rflags: u64,
    /// CR0: PE, MP, ET, NE, WP, PG.
    pub cr0: u64,
    /// CR3: the page tables of the image.
    pub cr3: u64,
    /// CR4: PAE, OSFXSR, OSXMMEXCPT.
    pub cr4: u64,
    /// IA32_EFER: LME, LMA.
    pub efer: u64,
    /// CS: 64-bit code, ring 0.
    pub cs: SegmentState,
    /// DS, ES, FS, GS, SS: flat data, ring 0.
    pub data: SegmentState,
    /// GDTR: empty; the selectors above need no table in memory.
    pub gdt: EntryTable,
    /// IDTR: empty; a fault before the guest has its own table is a triple fault.
    pub idt: EntryTable,
}

impl EntryState {
    pub(crate) const fn at(rip: u64) -> Self {
        Self {
            rip,
            rsi: layout::PARAMETERS,
            rsp: 0,
            rflags: 0x2,
            cr0: CR0,
            cr3: layout::PAGE_TABLES,
            cr4: CR4,
            efer: 0x500,
            cs: SegmentState { selector: 0x08, base: 0, limit: u32::MAX, attributes: 0xa09b },
            data: SegmentState { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc093 },
            gdt: EntryTable { base: 0, limit: 0 },
            idt: EntryTable { base: 0, limit: 0 },
        }
    }
}

/// CR0 of every vCPU: PE, MP, ET, NE, WP, PG.
pub(crate) const CR0: u64 = 0x8001_0033;
/// CR4 of every vCPU: PAE, OSFXSR, OSXMMEXCPT.
pub(crate) const CR4: u64 = 0x620;
