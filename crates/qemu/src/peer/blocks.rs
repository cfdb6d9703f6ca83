//! QEMU's RAM blocks, and where in a machine what they hold belongs.
//!
//! | block | holds |
//! | --- | --- |
//! | `microvm.ram` | memory: offset is guest-physical address up to 3 GiB, the rest begins at 4 GiB. What lies under the firmware is out of the guest's reach |
//! | `pc.bios` | the image of the firmware, which the guest sees at 0xf0000 and below 4 GiB |
//! | `/rom@etc/acpi/tables`, `/rom@etc/table-loader`, `/rom@etc/acpi/rsdp` | the tables that the firmware was given |

use std::ops::Range;

use devices::firmware::FirmwareState;
use machine::{MachineConfig, board};

use crate::PAGE_SIZE;

const RAM: &str = "microvm.ram";
const IMAGE: &str = "pc.bios";
const TABLES: &str = "/rom@etc/acpi/tables";
const LOADER: &str = "/rom@etc/table-loader";
const RSDP: &str = "/rom@etc/acpi/rsdp";
/// Longest of the three tables' blocks: as their sections in the state.
const MAX_TABLES: [(&str, u64); 3] = [(TABLES, 2 << 20), (LOADER, 64 << 10), (RSDP, 64 << 10)];

const FIRMWARE: Range<u64> = board::FIRMWARE.base..board::FIRMWARE.base + board::FIRMWARE.length;

/// Where a page of a block belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Guest memory, at this guest-physical address.
    Memory(u64),
    /// Memory that the guest cannot reach.
    OutOfReach,
    /// Table of this number, at this offset.
    Table(usize, usize),
}

/// The blocks of one machine, in the order of a stream.
#[derive(Debug)]
pub(super) struct Blocks {
    list: Vec<(String, u64)>,
    tables: [Vec<u8>; 3],
}

impl Blocks {
    /// Those that QEMU names, if they are this machine's.
    pub(super) fn named(list: &[(String, u64)], config: &MachineConfig) -> Result<Self, String> {
        let mut tables: [Vec<u8>; 3] = Default::default();
        for (name, length) in list {
            let expected = match name.as_str() {
                RAM => config.memory_bytes,
                IMAGE => board::FIRMWARE.length,
                _ => match MAX_TABLES.iter().position(|(table, _)| table == name) {
                    Some(table) if *length <= MAX_TABLES[table].1 => {
                        tables[table] = vec![0; *length as usize];
                        continue;
                    }
                    Some(_) => return Err(format!("RAM block {name:?} has {length} bytes")),
                    None => {
                        return Err(format!(
                            "RAM block {name:?} of {length} bytes is of a device that this machine \
                             does not have"
                        ));
                    }
                },
            };
            if *length != expected {
                return Err(format!(
                    "RAM block {name:?} has {length} bytes, and this machine's has {expected}"
                ));
            }
        }
        let missing = [RAM, IMAGE, TABLES, LOADER, RSDP]
            .into_iter()
            .find(|of| !list.iter().any(|(name, _)| name == of));
        match missing {
            Some(name) => Err(format!("RAM block {name:?} is missing")),
            None => Ok(Self { list: list.to_vec(), tables }),
        }
    }

    /// Those of a machine with these tables, as QEMU 7.2 orders them.
    pub(super) fn of(config: &MachineConfig, firmware: &FirmwareState) -> Self {
        let FirmwareState { acpi_tables, table_loader, acpi_rsdp } = firmware.clone();
        let tables = [acpi_tables, table_loader, acpi_rsdp];
        let length = |table: usize| tables[table].len() as u64;
        let list = [
            (RAM, config.memory_bytes),
            (TABLES, length(0)),
            (IMAGE, board::FIRMWARE.length),
            (LOADER, length(1)),
            (RSDP, length(2)),
        ]
        .map(|(name, length)| (name.to_owned(), length))
        .into();
        Self { list, tables }
    }

    pub(super) fn list(&self) -> &[(String, u64)] {
        &self.list
    }

    /// Where a page of a block of the list belongs.
    pub(super) fn place(&self, block: usize, offset: u64) -> Place {
        match self.list[block].0.as_str() {
            RAM if FIRMWARE.contains(&offset) => Place::OutOfReach,
            RAM if offset < board::MICROVM_LOW_MEMORY_END => Place::Memory(offset),
            RAM => {
                let above = offset - board::MICROVM_LOW_MEMORY_END;
                Place::Memory(board::HIGH_MEMORY_START + above)
            }
            IMAGE => Place::Memory(FIRMWARE.start + offset),
            name => {
                let table = MAX_TABLES.iter().position(|(table, _)| *table == name);
                Place::Table(table.expect("every other block is a table's"), offset as usize)
            }
        }
    }

