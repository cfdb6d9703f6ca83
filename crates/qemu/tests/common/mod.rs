//! The streams in `golden/`.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use machine::{MachineConfig, RngSource, VirtioKind};
use qemu::receive::{Memory, PAGE_SIZE};

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
    config.hpet = false;
    config.cpus.count = cpus;
    config.cpus.tsc_khz = 2_596_150;
    let (id, serial) = ("disk0".to_owned(), String::new());
    config.plug(VirtioKind::Block { id, serial, sectors: 8192, read_only: false }).unwrap();
    config.plug(VirtioKind::Rng { id: "rng0".to_owned(), source: RngSource::Host }).unwrap();
    config
}

/// The first RAM block, page by page.
#[derive(Default)]
pub struct Pages(HashMap<u64, [u8; PAGE_SIZE]>);

impl Pages {
    /// The index field of a used ring (virtio 1.2, section 2.7.8), by the ring's address.
    pub fn used_index(&self, ring: u64) -> Option<u16> {
        let (page, offset) = (ring & !0xfff, (ring & 0xfff) as usize);
        let page = self.0.get(&page)?;
        Some(u16::from_le_bytes([page[offset + 2], page[offset + 3]]))
    }
}

impl Memory for Pages {
    fn blocks(&mut self, _: &[(String, u64)]) -> Result<(), String> {
        Ok(())
    }

    fn write(&mut self, block: usize, offset: u64, content: &[u8; PAGE_SIZE]) {
        if block == 0 {
            self.0.insert(offset, *content);
        }
    }

    fn read(&self, _: usize, offset: u64) -> [u8; PAGE_SIZE] {
        self.0.get(&offset).copied().unwrap_or([0; PAGE_SIZE])
    }
}
