//! The guest as bytes to be put into memory.

use std::borrow::Cow;

use crate::{EntryState, code, layout};

/// Bytes to be put at a guest-physical address before the guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSegment {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: Cow<'static, [u8]>,
}

/// Everything a host needs to start the guest, but for the parameter block, which it writes at
/// [`layout::PARAMETERS`]. Memory that no segment covers must be zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    /// Code and variables, then page tables.
    pub segments: Vec<ImageSegment>,
    /// How the bootstrap vCPU begins.
    pub entry: EntryState,
}

/// The embedded guest.
pub fn image() -> GuestImage {
    let code = ImageSegment { address: layout::IMAGE, bytes: Cow::Borrowed(code::bytes()) };
    let tables = ImageSegment { address: layout::PAGE_TABLES, bytes: Cow::Owned(page_tables()) };
    GuestImage {
        segments: vec![code, tables],
        entry: EntryState::at(layout::IMAGE + code::entry_offset()),
    }
}

/// Present, writable, user (Intel SDM volume 3, table 4-15).
const USER: u64 = 0x7;
/// Page size: a 2 MiB page.
const LARGE: u64 = 0x80;
/// Write-through and cache-disable.
const UNCACHED: u64 = 0x18;

/// Identity-maps the first 4 GiB in 2 MiB pages, for ring 3 too, and leaves one page table for
/// the window. Accessed and dirty bits start clear: setting them is the page walker's work.
fn page_tables() -> Vec<u8> {
    const ENTRIES: u64 = 512;
    let directory = |index: u64| layout::PAGE_TABLES + (2 + index) * layout::PAGE_SIZE;
    let mut words = vec![0u64; 8 * 512];
    let mut set = |table: u64, index: u64, value: u64| {
        let place = (table - layout::PAGE_TABLES) / 8 + index;
        if let Some(word) = usize::try_from(place).ok().and_then(|place| words.get_mut(place)) {
            *word = value;
        }
    };
    let pointers = layout::PAGE_TABLES + layout::PAGE_SIZE;
    set(layout::PAGE_TABLES, 0, pointers | USER);
    for gib in 0..4 {
        set(pointers, gib, directory(gib) | USER);
        for index in 0..ENTRIES {
            let address = (gib * ENTRIES + index) << 21;
            let cache = if address >= layout::MEMORY_MAX { UNCACHED } else { 0 };
            set(directory(gib), index, address | USER | LARGE | cache);
        }
    }
    set(pointers, layout::WINDOW >> 30, layout::WINDOW_TABLES | USER);
    set(layout::WINDOW_TABLES, 0, (layout::WINDOW_TABLES + layout::PAGE_SIZE) | USER);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the image's tables as a processor does; the physical address, if mapped.
    fn walk(tables: &[u8], address: u64) -> Option<u64> {
        let mut table = layout::PAGE_TABLES;
        for (level, shift) in [39, 30, 21, 12].into_iter().enumerate() {
            let place = (table - layout::PAGE_TABLES) + ((address >> shift) & 511) * 8;
            let place = usize::try_from(place).unwrap();
            let entry = u64::from_le_bytes(tables[place..place + 8].try_into().unwrap());
            if entry & 1 == 0 {
                return None;
            }
            assert_eq!(entry & 6, 6, "ring 3 may write everywhere");
            assert_eq!(entry & 0x60, 0, "neither accessed nor dirty yet");
            table = entry & 0x000f_ffff_ffff_f000;
            if level == 3 || entry & LARGE != 0 {
                return Some(table + (address & ((1 << shift) - 1)));
            }
        }
        None
    }

    #[test]
    fn segments_lie_where_the_layout_says() {
        let GuestImage { segments, entry } = image();
        let [code, tables] = &segments[..] else { panic!("two segments") };
        assert_eq!(code.address, layout::IMAGE);
        assert_eq!(code.bytes[..2], [0xfa, 0xfc], "the start-up page begins with cli, cld");
        assert!(code.address + code.bytes.len() as u64 <= layout::IMAGE_END);
        assert!(entry.rip > layout::IMAGE && entry.rip < layout::IMAGE_END);
        assert_eq!(tables.address, layout::PAGE_TABLES);
        assert_eq!(entry.cr3, layout::PAGE_TABLES);
        assert_eq!(tables.bytes.len(), 8 * 4096);
        let own = layout::PER_VCPU + layout::MAX_VCPUS * layout::PER_VCPU_SIZE;
        assert!(own <= layout::WORK_AREA_MIN);
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let tables = page_tables();
        for address in [0, 0x12_3456, 0x7fff_ffff, 0xfeb0_2e00, 0xfee0_0300, 0xffff_ffff] {
            assert_eq!(walk(&tables, address), Some(address), "{address:#x}");
        }
        for address in [layout::WINDOW, layout::UNMAPPED, 1 << 40, 1 << 46] {
            assert_eq!(walk(&tables, address), None, "{address:#x}");
        }
    }
}
