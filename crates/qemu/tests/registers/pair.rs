//! A legacy slot of QEMU's and one of Ferry's, and a driver that works in both at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use devices::virtio::{
    BlockConfig, BlockKind, EmptySlot, FileDisk, Interface, RngSource, VirtioBlock, VirtioMmio,
    VirtioRng, VirtioSlot,
};
use machine::VirtioInterface;
use memory::GuestRam;

use crate::bus::{PATIENCE, Qemu};

const DISK_BYTES: u64 = 4 << 20;
pub const MEMORY_BYTES: usize = 64 << 20;
pub const SLOTS: [u64; 3] = [0xfeb0_2e00, 0xfeb0_2c00, 0xfeb0_2a00];
pub const BLOCK: usize = 0;
pub const RNG: usize = 1;
pub const EMPTY: usize = 2;

/// The two machines. Whatever is done is done to both.
pub struct Pair {
    pub qemu: Qemu,
    pub ram: GuestRam,
    pub block: VirtioMmio<VirtioBlock>,
    pub rng: VirtioMmio<VirtioRng>,
    pub folder: PathBuf,
}

/// A new folder with an empty disk for QEMU.
pub fn folder(name: &str) -> PathBuf {
    let id = std::process::id();
    let folder = std::env::temp_dir().join(format!("ferry-registers-{id}-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("disk"), vec![0; DISK_BYTES as usize]).unwrap();
    folder
}

pub fn ours(folder: &Path, ram: &GuestRam) -> (VirtioMmio<VirtioBlock>, VirtioMmio<VirtioRng>) {
    let config = BlockConfig {
        sectors: DISK_BYTES / 512,
        read_only: false,
        id: String::new(),
        kind: BlockKind::Qemu,
    };
    let disk = FileDisk::open(&folder.join("our-disk"), false).unwrap();
    let block = VirtioBlock::new(config, Box::new(disk)).unwrap();
    let rng = VirtioRng::new(RngSource::host().unwrap());
    (
        VirtioMmio::new_legacy(SLOTS[BLOCK], block, ram.clone()),
        VirtioMmio::new_legacy(SLOTS[RNG], rng, ram.clone()),
    )
}

impl Pair {
    pub fn new(name: &str) -> Self {
        let folder = folder(name);
        std::fs::copy(folder.join("disk"), folder.join("our-disk")).unwrap();
        let ram = GuestRam::new(MEMORY_BYTES as u64).unwrap();
        let (mut block, rng) = ours(&folder, &ram);
        block.device_mut().backend_mut().lock().unwrap();
        let qemu = Qemu::start(&folder, VirtioInterface::Legacy, None);
        Self { qemu, ram, block, rng, folder }
    }

    fn slot(&mut self, slot: usize) -> &mut dyn VirtioSlot {
        if slot == BLOCK { &mut self.block } else { &mut self.rng }
    }

    pub fn set(&mut self, slot: usize, register: u64, value: u32) {
        self.qemu.bus(&format!("writel {:#x} {value:#x}", SLOTS[slot] + register));
        if slot != EMPTY {
            self.slot(slot).write(0, register, &value.to_le_bytes());
        }
    }

    /// What the guests read: in QEMU, and here.
    pub fn get<const N: usize>(&mut self, slot: usize, register: u64) -> ([u8; N], [u8; N]) {
        let (mut theirs, mut ours) = ([0; N], [0; N]);
        self.qemu.read(SLOTS[slot] + register, &mut theirs);
        match slot {
            EMPTY => EmptySlot::read(Interface::Legacy, register, &mut ours),
            _ => self.slot(slot).read(0, register, &mut ours),
        }
        (theirs, ours)
    }

    pub fn same<const N: usize>(&mut self, slot: usize, register: u64, what: &str) {
        let (theirs, ours) = self.get::<N>(slot, register);
        assert_eq!(theirs, ours, "{what}: slot {slot} register {register:#x}, {N} bytes");
    }

    pub fn store(&mut self, address: u64, bytes: &[u8]) {
        self.qemu.store(address, bytes);
        self.ram.write(address, bytes).unwrap();
    }

    pub fn loaded(&mut self, address: u64, length: usize) -> (Vec<u8>, Vec<u8>) {
        let mut ours = vec![0; length];
        self.ram.read(address, &mut ours).unwrap();
        (self.qemu.load(address, length), ours)
    }

    /// Waits until QEMU, which serves requests when it comes to it, has what is here.
    pub fn settle(&mut self, address: u64, length: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = self.loaded(address, length);
            if theirs == ours {
                return;
            }
            assert!(Instant::now() < end, "at {address:#x}: {theirs:?} there, {ours:?} here");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const RINGS: [u64; 2] = [0x10_0000, 0x20_0000];
pub const BUFFERS: u64 = 0x30_0000;
const SIZE: u16 = 64;

/// A driver that has one request at a time.
pub struct Driver {
    pub slot: usize,
    pub next: u16,
}

impl Driver {
    const fn available(&self) -> u64 {
        RINGS[self.slot] + 16 * SIZE as u64
    }

    pub const fn used(&self) -> u64 {
        RINGS[self.slot] + 0x1000
    }

    pub fn set_up(pair: &mut Pair, slot: usize, features: u32, status: u32) -> Self {
        let driver = Self { slot, next: 0 };
        pair.set(slot, 0x28, 4096);
        for value in [0, 1, 3] {
            pair.set(slot, 0x70, value);
        }
        pair.store(RINGS[slot], &[0; 0x2000]);
        for (register, value) in [
            (0x20, features),
            (0x30, 0),
            (0x38, SIZE.into()),
            (0x3c, 4096),
            (0x40, (RINGS[slot] / 4096) as u32),
            (0x70, status),
        ] {
            pair.set(slot, register, value);
        }
        driver
    }

    /// Makes a request available and tells the device; `parts` are bytes for it or room from it.
    pub fn request(&mut self, pair: &mut Pair, flags: u16, event: u16, parts: &[(&[u8], bool)]) {
        let mut address = BUFFERS;
        for (index, (bytes, writable)) in parts.iter().enumerate() {
            let more = u16::from(index + 1 < parts.len());
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            let kind = more | u16::from(*writable) << 1;
            descriptor[12..14].copy_from_slice(&kind.to_le_bytes());
            descriptor[14..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
            pair.store(RINGS[self.slot] + 16 * index as u64, &descriptor);
            pair.store(address, bytes);
            address += 0x1000;
        }
        let available = self.available();
        pair.store(available + 4 + 2 * u64::from(self.next % SIZE), &[0; 2]);
        pair.store(available + 4 + 2 * u64::from(SIZE), &event.to_le_bytes());
        pair.store(available, &flags.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        pair.store(available + 2, &self.next.to_le_bytes());
        pair.set(self.slot, 0x50, 0);
    }

    /// Waits for the answer, and looks at all of it and at the interrupt.
    pub fn answered(&self, pair: &mut Pair, what: &str) {
        let used = self.used();
        pair.settle(used + 2, 2);
        let mut index = [0; 2];
        pair.ram.read(used + 2, &mut index).unwrap();
        assert_eq!(index, self.next.to_le_bytes(), "{what}");
        let (theirs, ours) = pair.loaded(used, 4 + 8 * usize::from(SIZE) + 2);
        // An index that says nothing without its feature is anything.
        let events = if self.events(pair) { 2 } else { 0 };
        let end = theirs.len() - 2 + events;
        assert_eq!(theirs[..end], ours[..end], "{what}");
        self.interrupted(pair, what);
        pair.set(self.slot, 0x64, 1);
        pair.same::<4>(self.slot, 0x60, what);
    }

    /// Waits for the same interrupt status: QEMU changes it after the index.
    pub fn interrupted(&self, pair: &mut Pair, what: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = pair.get::<4>(self.slot, 0x60);
            if theirs == ours {
                return;
            }
            assert!(Instant::now() < end, "{what}: {theirs:?} there, {ours:?} here");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn events(&self, pair: &mut Pair) -> bool {
        let features = match self.slot {
            BLOCK => pair.block.save().transport.driver_features,
            _ => pair.rng.save().transport.driver_features,
        };
        features & 1 << 29 != 0
    }
}

pub fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}
