//! The files of the Linux guest: Debian's kernel, its initrd, and what the tests add to it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpio::newc;

/// Where a build of this workspace puts things that outlive a run.
fn target_directory() -> PathBuf {
    // Cargo gives tests a folder of their own in it.
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().expect("the target directory is above").to_owned()
}

/// A folder for the files of one test, empty.
///
/// # Panics
/// If it cannot be made.
pub fn scratch(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("linux-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a scratch folder");
    folder
}

/// What the guest boots.
pub struct GuestFiles {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// An initrd with busybox and virtio's modules.
    pub initrd: PathBuf,
}

/// The files that `tools/linux-guest` brings, and a compiler for the programs. Where something is
/// missing the test is left out with a line that says what, except in CI.
///
/// # Panics
/// In CI, if something is missing.
pub fn wanted(test: &str) -> Option<GuestFiles> {
    let folder = target_directory().join("linux-guest");
    let files = GuestFiles { kernel: folder.join("vmlinuz"), initrd: folder.join("initrd.gz") };
    let mut missing = Vec::new();
    if !cfg!(target_arch = "x86_64") {
        missing.push("a host whose programs the guest can run (x86-64)".to_owned());
    }
    for file in [&files.kernel, &files.initrd] {
        if !file.exists() {
            missing.push(format!("{} (run tools/linux-guest)", file.display()));
        }
    }
    if !has_compiler() {
        missing.push("a C compiler that links statically (packages gcc, libc6-dev)".to_owned());
    }
    if missing.is_empty() {
        return Some(files);
    }
    let missing = missing.join(", ");
    assert!(std::env::var_os("CI").is_none(), "{test} needs {missing}");
    println!("{test} is left out: it needs {missing}");
    None
}

fn has_compiler() -> bool {
    let libc = Command::new("gcc").arg("-print-file-name=libc.a").output();
    // What gcc does not find it prints as it was asked for.
    libc.is_ok_and(|found| found.status.success() && found.stdout.starts_with(b"/"))
}

/// The SHA-256 of a file in hexadecimal, as the host's own tool says.
///
/// # Panics
/// If there is no such tool.
pub fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().expect("sha256sum runs");
    assert!(output.status.success(), "{}: {output:?}", file.display());
    let text = String::from_utf8(output.stdout).expect("sha256sum prints ASCII");
    text.split(' ').next().expect("the digest comes first").to_owned()
}

/// Files to be added to an initrd: a further archive behind it, which the kernel unpacks over the
/// first (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(data.len()).expect("files of tests are small");
        let entry = newc::Builder::new(name).ino(self.entries).nlink(1).mode(mode);
        let mut writer = entry.write(&mut self.bytes, length);
        writer.write_all(data).expect("there is memory");
        writer.finish().expect("all of it is written");
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// Adds a file that can be executed.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100_755, data);
    }

    /// Writes the initrd with these files added.
    ///
    /// # Panics
    /// If a file cannot be read or written.
    pub fn add_to(mut self, initrd: &Path, result: &Path) {
        newc::trailer(&mut self.bytes).expect("there is memory");
        let mut bytes = fs::read(initrd).expect("the initrd");
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(self.bytes);
        fs::write(result, bytes).expect("the new initrd");
    }
}
