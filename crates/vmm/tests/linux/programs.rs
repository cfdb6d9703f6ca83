//! Programs in C: compiled here, run here and in the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sources are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(format!("{name}.c"))
}

/// Compiles a program with these options into a static executable for any x86-64.
///
/// # Panics
/// If gcc does not take it.
pub fn compile(name: &str, options: &[&str], result: &Path) {
    let output = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread"])
        .args(["-march=x86-64", "-msse3", "-fno-strict-aliasing", "-mno-red-zone"])
        .args(options)
        .arg("-o")
        .arg(result)
        .arg(source(name))
        .arg("-lm")
        .output()
        .expect("gcc runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "gcc {options:?} {name}.c:\n{messages}");
}

/// Whether this host's CPU has a feature.
pub fn host_has(feature: &str) -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == feature)
}

/// What a program prints on this host.
///
/// # Panics
/// If it fails.
pub fn run_here(program: &Path) -> Vec<u8> {
    let output = Command::new(program)
        // The C library picks variants of its functions by the CPU. Those with fused operations
        // round once less, which is right as well but not the same; the guest's CPU has none.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2")
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}: {output:?}", program.display());
    output.stdout
}

/// One program, compiled in one way.
pub struct Built {
    /// Program and options in a word.
    pub name: String,
    /// The executable.
    pub file: PathBuf,
    /// What it prints here.
    pub transcript: Vec<u8>,
}

/// A way of compiling: its name and gcc's options.
type Way = (&'static str, &'static [&'static str]);

/// Every program that is compared on any x86-64, compiled in every way.
pub fn all(folder: &Path) -> Vec<Built> {
    const PROGRAMS: [&str; 10] = [
        "integer", "libc", "math", "numbers", "rep", "selfmod", "signals", "sse", "threads", "x87",
    ];
    const WAYS: [Way; 3] =
        [("sse", &["-O2", "-mfpmath=sse"]), ("387", &["-O2", "-mfpmath=387"]), ("plain", &["-O0"])];
    build(folder, &PROGRAMS, &WAYS)
}

/// Programs that are compared on an x86-64-v2, compiled for it.
pub fn all_for_nehalem(folder: &Path) -> Vec<Built> {
    const PROGRAMS: [&str; 6] = ["integer", "libc", "math", "numbers", "sse", "sse4"];
    build(folder, &PROGRAMS, &[("nehalem", &["-O3", "-march=nehalem"])])
}

fn build(folder: &Path, programs: &[&str], ways: &[Way]) -> Vec<Built> {
    let mut built = Vec::new();
    for program in programs {
        for (way, options) in ways {
            let name = format!("{program}-{way}");
            let file = folder.join(&name);
            compile(program, options, &file);
            let transcript = run_here(&file);
            assert!(!transcript.is_empty(), "{name} prints nothing");
            fs::write(folder.join(format!("{name}.here")), &transcript).expect("a transcript");
            built.push(Built { name, file, transcript });
        }
    }
    built
}

/// The first line in which two transcripts differ.
pub fn difference(here: &str, there: &str) -> String {
    let (mut left, mut right) = (here.lines(), there.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (one, other) if one == other => {}
            (one, other) => {
                return format!(
                    "line {number}:\n  here:      {}\n  the guest: {}",
                    one.unwrap_or("(no more)"),
                    other.unwrap_or("(no more)")
                );
            }
        }
    }
    "no line differs".to_owned()
}
