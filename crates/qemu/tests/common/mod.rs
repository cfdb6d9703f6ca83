//! The streams in `golden/`.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Read;
use std::path::Path;

use machine::{MachineConfig, RngSource, VirtioKind};

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
