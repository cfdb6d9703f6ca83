//! The devices as a driver meets them: a small driver that speaks to the registers and lays its
//! rings and buffers in guest memory.

mod block;
mod console;
mod legacy;
mod malformed;
mod net;
mod rng;
mod transport;

use memory::GuestRam;

use super::*;

pub(super) const MEGABYTE: u64 = 1 << 20;
pub(super) const BASE: u64 = 0xfeb0_2e00;
const RINGS: u64 = 0x10000;
const RING_STRIDE: u64 = 0x4000;
const BUFFERS: u64 = 0x40000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
pub(super) const NO_INTERRUPT: u16 = 1;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const EVENT_INDEX: u64 = 1 << 29;

pub(super) const STATUS: u64 = 0x70;
pub(super) const NEEDS_RESET: u32 = 0x40;

/// A buffer of a request.
pub(super) enum Part<'a> {
    /// Bytes for the device.
    Give(&'a [u8]),
    /// Room for bytes from the device.
    Take(u32),
}

/// What the driver knows of one of its rings.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub table: u64,
    pub available: u64,
    pub used: u64,
    size: u16,
    next_descriptor: u16,
    pub next_available: u16,
    next_used: u16,
}

impl Ring {
    fn new(index: u64, size: u16) -> Self {
        let table = RINGS + index * RING_STRIDE;
        Self {
            table,
            available: table + 0x1000,
            used: table + 0x2000,
            size,
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        }
    }
}

impl Ring {
    /// A ring of the legacy interface: one piece of memory, the used ring on a page of its own.
    fn legacy(index: u64, size: u16) -> Self {
        let table = RINGS + index * RING_STRIDE;
        let available = table + 16 * u64::from(size);
        let used = (available + 4 + 2 * u64::from(size) + 2).next_multiple_of(4096);
        Self { available, used, ..Self::new(index, size) }
    }
}

/// A guest's driver with its device.
pub(super) struct Driver<D: VirtioDevice> {
    pub slot: VirtioMmio<D>,
    pub ram: GuestRam,
    pub rings: Vec<Ring>,
    next_buffer: u64,
}

impl<D: VirtioDevice> Driver<D> {
    /// A device that nobody has touched yet.
    pub fn idle(device: D) -> Self {
        let ram = GuestRam::new(MEGABYTE).unwrap();
        let slot = VirtioMmio::new(BASE, Transport::FERRY_1, device, ram.clone());
        let rings = (0..D::QUEUES as u64).map(|index| Ring::new(index, 16)).collect();
        Self { slot, ram, rings, next_buffer: BUFFERS }
    }

    /// A device that was brought up by the book with these features (and those of version 1).
    pub fn started(device: D, features: u64) -> Self {
        let mut driver = Self::idle(device);
        driver.agree(features);
        driver.set_up_queues();
        driver.set(STATUS, 0xf);
        assert_eq!(driver.get(STATUS), 0xf);
        driver
    }

    /// Moves the device, as bytes, to a machine of the same make with the same memory: the driver
    /// notices nothing.
    pub fn moved(self, device: D) -> Self {
        self.moved_into(|ram| VirtioMmio::new(BASE, Transport::FERRY_1, device, ram))
    }

    fn moved_into(self, plug: impl FnOnce(GuestRam) -> VirtioMmio<D>) -> Self {
        let Self { slot, ram, rings, next_buffer } = self;
        let other_ram = GuestRam::new(ram.pages() as u64 * 4096).unwrap();
        let mut page = [0; 4096];
        for index in 0..ram.pages() {
            ram.read_page(index, &mut page);
            other_ram.write_page(index, &page);
        }
        let section = slot.save_section();
        let mut other = plug(other_ram.clone());
        other.restore_section(&section).unwrap();
        assert_eq!(other.save_section(), section);
        assert_eq!(other.irq_level(), slot.irq_level());
        Self { slot: other, ram: other_ram, rings, next_buffer }
    }

    pub fn agree(&mut self, features: u64) {
        let features = features | VERSION_1;
        self.set(STATUS, 0);
        self.set(STATUS, 1);
        self.set(STATUS, 3);
        self.set(0x24, 0);
        self.set(0x20, features as u32);
        self.set(0x24, 1);
        self.set(0x20, (features >> 32) as u32);
        self.set(STATUS, 0xb);
        assert_eq!(self.get(STATUS), 0xb, "features are agreed on");
    }

    pub fn set_up_queues(&mut self) {
        for (index, ring) in self.rings.clone().iter().enumerate() {
            self.set(0x30, index as u32);
            assert_eq!(self.get(0x34), 256);
            assert_eq!(self.get(0x44), 0);
            self.set(0x38, ring.size.into());
            let areas = [(0x80, ring.table), (0x90, ring.available), (0xa0, ring.used)];
            for (register, address) in areas {
                self.set(register, address as u32);
                self.set(register + 4, (address >> 32) as u32);
            }
            self.set(0x44, 1);
            assert_eq!(self.get(0x44), 1);
        }
    }

