//! Runs the embedded guest under QEMU's own software CPU, which knows nothing of this project.
//! Needs `qemu-system-x86_64`; without it the tests say that they are skipped, or fail under CI.

mod elf;
mod machine;

use guest::{Flags, Line, Parameters, RoundLine};
use machine::{Ending, MICROVM, Qemu};

/// The last line of a run that has to end well, after as many rounds as it was told.
fn passed(parameters: &Parameters, ending: &Ending) -> RoundLine {
    let text = ending.text();
    assert_eq!(ending.exit_code, Some(0), "{text}");
    assert!(matches!(ending.lines.first(), Some(Line::Start(_))), "{text}");
    let rounds = ending.lines.iter().filter(|line| matches!(line, Line::Round(_))).count();
    assert_eq!(rounds as u64, parameters.rounds, "{text}");
    match ending.lines.last() {
        Some(Line::Pass(pass)) => {
            assert_eq!(pass.round, parameters.rounds, "{text}");
            *pass
        }
        _ => panic!("no PASS line:\n{text}"),
    }
}

#[test]
fn smallest_machine_in_counted_time() {
    let mut parameters = Parameters::new(256 << 10, 1, 40);
    parameters.flags = Flags::EXACT_TICKS;
    parameters.pause_ns = 20_000_000;
    let Some(ending) = Qemu::counted().run(&parameters) else { return };
    let pass = passed(&parameters, &ending);
    assert!(pass.pages >= 32 * 40, "{}", ending.text());
    assert!(pass.ticks.lapic >= 160 && pass.ticks.pit >= 160, "{}", ending.text());
}

#[test]
fn two_vcpus_and_a_disk_in_counted_time() {
    let mut parameters = Parameters::new(32 << 20, 2, 12);
    // Not exact: QEMU gives each vCPU turns that are longer than a tick.
    parameters.flags = Flags::DISK;
    parameters.disk_sectors = 64;
    let Some(ending) = Qemu::counted().with_disk().run(&parameters) else { return };
    let pass = passed(&parameters, &ending);
    // Eight to itself, one command and one answer for each of three commands, in each round.
    assert!(pass.ipis >= 12 * (2 * 8 + 3 * 2), "{}", ending.text());
    assert_eq!(pass.disk, 12 * 3 * 4, "{}", ending.text());
}

#[test]
fn four_vcpus_in_host_time() {
    let mut parameters = host_time(Parameters::new(16 << 20, 4, 30));
    parameters.flags = Flags::DISK;
    let Some(ending) = Qemu::board(MICROVM).with_disk().run(&parameters) else { return };
    passed(&parameters, &ending);
}

/// Not in counted time: there this QEMU's HPET fires a periodic timer twice when the comparator is
/// hit to the nanosecond, and the guest says so.
#[test]
fn hpet_in_host_time() {
    let mut parameters = host_time(Parameters::new(2 << 20, 2, 20));
    parameters.flags = Flags::HPET;
    let Some(ending) = Qemu::board("q35,hpet=on").run(&parameters) else { return };
    let pass = passed(&parameters, &ending);
    assert!(pass.ticks.hpet > 0, "{}", ending.text());
}

/// The HPET as reference clock, for hosts that do not give the guest a TSC of its own.
#[test]
fn unpromised_tsc_in_host_time() {
    let mut parameters = host_time(Parameters::new(2 << 20, 2, 20));
    parameters.flags = Flags::HPET
        .with(Flags::TSC_UNPROMISED)
        .with(Flags::CPUID_UNPROMISED)
        .with(Flags::SERIAL_POLLED);
    let Some(ending) = Qemu::board("q35,hpet=on").run(&parameters) else { return };
    passed(&parameters, &ending);
}

/// What a host's own time may be off by, and a pause in each round.
fn host_time(mut parameters: Parameters) -> Parameters {
    parameters.tsc_khz = 0;
    parameters.drift_ppm = 10_000;
    parameters.clock_slack_ns = 1_000_000;
    parameters.pause_ns = 10_000_000;
    parameters
}
