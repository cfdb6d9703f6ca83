//! Tests on the host's KVM, by guests of a few instructions. The last line says which tier of KVM
//! the host has, how many tests ran, and which did not.

mod dirty;
mod guest;
mod interrupts;
mod kicks;
mod ports;
mod round_trip;
mod settle;
mod signals;
mod software;

use std::panic::catch_unwind;
use std::process::ExitCode;

use accel_kvm::{Probe, Tier};

/// A test and the tier that it needs.
struct Test {
    name: &'static str,
    tier: Tier,
    run: fn(),
}

const fn basic(name: &'static str, run: fn()) -> Test {
    Test { name, tier: Tier::Basic, run }
}

const fn full(name: &'static str, run: fn()) -> Test {
    Test { name, tier: Tier::Full, run }
}

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if !std::path::Path::new("/dev/kvm").exists() {
        println!("kvm: there is no /dev/kvm; no test was run");
        return ExitCode::SUCCESS;
    }
    let probe = Probe::run();
    let Some(tier) = probe.tier() else {
        println!("kvm: no guest runs here, no test was run: {:#?}", probe.findings);
        return ExitCode::SUCCESS;
    };
    let lists = [
        ports::TESTS,
        kicks::TESTS,
        interrupts::TESTS,
        settle::TESTS,
        signals::TESTS,
        software::TESTS,
        round_trip::TESTS,
        dirty::TESTS,
    ];
    let (mut ran, mut left_out, mut failed) = (0, Vec::new(), Vec::new());
    for test in lists.into_iter().flatten() {
        if filter.as_ref().is_some_and(|filter| !test.name.contains(filter)) {
            continue;
        }
        if test.tier > tier {
            left_out.push(test.name);
            continue;
        }
        let began = std::time::Instant::now();
        let well = catch_unwind(test.run).is_ok();
        let outcome = if well { "ok" } else { "FAILED" };
        println!("test {} ... {outcome} ({} ms)", test.name, began.elapsed().as_millis());
        ran += 1;
        if !well {
            failed.push(test.name);
        }
    }
    let left_out = if left_out.is_empty() { "nothing".to_owned() } else { left_out.join(", ") };
    println!(
        "kvm: tier {tier:?}; {ran} tests ran, {} failed; for want of a higher tier not run: {left_out}",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