    /// Block and offset of the page of memory at a guest-physical address.
    pub(super) fn holder(&self, address: u64) -> (usize, u64) {
        let (name, offset) = match address {
            _ if FIRMWARE.contains(&address) => (IMAGE, address - FIRMWARE.start),
            _ if address < board::MICROVM_LOW_MEMORY_END => (RAM, address),
            _ => (RAM, address - board::HIGH_MEMORY_START + board::MICROVM_LOW_MEMORY_END),
        };
        let block = self.list.iter().position(|(of, _)| of == name);
        (block.expect("both blocks are in every list"), offset)
    }

    /// A page of a table.
    pub(super) fn table_page(&mut self, table: usize, offset: usize) -> &mut [u8] {
        &mut self.tables[table][offset..offset + PAGE_SIZE]
    }

    /// The pages of all tables: block, offset, content.
    pub(super) fn table_pages(&self) -> impl Iterator<Item = (usize, u64, &[u8; PAGE_SIZE])> {
        let tables = MAX_TABLES.iter().zip(&self.tables);
        tables.flat_map(|((name, _), content)| {
            let block = self.list.iter().position(|(of, _)| of == name);
            let block = block.expect("every table is in every list");
            let pages = content.as_chunks::<PAGE_SIZE>().0.iter();
            (0u64..)
                .zip(pages)
                .map(move |(page, content)| (block, page * PAGE_SIZE as u64, content))
        })
    }

    /// The tables, as state.
    pub(super) fn firmware(&self) -> FirmwareState {
        let [acpi_tables, table_loader, acpi_rsdp] = self.tables.clone();
        FirmwareState { acpi_tables, table_loader, acpi_rsdp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::MachineType;

    fn machine(bytes: u64) -> MachineConfig {
        let mut config = MachineConfig::new("guest", [0; 16], bytes);
        config.machine_type = MachineType::Microvm;
        config.hpet = false;
        config
    }

    fn tables() -> FirmwareState {
        FirmwareState {
            acpi_tables: vec![1; 8192],
            table_loader: vec![2; 4096],
            acpi_rsdp: vec![3; 4096],
        }
    }

    #[test]
    fn a_page_goes_there_and_back() {
        let blocks = Blocks::of(&machine(4 << 30), &tables());
        let last = (4 << 30) - 4096;
        for (block, offset, address) in [
            (0, 0, 0),
            (0, 0xe_f000, 0xe_f000),
            (0, 0x10_0000, 0x10_0000),
            (0, 0xbfff_f000, 0xbfff_f000),
            (0, 0xc000_0000, 1 << 32),
            (0, last, (1 << 32) + (1 << 30) - 4096),
            (2, 0xf000, 0xf_f000),
        ] {
            assert_eq!(blocks.place(block, offset), Place::Memory(address));
            assert_eq!(blocks.holder(address), (block, offset));
        }
        assert_eq!(blocks.place(0, 0xf_0000), Place::OutOfReach);
        assert_eq!(blocks.place(1, 4096), Place::Table(0, 4096));
        assert_eq!(blocks.place(4, 0), Place::Table(2, 0));
        let again = Blocks::named(blocks.list(), &machine(4 << 30)).unwrap();
        let pages: Vec<_> =
            blocks.table_pages().map(|(block, at, page)| (block, at, page[0])).collect();
        assert_eq!(pages, [(1, 0, 1), (1, 4096, 1), (3, 0, 2), (4, 0, 3)]);
        let mut filled = again;
        for (block, offset, content) in blocks.table_pages() {
            let Place::Table(table, at) = filled.place(block, offset) else { panic!() };
            filled.table_page(table, at).copy_from_slice(content);
        }
        assert_eq!(filled.firmware(), tables());
    }

    #[test]
    fn blocks_of_another_machine_are_refused_by_name() {
        let list = Blocks::of(&machine(64 << 20), &tables()).list().to_vec();
        type List = Vec<(String, u64)>;
        let refusal = |change: &dyn Fn(&mut List)| {
            let mut list = list.clone();
            change(&mut list);
            Blocks::named(&list, &machine(64 << 20)).unwrap_err()
        };
        assert_eq!(
            refusal(&|list| list[0].1 += 4096),
            "RAM block \"microvm.ram\" has 67112960 bytes, and this machine's has 67108864"
        );
        assert_eq!(refusal(&|list| drop(list.remove(2))), "RAM block \"pc.bios\" is missing");
        assert_eq!(
            refusal(&|list| list.push(("vga.vram".to_owned(), 4096))),
            "RAM block \"vga.vram\" of 4096 bytes is of a device that this machine does not have"
        );
        assert!(refusal(&|list| list[3].1 = 1 << 20).contains("table-loader"));
    }
}
