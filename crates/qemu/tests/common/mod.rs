//! The streams in `golden/`.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Read;
use std::path::Path;

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
