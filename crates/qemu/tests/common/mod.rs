//! The streams in `golden/`.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use machine::{MachineConfig, MachineType, RngSource, VirtioInterface, VirtioKind};
use qemu::PAGE_SIZE;
use qemu::incoming::{Event, Expected, Incoming, ReceiveError, apply};
use qemu::layout::Layout;
use vmstate::SavedSection;

/// Every golden stream.
pub const NAMES: [&str; 6] = ["reset", "firmware", "linux1", "linux2", "idle", "pc"];

/// The bytes of one.
pub fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = std::fs::File::open(folder.join(format!("{name}.gz"))).expect("a golden stream");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("it is compressed");
    bytes
}

/// Those of machine type `microvm`.
pub const MICROVMS: [&str; 5] = ["reset", "firmware", "linux1", "linux2", "idle"];

/// The machine that one was saved from.
pub fn microvm(name: &str) -> MachineConfig {
    let (cpus, memory) = match name {
        "linux2" => (2, 192 << 20),
        "reset" | "firmware" => (1, 64 << 20),
        _ => (1, 128 << 20),
    };
    let mut config = MachineConfig::new("guest", [0; 16], memory);
    config.machine_type = MachineType::Microvm;
    config.hpet = false;
    config.virtio_interface = match name {
        "linux2" | "idle" => VirtioInterface::Modern,
        _ => VirtioInterface::Legacy,
    };
    config.cpus.count = cpus;
    config.cpus.tsc_khz = 2_596_150;
    let (id, serial) = ("disk0".to_owned(), String::new());
    config.plug(VirtioKind::Block { id, serial, sectors: 8192, read_only: false }).unwrap();
    config.plug(VirtioKind::Rng { id: "rng0".to_owned(), source: RngSource::Host }).unwrap();
    config
}

/// Where the memory of a stream goes.
pub trait Memory {
    /// Takes the list of RAM blocks.
    fn blocks(&mut self, blocks: &[(String, u64)]);
    /// Takes the content of a page.
    fn write(&mut self, block: usize, offset: u64, content: &[u8; PAGE_SIZE]);
    /// Gives the content of a page, which a difference is to be applied to.
    fn read(&self, block: usize, offset: u64) -> [u8; PAGE_SIZE];
}

/// Reads a whole stream, so many bytes at a time.
pub fn receive_in(
    bytes: &[u8],
    at_once: usize,
    layouts: &[Layout],
    memory: &mut dyn Memory,
) -> Result<Vec<SavedSection>, ReceiveError> {
    let layouts = layouts.to_vec();
    let mut incoming = Incoming::new(Expected { layouts, uuid: [0; 16], channels: 0 });
    let mut pieces = bytes.chunks(at_once);
    loop {
        match incoming.next()? {
            None => match pieces.next() {
                Some(piece) => incoming.heard(0, piece),
                None => incoming.ended(0),
            },
            Some(Event::Blocks(blocks)) => memory.blocks(blocks),
            Some(Event::Page { block, offset, content }) => memory.write(block, offset, content),
            Some(Event::Difference { block, offset, delta }) => {
                let mut content = memory.read(block, offset);
                apply(delta, &mut content).expect("a difference");
                memory.write(block, offset, &content);
            }
            Some(Event::RoundEnd) => {}
            Some(Event::Complete(sections)) => return Ok(sections),
        }
    }
}

/// Reads a whole stream.
pub fn receive(
    bytes: &[u8],
    layouts: &[Layout],
    memory: &mut dyn Memory,
) -> Result<Vec<SavedSection>, ReceiveError> {
    receive_in(bytes, 1 << 20, layouts, memory)
}

/// All memory of a stream, page by page.
#[derive(Default)]
pub struct Store {
    /// The RAM blocks.
    pub blocks: Vec<(String, u64)>,
    /// By block and offset.
    pub pages: BTreeMap<(usize, u64), Box<[u8; PAGE_SIZE]>>,
}

impl Store {
    /// The index field of a used ring (virtio 1.2, section 2.7.8), by the ring's address.
    pub fn used_index(&self, ring: u64) -> Option<u16> {
        let page = self.pages.get(&(0, ring & !0xfff))?;
        let offset = (ring & 0xfff) as usize;
        Some(u16::from_le_bytes([page[offset + 2], page[offset + 3]]))
    }
}

impl Memory for Store {
    fn blocks(&mut self, blocks: &[(String, u64)]) {
        self.blocks = blocks.to_vec();
    }

    fn write(&mut self, block: usize, offset: u64, content: &[u8; PAGE_SIZE]) {
        self.pages.insert((block, offset), Box::new(*content));
    }

    fn read(&self, block: usize, offset: u64) -> [u8; PAGE_SIZE] {
        self.pages.get(&(block, offset)).map_or([0; PAGE_SIZE], |page| **page)
    }
}