    pub fn get(&mut self, register: u64) -> u32 {
        let mut bytes = [0xee; 4];
        self.slot.read(0, register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn set(&mut self, register: u64, value: u32) {
        self.slot.write(0, register, &value.to_le_bytes());
    }

    pub fn offered(&mut self) -> u64 {
        self.set(0x14, 1);
        let high = self.get(0x10);
        self.set(0x14, 0);
        u64::from(high) << 32 | u64::from(self.get(0x10))
    }

    pub fn load<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(address, &mut bytes).unwrap();
        bytes
    }

    pub fn load16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.load(address))
    }

    pub fn load32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.load(address))
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(address, &mut bytes).unwrap();
        bytes
    }

    /// A place for `length` bytes, and what is put there before the device sees it.
    pub fn place(&mut self, length: u32) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += u64::from(length);
        self.ram.write(address, &vec![0xee; length as usize]).unwrap();
        address
    }

    pub fn descriptor(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.ram.write(at, &address.to_le_bytes()).unwrap();
        self.ram.write(at + 8, &length.to_le_bytes()).unwrap();
        self.ram.write(at + 12, &flags.to_le_bytes()).unwrap();
        self.ram.write(at + 14, &next.to_le_bytes()).unwrap();
    }

    /// Makes the chain that starts at `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.available + 4 + 2 * u64::from(ring.next_available % ring.size);
        ring.next_available = ring.next_available.wrapping_add(1);
        self.ram.write(slot, &head.to_le_bytes()).unwrap();
        self.ram.write(ring.available + 2, &ring.next_available.to_le_bytes()).unwrap();
    }

    /// Makes a request available without a notification; returns its head and where its buffers
    /// are.
    pub fn submit(&mut self, queue: usize, parts: &[Part]) -> (u16, Vec<u64>) {
        let Ring { table, size, next_descriptor: head, .. } = self.rings[queue];
        let mut places = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let at = (head + index as u16) % size;
            let more = if index + 1 < parts.len() { NEXT } else { 0 };
            let (address, length, flags) = match part {
                Part::Give(bytes) => {
                    let address = self.place(bytes.len() as u32);
                    self.ram.write(address, bytes).unwrap();
                    (address, bytes.len() as u32, 0)
                }
                Part::Take(length) => (self.place(*length), *length, WRITE),
            };
            let entry = table + 16 * u64::from(at);
            self.descriptor(entry, address, length, flags | more, (at + 1) % size);
            places.push(address);
        }
        self.rings[queue].next_descriptor = (head + parts.len() as u16) % size;
        self.offer(queue, head);
        (head, places)
    }

    pub fn notify(&mut self, queue: usize) {
        self.set(0x50, queue as u32);
    }

    /// What the device has given back since the last call: heads and lengths.
    pub fn take_used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let ring = self.rings[queue].clone();
        let end = self.load16(ring.used + 2);
        let mut used = Vec::new();
        let mut index = ring.next_used;
        while index != end {
            let entry = ring.used + 4 + 8 * u64::from(index % ring.size);
            used.push((self.load32(entry), self.load32(entry + 4)));
            index = index.wrapping_add(1);
        }
        self.rings[queue].next_used = end;
        used
    }

    /// Reads and acknowledges the interrupt status, as a handler does.
    pub fn take_interrupt(&mut self) -> u32 {
        let status = self.get(0x60);
        assert_eq!(self.slot.irq_level(), status != 0);
        self.set(0x64, status);
        assert!(!self.slot.irq_level());
        status
    }
}

impl<D: LegacyDevice> Driver<D> {
    /// A device behind the legacy interface that nobody has touched yet.
    pub fn legacy(device: D) -> Self {
        let ram = GuestRam::new(MEGABYTE).unwrap();
        let slot = VirtioMmio::new_legacy(BASE, device, ram.clone());
        let rings = (0..D::QUEUES as u64).map(|index| Ring::legacy(index, 16)).collect();
        Self { slot, ram, rings, next_buffer: BUFFERS }
    }

    /// A device that was brought up as Linux does it, with these features.
    pub fn started_legacy(device: D, features: u32) -> Self {
        let mut driver = Self::legacy(device);
        driver.set(0x28, 4096);
        for status in [0, 1, 3] {
            driver.set(STATUS, status);
        }
        driver.set(0x24, 1);
        driver.set(0x20, 0);
        driver.set(0x24, 0);
        driver.set(0x20, features);
        driver.place_queues();
        driver.set(STATUS, 7);
        driver
    }

    pub fn place_queues(&mut self) {
        for (index, ring) in self.rings.clone().iter().enumerate() {
            self.set(0x30, index as u32);
            assert_eq!((self.get(0x40), self.get(0x34)), (0, 1024));
            self.set(0x38, ring.size.into());
            self.set(0x3c, 4096);
            self.set(0x40, (ring.table / 4096) as u32);
            assert_eq!(u64::from(self.get(0x40)), ring.table / 4096);
        }
    }

    pub fn moved_legacy(self, device: D) -> Self {
        self.moved_into(|ram| VirtioMmio::new_legacy(BASE, device, ram))
    }
}
