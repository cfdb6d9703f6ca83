//! One suite for every accelerator: small guest programs, each run to its end on a machine of its
//! own, whose results are held against what the architecture says, and against each other.
#![cfg(target_arch = "x86_64")]

mod suite;

use std::io::Write as _;

use accel_kvm::Probe;
use machine::AcceleratorChoice;
use suite::programs::{self, Program, Tier};
use suite::run::{self, Record};

/// A line that the test harness does not swallow when the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "conformance: {line}");
}

/// What a program records, and what is wrong with it, in words.
fn tried(program: &Program, accel: AcceleratorChoice, full: bool) -> (Vec<Record>, String) {
    match run::run(program, accel, full) {
        Ok(records) => {
            let wrong = run::wrong(program, &records);
            (records, wrong)
        }
        Err(text) => (Vec::new(), format!("  {text}\n")),
    }
}

fn complain(failures: &mut String, program: &Program, problem: &str) {
    if !problem.is_empty() {
        *failures += &format!("{}:\n{problem}", program.name);
    }
}

#[test]
fn the_software_cpu_gives_every_result() {
    let mut failures = String::new();
    let programs = programs::all();
    for program in &programs {
        let (_, problem) = tried(program, AcceleratorChoice::Soft, true);
        complain(&mut failures, program, &problem);
    }
    assert!(failures.is_empty(), "on the software CPU\n{failures}");
    say(&format!("the software CPU ran all {} programs", programs.len()));
}

#[test]
fn kvm_gives_the_results_of_the_software_cpu() {
    let probe = Probe::run();
    let Some(tier) = probe.tier() else {
        let why = probe.findings.first().map_or("nothing was found", |found| &found.detail);
        say(&format!("KVM ran no program: there is none that runs a guest here: {why}"));
        return;
    };
    let full = tier == accel_kvm::Tier::Full;
    let (mut failures, mut ran, mut left) = (String::new(), 0, Vec::new());
    for program in &programs::all() {
        if program.tier == Tier::Full && !full {
            left.push(format!("{} ({})", program.name, program.needs));
            continue;
        }
        ran += 1;
        let (here, problem) = tried(program, AcceleratorChoice::Kvm, full);
        complain(&mut failures, program, &problem);
        let (there, _) = tried(program, AcceleratorChoice::Soft, full);
        if problem.is_empty() && here != there {
            let first = here.iter().zip(&there).find(|(here, there)| here != there);
            let problem = first.map_or_else(
                || format!("  {} records, {} on the software CPU\n", here.len(), there.len()),
                |(here, there)| {
                    let (text, here, there) = (here.text(), here.value, there.value);
                    format!("  {text} is {here:#x}, {there:#x} on the software CPU\n")
                },
            );
            complain(&mut failures, program, &problem);
        }
    }
    assert!(failures.is_empty(), "on KVM, tier {tier:?}\n{failures}");
    let left_out = match left.len() {
        0 => "none was left out".to_owned(),
        count => format!("not run here, for want of the full tier: {count}: {}", left.join(", ")),
    };
    say(&format!("KVM, tier {tier:?}, ran {ran} programs, with the same results; {left_out}"));
}
