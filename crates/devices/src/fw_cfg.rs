//! Firmware configuration device, as QEMU specifies it (`docs/specs/fw_cfg.rst`): items that the
//! guest selects by number and reads through a port or by DMA.
//!
//! What the items hold follows from the machine configuration, so only the guest's place in them
//! is state. There are no items that the guest can write.

use memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};
use vmstate::VmState;

use crate::RestoreError;

/// Number of ports that the device takes: selector, data, and the DMA address.
pub const FW_CFG_PORTS: u64 = 12;
/// Longest name of a file, in bytes.
pub const FW_CFG_NAME_MAX: usize = 55;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA: u64 = 4;
const DMA_LOW: u64 = 8;
const DMA_END: u64 = 12;
/// What the DMA register reads as, most significant byte first.
const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";

const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

const KEY_SIGNATURE: u16 = 0x0000;
const KEY_ID: u16 = 0x0001;
const KEY_RAM_SIZE: u16 = 0x0003;
const KEY_CPUS: u16 = 0x0005;
const KEY_MAX_CPUS: u16 = 0x000f;
const KEY_DIRECTORY: u16 = 0x0019;
const KEY_FIRST_FILE: u16 = 0x0020;
/// Selector keys have 14 bits of item number; the others choose the architecture's own items and
/// the write channel, of which there are none.
const KEY_LIMIT: u16 = 0x4000;

/// The contents cannot be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// A file name that does not fit its field.
    #[error("fw_cfg file name {0:?} is empty, longer than 55 bytes or not printable ascii")]
    Name(String),
    /// A name that occurs twice.
    #[error("fw_cfg file {0:?} is given twice")]
    Twice(String),
    /// More files, or a longer one, than the directory can describe.
    #[error("fw_cfg files are too many or too large")]
    TooLarge,
}

/// What the device tells the guest; it follows from the machine configuration.
#[derive(Clone, Debug, Default)]
pub struct FwCfgContents {
    /// Number of CPUs.
    pub cpus: u16,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Files by name, e.g. `etc/table-loader`.
    pub files: Vec<(String, Vec<u8>)>,
    /// The machine comes from where there were further items, whose content is not known here: a
    /// place in one that is not there is kept, and nothing is read from it.
    pub foreign: bool,
}

/// Saved state of the firmware configuration device.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fw_cfg", version = 1)]
pub struct FwCfgState {
    /// Key of the selected item, whether or not there is such an item.
    pub selected: u16,
    /// Bytes of the selected item that were read.
    pub offset: u32,
    /// What the guest has written of the guest-physical address of a DMA request.
    pub dma_address: u64,
}

/// The firmware configuration device.
#[derive(Debug)]
pub struct FwCfg {
    /// Items in ascending order of their keys.
    items: Vec<(u16, Vec<u8>)>,
    foreign: bool,
    ram: GuestRam,
    selected: u16,
    offset: u32,
    dma_address: u64,
}

impl FwCfg {
    /// A device that offers `contents` and whose requests are in `ram`.
    ///
    /// # Errors
    /// If a file's name or length has no place in the directory.
    pub fn new(contents: FwCfgContents, ram: GuestRam) -> Result<Self, FwCfgError> {
        let FwCfgContents { cpus, ram_size, mut files, foreign } = contents;
        // The directory is sorted by name, so that the numbers do not depend on the order given.
        files.sort();
        let count = u16::try_from(files.len()).map_err(|_| FwCfgError::TooLarge)?;
        if count > KEY_LIMIT - KEY_FIRST_FILE {
            return Err(FwCfgError::TooLarge);
        }
        if let Some(twice) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(FwCfgError::Twice(twice[0].0.clone()));
        }
        let mut directory = u32::from(count).to_be_bytes().to_vec();
        let mut items = vec![
            (KEY_SIGNATURE, b"QEMU".to_vec()),
            // Bit 0: the traditional interface, bit 1: DMA.
            (KEY_ID, 3u32.to_le_bytes().to_vec()),
            (KEY_RAM_SIZE, ram_size.to_le_bytes().to_vec()),
            (KEY_CPUS, cpus.to_le_bytes().to_vec()),
            (KEY_MAX_CPUS, cpus.to_le_bytes().to_vec()),
        ];
        let mut file_items = Vec::with_capacity(files.len());
        for (key, (name, data)) in (KEY_FIRST_FILE..).zip(files) {
            let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
            if name.is_empty() || name.len() > FW_CFG_NAME_MAX || !printable {
                return Err(FwCfgError::Name(name));
            }
            let length = u32::try_from(data.len()).map_err(|_| FwCfgError::TooLarge)?;
            let mut field = [0; FW_CFG_NAME_MAX + 1];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(length.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(field);
            file_items.push((key, data));
        }
        items.push((KEY_DIRECTORY, directory));
        items.extend(file_items);
        Ok(Self { items, foreign, ram, selected: KEY_SIGNATURE, offset: 0, dma_address: 0 })
    }

