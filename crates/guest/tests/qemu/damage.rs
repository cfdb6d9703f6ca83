//! What the guest is for: it notices. Each test does one kind of damage and expects it by name.

use std::os::unix::fs::FileExt;

use guest::{Check, Flags, Line, Parameters, layout};

use crate::debugger::Debugger;
use crate::host_time;
use crate::machine::{Ending, Folder, MICROVM, Qemu, text};

/// Offsets in a vCPU's own page, as `constants.s` has them.
const SELF_RECEIVED: u64 = 0x50;
const TICK_COUNT: u64 = 0xc0;
/// Numbers of registers in QEMU's debugger stub.
const KERNEL_GS_BASE: u32 = 26;
/// Of the eight in their fixed order: the guest's stack of seven leaves the first one free.
const X87: u32 = 33 + 3;
const XMM10: u32 = 49 + 10;
const MXCSR: u32 = 65;

fn failed(ending: &Ending) -> Check {
    let Some(Line::Fail { check, .. }) = ending.lines.last() else {
        panic!("no FAIL in {} lines", ending.lines.len())
    };
    assert_eq!(ending.exit_code, Some(*check as u8), "{}", ending.text());
    *check
}

/// Runs some rounds, damages the stopped machine, and gives back what the guest says.
fn damaged(parameters: &Parameters, damage: impl FnOnce(&mut Debugger, &Folder)) -> Option<Check> {
    let folder = Folder::new();
    let socket = folder.path("debugger");
    let stub = format!("unix:{},server=on,wait=off", text(&socket));
    let qemu = Qemu::board(MICROVM).with_disk().with(&["-gdb", &stub]);
    let mut running = qemu.start(parameters, &folder)?;
    running.until_round(4);
    let mut debugger = Debugger::stop(&socket);
    damage(&mut debugger, &folder);
    debugger.leave();
    Some(failed(&running.finish()))
}

/// Endless rounds, each with a pause so long that the stop falls into it.
fn parameters() -> Parameters {
    let mut parameters = host_time(Parameters::new(1 << 20, 1, 0));
    parameters.pause_ns = 200_000_000;
    parameters.flags = Flags::DISK;
    parameters
}

fn assert_noticed(check: Option<Check>, expected: Check) {
    assert!(check.is_none_or(|check| check == expected), "{check:?} instead of {expected:?}");
}

#[test]
fn notices_one_bit_of_memory() {
    let check = damaged(&parameters(), |debugger, _| debugger.flip(layout::WORK_AREA_MIN + 0x2fff));
    assert_noticed(check, Check::Memory);
}

#[test]
fn notices_one_bit_of_a_vector_register() {
    let check = damaged(&parameters(), |debugger, _| debugger.flip_register(XMM10, 9));
    assert_noticed(check, Check::Vector);
}

#[test]
fn notices_one_bit_of_an_x87_register() {
    let check = damaged(&parameters(), |debugger, _| debugger.flip_register(X87, 0));
    assert_noticed(check, Check::X87);
}

/// A mask bit: the low byte has flags, which arithmetic sets.
#[test]
fn notices_one_bit_of_mxcsr() {
    let check = damaged(&parameters(), |debugger, _| debugger.flip_register(MXCSR, 1));
    assert_noticed(check, Check::Control);
}

#[test]
fn notices_one_bit_of_a_model_specific_register() {
    let check = damaged(&parameters(), |debugger, _| debugger.flip_register(KERNEL_GS_BASE, 2));
    assert_noticed(check, Check::HeldRegister);
}

#[test]
fn notices_a_tick_too_many() {
    // Bit 8 of a count of about 200: 256 ticks that never were.
    let address = layout::PER_VCPU + TICK_COUNT + 1;
    let check = damaged(&parameters(), |debugger, _| debugger.flip(address));
    assert_noticed(check, Check::Ticks);
}

#[test]
fn notices_an_interrupt_too_many() {
    let address = layout::PER_VCPU + SELF_RECEIVED;
    let check = damaged(&parameters(), |debugger, _| debugger.flip(address));
    assert_noticed(check, Check::Ipi);
}

#[test]
fn notices_one_byte_of_the_disk() {
    let check = damaged(&parameters(), |_, folder| {
        let disk = std::fs::File::options().write(true).open(folder.path("disk"));
        // Blocks 1 to 4 are written: an old one, which the guest reads again before long.
        for block in 1..=4 {
            disk.as_ref().expect("the disk").write_all_at(b"?", block * 4096 + 99).expect("a file");
        }
    });
    assert_noticed(check, Check::DiskData);
}

#[test]
fn notices_a_tsc_of_another_rate() {
    let mut parameters = Parameters::new(256 << 10, 1, 0);
    parameters.tsc_khz = 990_000;
    parameters.pause_ns = 50_000_000;
    let Some(ending) = Qemu::counted().run(&parameters) else { return };
    let check = failed(&ending);
    assert!(matches!(check, Check::Clock | Check::Ticks), "{}", ending.text());
}

#[test]
fn notices_a_missing_vcpu() {
    let parameters = Parameters::new(256 << 10, 2, 0);
    let folder = Folder::new();
    let started = Qemu::counted().start_with_vcpus(&parameters, &folder, 1);
    let Some(running) = started else { return };
    assert_eq!(failed(&running.finish()), Check::Vcpu);
}

#[test]
fn notices_a_missing_disk() {
    let mut parameters = Parameters::new(256 << 10, 1, 0);
    parameters.flags = Flags::DISK;
    let Some(ending) = Qemu::counted().run(&parameters) else { return };
    assert_eq!(failed(&ending), Check::DiskInterrupt);
}
