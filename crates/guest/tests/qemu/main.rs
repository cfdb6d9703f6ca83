//! Runs the embedded guest under QEMU's own software CPU, which knows nothing of this project.
//! Needs `qemu-system-x86_64`; without it the tests say that they are skipped, or fail under CI.

mod control;
mod damage;
mod debugger;
mod elf;
mod machine;

use debugger::Debugger;
use guest::{Flags, Line, Parameters, RoundLine, SliceState, page_word};
use machine::{Ending, Folder, MICROVM, Qemu, text};

/// The last line of a run that has to end well.
fn passed(parameters: &Parameters, ending: &Ending) -> RoundLine {
    let text = ending.text();
    assert_eq!(ending.exit_code, Some(0), "{text}");
    let Some(Line::Pass(pass)) = ending.lines.last() else { panic!("no PASS line:\n{text}") };
    assert_eq!(pass.round, parameters.rounds, "{text}");
    *pass
}

/// What a host's own time may be off by, and a pause in each round.
fn host_time(mut parameters: Parameters) -> Parameters {
    parameters.tsc_khz = 0;
    parameters.drift_ppm = 10_000;
    parameters.clock_slack_ns = 1_000_000;
    parameters.pause_ns = 10_000_000;
    parameters
}

#[test]
fn smallest_machine_in_counted_time() {
    let mut parameters = Parameters::new(256 << 10, 1, 40);
    parameters.flags = Flags::EXACT_TICKS;
    parameters.pause_ns = 20_000_000;
    let Some(ending) = Qemu::counted().run(&parameters) else { return };
    let pass = passed(&parameters, &ending);
    let rounds = ending.lines.iter().filter(|line| matches!(line, Line::Round(_))).count();
    assert!(matches!(ending.lines[0], Line::Start(start) if start.work_pages == 32));
    assert_eq!(rounds, 40, "{}", ending.text());
    // Two pages before they are rewritten and all 32, in each round; all 32 at the end.
    assert_eq!(pass.pages, 34 * 40 + 32, "{}", ending.text());
    assert!(pass.ticks.lapic >= 160 && pass.ticks.pit >= 160, "{}", ending.text());
    assert!(pass.ticks.rtc >= 80, "{}", ending.text());
    assert_eq!(pass.ipis, 8 * 40, "{}", ending.text());
    assert_eq!(pass.faults, 6 * 40, "{}", ending.text());
}

/// The guest depends on nothing but instructions: two runs print the same, TSC and all.
#[test]
fn counted_time_repeats() {
    let mut parameters = Parameters::new(512 << 10, 1, 10);
    parameters.flags = Flags::EXACT_TICKS;
    parameters.pause_ns = 7_000_000;
    let lines = |seed: u64| {
        let mut parameters = parameters.clone();
        parameters.seed = seed;
        let mut lines = Qemu::counted().run(&parameters)?.lines;
        // The firmware before the guest does not repeat to the instruction: count from its start.
        let mut first = None;
        for line in &mut lines {
            if let Line::Round(counts) | Line::Pass(counts) = line {
                let start = *first.get_or_insert(counts.tsc);
                counts.tsc -= start;
            }
        }
        Some(lines)
    };
    let Some(once) = lines(1) else { return };
    assert_eq!(Some(once), lines(1));
}

#[test]
fn two_vcpus_and_a_disk_in_counted_time() {
    let mut parameters = Parameters::new(32 << 20, 2, 12);
    // Not exact: QEMU gives each vCPU turns that are longer than a tick.
    parameters.flags = Flags::DISK;
    parameters.disk_sectors = 64;
    let Some(ending) = Qemu::counted().with_disk().run(&parameters) else { return };
    let pass = passed(&parameters, &ending);
    // Each vCPU eight to itself, one command and one answer for each of three commands, in each
    // round; a command before them and one after them.
    assert_eq!(pass.ipis, 12 * (2 * 8 + 3 * 2) + 4, "{}", ending.text());
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

/// QEMU's own migration is a good one, and the guest finds nothing wrong with it.
#[test]
fn survives_moves_by_qemu() {
    const MOVES: u64 = 4;
    let mut parameters = host_time(Parameters::new(8 << 20, 2, 60));
    parameters.flags = Flags::DISK;
    let folder = Folder::new();
    let saved = text(&folder.path("saved"));
    let incoming = format!("exec:cat '{saved}'");
    for count in 0..=MOVES {
        let socket = folder.path(&format!("control-{count}"));
        let control = format!("unix:{},server=on,wait=off", text(&socket));
        let mut qemu = Qemu::board(MICROVM).with_disk().with(&["-qmp", &control]);
        if count > 0 {
            qemu = qemu.with(&["-incoming", &incoming]);
        }
        let Some(mut running) = qemu.start(&parameters, &folder) else { return };
        if count == MOVES {
            passed(&parameters, &running.finish());
        } else {
            running.until_round(5 * (count + 1));
            let quit = control::save_and_quit(&socket, &saved);
            let ending = running.finish();
            assert!(quit.is_ok() && !ending.text().contains("FAIL"), "{quit:?}\n{}", ending.text());
        }
    }
}

/// Memory of a guest between two rounds is what the model says, word by word.
#[test]
fn memory_is_as_modelled() {
    const ROUNDS: u64 = 19;
    let mut parameters = host_time(Parameters::new(256 << 10, 1, 0));
    parameters.pages_per_round = 3;
    parameters.pause_ns = 5_000_000_000;
    let folder = Folder::new();
    let socket = folder.path("debugger");
    let stub = format!("unix:{},server=on,wait=off", text(&socket));
    // Counted time passes at once while the guest is halted, but for this last pause.
    let Some(mut running) = Qemu::board(MICROVM)
        .with(&["-gdb", &stub, "-icount", "shift=0,sleep=off"])
        .start(&parameters, &folder)
    else {
        return;
    };
    running.until_round(ROUNDS);
    let mut debugger = Debugger::stop(&socket);
    // Counted time flies: find the round that the guest is in, by the lap and cursor it keeps.
    let own = debugger.read(guest::layout::PER_VCPU + 0x28, 16);
    let word = |index: usize| {
        u64::from_le_bytes(own[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
    };
    let written = (word(0) - 1) * 32 + word(1);
    let slice = SliceState::after(&parameters, 0, written / 3);
    assert!(written >= 3 * ROUNDS);
    for turn in 0..slice.count {
        let (address, lap) = slice.page(turn);
        let page = debugger.read(address, 2048);
        for (index, bytes) in page.chunks_exact(8).enumerate() {
            let found = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            let expected = page_word(parameters.seed, address, lap, index as u64);
            assert_eq!(found, expected, "page {address:#x} lap {lap} word {index}");
        }
    }
}
