//! The Linux guest that `tools/linux-guest` brings.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cpio::newc;

/// Kernel and initial RAM disk.
///
/// # Errors
/// A sentence, if they are not there.
pub fn guest_files() -> Result<[PathBuf; 2], String> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let files = ["vmlinuz", "initrd.gz"].map(|name| target.join("linux-guest").join(name));
    match files.iter().find(|file| !file.exists()) {
        None => Ok(files),
        Some(file) => Err(format!("there is no {} (run tools/linux-guest)", file.display())),
    }
}

/// What a test needs and may not have; says so where it is missing, except in CI (the variable `CI`
/// is set), where that fails.
pub fn wanted<T>(found: Result<T, String>) -> Option<T> {
    if let Err(missing) = &found {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("left out: {missing}");
    }
    found.ok()
}

/// Writes an initial RAM disk with entries added: name, mode, contents. A further archive, which
/// the kernel unpacks over the first.
pub fn with_entries(initrd: &Path, entries: &[(&str, u32, &[u8])], result: &Path) {
    let mut bytes = fs::read(initrd).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    for (number, (name, mode, data)) in (1..).zip(entries) {
        let entry = newc::Builder::new(name).ino(number).nlink(1).mode(*mode);
        let mut writer = entry.write(&mut bytes, data.len() as u32);
        writer.write_all(data).unwrap();
        writer.finish().unwrap();
    }
    newc::trailer(&mut bytes).unwrap();
    fs::write(result, bytes).unwrap();
}
