//! The page walk: 4-level, PAE and 32-bit tables, accessed and dirty bits, and the page faults that
//! come of it (Intel SDM volume 3, chapter 4).

use cpu::flags as f;

use crate::core::Core;
use crate::fault::{self, Done, Fault, Trap};
use crate::tlb::Access;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const FAULT_PRESENT: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;
const FAULT_USER: u32 = 1 << 2;
const FAULT_RESERVED: u32 = 1 << 3;
const FAULT_FETCH: u32 = 1 << 4;

/// Where a linear address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Guest-physical address.
    pub(crate) physical: u64,
    /// True if a store may go there without a further walk: the leaf is writable and marked dirty.
    pub(crate) writable: bool,
    /// Size of the page where it is not 4 KiB.
    pub(crate) large: Option<u64>,
}

/// How a table is laid out.
struct Level {
    shift: u32,
    index_bits: u32,
    may_be_large: bool,
    /// The entry has no permission bits of its own (PAE's top level).
    bare: bool,
}

const fn level(shift: u32, index_bits: u32, may_be_large: bool) -> Level {
    Level { shift, index_bits, may_be_large, bare: false }
}

/// Gibibyte pages are not in any model yet, so the third level is never a leaf.
const LONG: &[Level] =
    &[level(39, 9, false), level(30, 9, false), level(21, 9, true), level(12, 9, false)];
const PAE: &[Level] = &[
    Level { shift: 30, index_bits: 2, may_be_large: false, bare: true },
    level(21, 9, true),
    level(12, 9, false),
];
const LEGACY: &[Level] = &[level(22, 10, true), level(12, 10, false)];

impl Core {
    /// True if the address is canonical for 48-bit linear addresses.
    #[inline]
    pub(crate) fn canonical(address: u64) -> bool {
        ((address as i64) << 16 >> 16) as u64 == address
    }

    fn page_fault(&mut self, linear: u64, access: Access, user: bool, error: u32) -> Trap {
        let mut error = error;
        if access == Access::Write {
            error |= FAULT_WRITE;
        }
        if user {
            error |= FAULT_USER;
        }
        let no_execute = self.msrs.efer & f::EFER_NXE != 0 && self.cr4 & f::CR4_PAE != 0;
        if access == Access::Fetch && no_execute {
            error |= FAULT_FETCH;
        }
        self.fault = Fault { vector: fault::PAGE, error_code: Some(error), address: linear };
        Trap
    }

    /// Translates a linear address, sets accessed and dirty bits, or raises #PF.
    pub(crate) fn walk(&mut self, linear: u64, access: Access, user: bool) -> Done<Translation> {
        if !self.paging() {
            let physical = linear & 0xffff_ffff;
            return Ok(Translation { physical, writable: true, large: None });
        }
        let long = self.long_mode();
        let wide = long || self.cr4 & f::CR4_PAE != 0;
        let levels = match (long, wide) {
            (true, _) => LONG,
            (_, true) => PAE,
            _ => LEGACY,
        };
        let linear_in_tables = if long { linear } else { linear & 0xffff_ffff };
        let mut table = match (long, wide) {
            (true, _) => self.cr3 & ADDRESS,
            (_, true) => self.cr3 & 0xffff_ffe0,
            _ => self.cr3 & 0xffff_f000,
        };
        let entry_size = if wide { 8 } else { 4 };
        let mut permissions = WRITABLE | USER;
        let mut no_execute = false;
        let physical_limit = !0u64 << self.model.physical_bits() & ADDRESS;
        for (depth, level) in levels.iter().enumerate() {
            let index = linear_in_tables >> level.shift & ((1 << level.index_bits) - 1);
            let place = table + index * entry_size;
            let entry = self.read_table(place, wide);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, user, 0));
            }
            let last = depth + 1 == levels.len();
            let large_allowed = wide || self.cr4 & f::CR4_PSE != 0;
            let leaf = last || level.may_be_large && large_allowed && entry & LARGE != 0;
            let mut reserved = 0;
            if wide {
                reserved |= physical_limit;
                if self.msrs.efer & f::EFER_NXE == 0 || level.bare {
                    reserved |= NO_EXECUTE;
                }
                if !long {
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if level.bare {
                    reserved |= 0x1e6;
                } else if !leaf && !level.may_be_large {
                    reserved |= LARGE;
                }
                if leaf && !last {
                    reserved |= (1 << level.shift) - (1 << 13);
                }
            } else if leaf && !last {
                // PSE-36 offers physical bits 32 to 39 in bits 13 to 20; bit 21 is reserved.
                reserved |= 1 << 21;
            }
            if entry & reserved != 0 {
                return Err(self.page_fault(linear, access, user, FAULT_PRESENT | FAULT_RESERVED));
            }
            if !level.bare {
                permissions &= entry;
                no_execute |= wide && entry & NO_EXECUTE != 0;
            }
            if !leaf {
                if !level.bare && entry & ACCESSED == 0 {
                    self.write_table(place, entry | ACCESSED, wide);
                }
                table = entry & if wide { ADDRESS } else { 0xffff_f000 };
                continue;
            }
            let write_protected =
                permissions & WRITABLE == 0 && (user || self.cr0 & f::CR0_WP != 0);
            let denied = user && permissions & USER == 0
                || access == Access::Write && write_protected
                || access == Access::Fetch && no_execute;
            if denied {
                return Err(self.page_fault(linear, access, user, FAULT_PRESENT));
            }
            let mut marked = entry | ACCESSED;
            if access == Access::Write {
                marked |= DIRTY;
            }
            if marked != entry {
                self.write_table(place, marked, wide);
            }
            let size = 1u64 << level.shift;
            let mut base = entry & if wide { ADDRESS } else { 0xffff_f000 } & !(size - 1);
            if !wide && !last {
                base |= (entry >> 13 & 0xff) << 32;
            }
            return Ok(Translation {
                physical: base | linear_in_tables & (size - 1),
                writable: !write_protected && marked & DIRTY != 0,
                large: (!last).then_some(size),
            });
        }
        unreachable!("the last level is a leaf")
    }

    /// An entry of a page table. Tables outside RAM read as not present.
    fn read_table(&self, place: u64, wide: bool) -> u64 {
        let mut bytes = [0; 8];
        let size = if wide { 8 } else { 4 };
        if self.ram.read(place, &mut bytes[..size]).is_err() {
            return 0;
        }
        u64::from_le_bytes(bytes)
    }

    /// Marks an entry; the store is logged and, if the table lies among code, drops the code.
    fn write_table(&mut self, place: u64, entry: u64, wide: bool) {
        let bytes = entry.to_le_bytes();
        let size = if wide { 8 } else { 4 };
        self.store_physical(place, &bytes[..size]);
    }
}