    /// Reads ports; `offset` is the port less the base.
    pub fn read(&mut self, _now: u64, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            *byte = match port {
                DATA => {
                    let mut next = [0];
                    self.take(&mut next);
                    next[0]
                }
                DMA..DMA_END => DMA_SIGNATURE[(port - DMA) as usize],
                _ => 0,
            };
        }
    }

    /// Writes ports; `offset` is the port less the base. Writing the low half of the DMA address,
    /// or the whole of it, starts the transfer.
    pub fn write(&mut self, _now: u64, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (DMA, &[a, b, c, d]) => {
                self.dma_address = u64::from(u32::from_be_bytes([a, b, c, d])) << 32;
            }
            (DMA_LOW, &[a, b, c, d]) => {
                self.dma_address |= u64::from(u32::from_be_bytes([a, b, c, d]));
                self.transfer();
            }
            (DMA, &[a, b, c, d, e, f, g, h]) => {
                self.dma_address = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                self.transfer();
            }
            _ => (),
        }
    }

    /// The device has no interrupt line.
    pub fn irq_level(&self) -> bool {
        false
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
    }

    /// The part of the selected item that has not been read.
    fn rest(&self) -> &[u8] {
        self.items
            .binary_search_by_key(&self.selected, |(key, _)| *key)
            .ok()
            .and_then(|index| self.items[index].1.get(self.offset as usize..))
            .unwrap_or(&[])
    }

    /// Reads on in the selected item; past its end there are zeroes.
    fn take(&mut self, into: &mut [u8]) {
        let rest = self.rest();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        into[length..].fill(0);
        self.skip(length);
    }

    /// The place in an item never goes past its end, whatever a guest asks for.
    fn skip(&mut self, length: usize) {
        let length = self.rest().len().min(length);
        self.offset += length as u32;
    }

    /// Does the request that the DMA address points to, and tells the outcome in its control word.
    fn transfer(&mut self) {
        let address = GuestAddress(std::mem::take(&mut self.dma_address));
        let mut request = [0; 16];
        // A request outside RAM has no control word that could be written.
        if self.ram.mmap().read_slice(&mut request, address).is_err() {
            return;
        }
        let [control, length, high, low] = std::array::from_fn(|word| {
            let bytes = &request[4 * word..4 * word + 4];
            u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        });
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & DMA_READ != 0 {
            self.copy_out(u64::from(high) << 32 | u64::from(low), length)
        } else if control & DMA_WRITE != 0 {
            false
        } else {
            if control & DMA_SKIP != 0 {
                self.skip(length as usize);
            }
            true
        };
        let outcome: u32 = if done { 0 } else { DMA_ERROR };
        // The read above has shown that the control word is in RAM.
        let _ = self.ram.mmap().write_slice(&outcome.to_be_bytes(), address);
    }

    fn copy_out(&mut self, mut address: u64, length: u32) -> bool {
        let mut left = length as usize;
        let mut chunk = [0; 4096];
        while left != 0 {
            let part = &mut chunk[..left.min(4096)];
            self.take(part);
            if self.ram.mmap().write_slice(part, GuestAddress(address)).is_err() {
                return false;
            }
            left -= part.len();
            address = address.wrapping_add(part.len() as u64);
        }
        true
    }

    /// The state to be sent.
    pub fn save(&self) -> FwCfgState {
        let Self { items: _, foreign: _, ram: _, selected, offset, dma_address } = self;
        FwCfgState { selected: *selected, offset: *offset, dma_address: *dma_address }
    }

    /// Becomes the device that was saved.
    ///
    /// # Errors
    /// If the place is past the end of the selected item, that is, if the items are not those of
    /// the machine that was saved; the device is then unchanged.
    pub fn restore(&mut self, state: &FwCfgState) -> Result<(), RestoreError> {
        let FwCfgState { selected, offset, dma_address } = state;
        let item = self.items.iter().find(|(key, _)| key == selected);
        let length = item.map_or(0, |(_, data)| data.len());
        if *offset as usize > length && (item.is_some() || !self.foreign) {
            let reason =
                format!("offset {offset} is past the end of item {selected:#x} of {length} bytes");
            return Err(RestoreError::new("fw_cfg", reason));
        }
        self.selected = *selected;
        self.offset = *offset;
        self.dma_address = *dma_address;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (FwCfg, GuestRam) {
        let ram = GuestRam::new(1 << 20).unwrap();
        let files =
            vec![("opt/b".to_owned(), vec![7; 5000]), ("etc/a".to_owned(), b"hello".to_vec())];
        let contents = FwCfgContents { cpus: 2, ram_size: 1 << 20, files, foreign: false };
        (FwCfg::new(contents, ram.clone()).unwrap(), ram)
    }

    fn read_port(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(0, 0, &key.to_le_bytes());
        (0..length)
            .map(|_| {
                let mut byte = [0xee];
                device.read(0, 1, &mut byte);
                byte[0]
            })
            .collect()
    }

    fn request(ram: &GuestRam, at: u64, control: u32, length: u32, address: u64) {
        let mut bytes = control.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        ram.write(at, &bytes).unwrap();
    }

    fn outcome(ram: &GuestRam, at: u64) -> u32 {
        let mut bytes = [0; 4];
        ram.read(at, &mut bytes).unwrap();
        u32::from_be_bytes(bytes)
    }

    fn start(device: &mut FwCfg, at: u64) {
        let bytes = at.to_be_bytes();
        device.write(0, 4, &bytes[..4]);
        device.write(0, 8, &bytes[4..]);
    }

    #[test]
    fn items_read_through_the_port() {
        let (mut device, _) = device();
        assert_eq!(read_port(&mut device, 0, 5), *b"QEMU\0");
        assert_eq!(read_port(&mut device, 1, 4), [3, 0, 0, 0]);
        assert_eq!(read_port(&mut device, 3, 8), (1u64 << 20).to_le_bytes());
        assert_eq!(read_port(&mut device, 5, 2), [2, 0]);
        assert_eq!(read_port(&mut device, 0x21, 3), [7, 7, 7]);
        assert_eq!(read_port(&mut device, 0x1234, 3), [0; 3]);
        let mut signature = [0; 4];
        device.read(0, 4, &mut signature);
        assert_eq!(&signature, b"QEMU");
        device.read(0, 8, &mut signature);
        assert_eq!(&signature, b" CFG");
    }

    #[test]
    fn the_directory_lists_files_by_name() {
        let (mut device, _) = device();
        let directory = read_port(&mut device, 0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 5, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..18], b"etc/a\0");
        assert_eq!(directory[68..76], [0, 0, 0x13, 0x88, 0, 0x21, 0, 0]);
        assert_eq!(&directory[76..82], b"opt/b\0");
    }

    #[test]
    fn dma_reads_into_memory_and_marks_it_dirty() {
        let (mut device, ram) = device();
        request(&ram, 0x1000, 0x21 << 16 | DMA_SELECT | DMA_READ, 5003, 0x2ffe);
        ram.write(0x2ffe + 5000, &[1; 4]).unwrap();
        ram.harvest();
        start(&mut device, 0x1000);
        assert_eq!(outcome(&ram, 0x1000), 0);
        let mut copied = [0; 5004];
        ram.read(0x2ffe, &mut copied).unwrap();
        assert_eq!(copied[..5000], [7; 5000]);
        assert_eq!(copied[5000..], [0, 0, 0, 1]);
        assert_eq!(ram.harvest().iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn dma_skips_and_goes_on() {
        let (mut device, ram) = device();
        request(&ram, 0x1000, 0x20 << 16 | DMA_SELECT | DMA_SKIP, 2, 0);
        start(&mut device, 0x1000);
        assert_eq!(outcome(&ram, 0x1000), 0);
        request(&ram, 0x1000, DMA_READ, 3, 0x3000);
        device.write(0, 4, &0x1000u64.to_be_bytes());
        let mut copied = [0; 3];
        ram.read(0x3000, &mut copied).unwrap();
        assert_eq!(&copied, b"llo");
    }

    #[test]
    fn requests_that_cannot_be_done_say_so() {
        let (mut device, ram) = device();
        for (control, address) in
            [(DMA_READ, 1 << 40), (DMA_READ, (1 << 20) - 2), (DMA_READ, u64::MAX), (DMA_WRITE, 0)]
        {
            request(&ram, 0x1000, control, 4, address);
            start(&mut device, 0x1000);
            assert_eq!(outcome(&ram, 0x1000), DMA_ERROR);
        }
        start(&mut device, u64::MAX - 3);
        request(&ram, 0x1000, DMA_SKIP, u32::MAX, 0);
        start(&mut device, 0x1000);
        assert_eq!(device.save().offset, 4, "the place stays inside the item");
    }

    #[test]
    fn a_read_goes_on_after_a_move() {
        let (mut source, _) = device();
        assert_eq!(read_port(&mut source, 0x20, 2), *b"he");
        source.write(0, 4, &[0, 0, 0, 0]);
        let state = source.save();
        let (mut destination, _) = device();
        let section = vmstate::SavedSection::encode("fw_cfg", 0, &state);
        assert_eq!(section.data, [0, 0x20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        destination.restore(&section.decode().unwrap()).unwrap();
        assert_eq!(destination.save(), state);
        let mut byte = [0];
        destination.read(0, 1, &mut byte);
        assert_eq!(byte, *b"l");

        let before = destination.save();
        let past = FwCfgState { offset: 6, ..state.clone() };
        assert!(destination.restore(&past).is_err());
        let unknown = FwCfgState { selected: 0x99, offset: 1, ..state };
        assert!(destination.restore(&unknown).is_err());
        assert_eq!(destination.save(), before);
    }

    #[test]
    fn a_place_in_an_item_that_is_not_known_here_is_kept() {
        let ram = GuestRam::new(4096).unwrap();
        let contents = FwCfgContents { foreign: true, ..FwCfgContents::default() };
        let mut device = FwCfg::new(contents, ram).unwrap();
        let state = FwCfgState { selected: 0x11, offset: 9_000_000, dma_address: 0 };
        device.restore(&state).unwrap();
        let mut byte = [7];
        device.read(0, 1, &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(device.save(), state);
        let past = FwCfgState { selected: KEY_SIGNATURE, offset: 5, dma_address: 0 };
        assert!(device.restore(&past).is_err());
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let ram = GuestRam::new(4096).unwrap();
        let with = |names: &[&str]| {
            let files = names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
            FwCfg::new(FwCfgContents { files, ..FwCfgContents::default() }, ram.clone()).err()
        };
        assert!(matches!(with(&[""]), Some(FwCfgError::Name(_))));
        assert!(matches!(with(&[&"x".repeat(56)]), Some(FwCfgError::Name(_))));
        assert!(matches!(with(&["a", "b", "a"]), Some(FwCfgError::Twice(_))));
        assert!(with(&[&"x".repeat(55)]).is_none());
    }
}
