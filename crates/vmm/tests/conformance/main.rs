//! One suite for every accelerator: small guest programs, each run to its end on a machine of its
//! own, whose results are held against what the architecture says, and against each other.
#![cfg(target_arch = "x86_64")]

mod suite;

use std::io::Write as _;

use machine::AcceleratorChoice;
use suite::programs::{self, Tier};
use suite::run;

/// A line that the test harness does not swallow when the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "conformance: {line}");
}

#[test]
fn the_software_cpu_gives_every_result() {
    let mut failures = String::new();
    let programs = programs::all();
    for program in &programs {
        let problem = match run::run(program, AcceleratorChoice::Soft) {
            Ok(records) => run::wrong(program, &records),
            Err(text) => format!("  {text}\n"),
        };
        if !problem.is_empty() {
            failures += &format!("{}:\n{problem}", program.name);
        }
    }
    assert!(failures.is_empty(), "on the software CPU\n{failures}");
    let full: Vec<String> = programs
        .iter()
        .filter(|program| program.tier == Tier::Full)
        .map(|program| format!("{} ({})", program.name, program.needs))
        .collect();
    say(&format!(
        "{} programs ran on the software CPU; KVM has to be of the full tier for {}: {}",
        programs.len(),
        full.len(),
        full.join(", ")
    ));
}
