//! Runs a program through the `Vm` handle and reads what it recorded.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use cpu::CpuModel;
use machine::{AcceleratorChoice, ClockMode, HostConfig, MachineConfig};
use memory::GuestRam;
use vmm::{Boot, End, Endpoints, Vm, VmState};

use super::programs::{Expected, Program};
use super::{image, layout};

/// No program needs a tenth of this on the slowest host; one that hangs is ended by it.
const LONGEST: Duration = Duration::from_secs(60);

/// Something that a program recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where: the address after the call that recorded it.
    pub at: u64,
    /// What it found.
    pub value: u64,
    /// What it wanted to find, if it knew.
    pub wanted: Option<u64>,
}

impl Record {
    /// What the program's text calls it: it stands in the code behind a short jump.
    pub fn text(&self) -> String {
        let offset = (self.at - layout::IMAGE) as usize + 2;
        let bytes = image::bytes().get(offset..).unwrap_or(&[]);
        let text = bytes.iter().take_while(|byte| **byte != 0).copied().collect();
        String::from_utf8(text).unwrap_or_default()
    }
}

/// The machine for a program. Software runs are counted in instructions, so that they are the same
/// each time; KVM cannot count. `full`: it promises the CPU model, which only a KVM of the full tier
/// can.
pub fn configuration(program: &Program, accel: AcceleratorChoice, full: bool) -> MachineConfig {
    let mut config = MachineConfig::new("conformance", [3; 16], layout::MEMORY);
    config.cpus.count = program.vcpus;
    config.cpus.promise_tsc = false;
    config.cpus.promise_cpuid = full;
    config.hpet = true;
    config.clock = match accel {
        AcceleratorChoice::Soft => ClockMode::Icount { shift: 0 },
        AcceleratorChoice::Kvm | AcceleratorChoice::Auto => ClockMode::Host,
    };
    config
}

/// A program at its first instruction.
pub fn boot(program: &Program, config: &MachineConfig) -> Boot {
    let model = CpuModel::find(&config.cpus.model).expect("the default model");
    let state = Box::new(image::entry(model, image::guest_address(program.code)));
    Boot::Flat { segments: image::segments(), state }
}

/// What a program records on an accelerator.
///
/// # Errors
/// In words, if it did not come to its end.
pub fn run(program: &Program, accel: AcceleratorChoice, full: bool) -> Result<Vec<Record>, String> {
    let config = configuration(program, accel, full);
    let host = HostConfig { accel, ..HostConfig::default() };
    let vm = Vm::create(&config, &boot(program, &config), &host, Endpoints::default())
        .map_err(|error| format!("no machine: {error}"))?;
    vm.resume().map_err(|error| error.to_string())?;
    let started = Instant::now();
    let end = loop {
        match vm.status().state {
            VmState::Ended(end) => break end,
            _ if started.elapsed() > LONGEST => {
                vm.quit();
                break End::Quit;
            }
            _ => thread::sleep(Duration::from_millis(1)),
        }
    };
    let records = records(&vm.ram());
    if end == End::Exit(0) {
        return Ok(records);
    }
    let mut text = format!("it ended with {end:?} after {} records", records.len());
    if let Some(last) = records.last() {
        let _ = write!(text, ", the last \"{}\" = {:#x}", last.text(), last.value);
    }
    if end == End::Exit(0xee) {
        text += "; ";
        text += &unexpected(&vm.ram());
    }
    Err(text)
}

/// The exception that a program ended with because it did not expect it, in words.
pub fn unexpected(ram: &GuestRam) -> String {
    let word = |offset| word(ram, layout::RESULTS + offset);
    let (vector, error, rip, cr2) = (word(0x08), word(0x10), word(0x18), word(0x20));
    let (cs, ss) = (word(0x28), word(0x30));
    format!(
        "exception {vector} with error code {error:#x} at {cs:#x}:{rip:#x}, ss {ss:#x}, cr2 {cr2:#x}"
    )
}

fn word(ram: &GuestRam, address: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.read(address, &mut bytes).expect("inside memory");
    u64::from_le_bytes(bytes)
}

/// What a program has recorded.
pub fn records(ram: &GuestRam) -> Vec<Record> {
    let room = (layout::RESULTS_END - layout::RECORDS) / layout::RECORD_SIZE;
    let count = word(ram, layout::RESULTS).min(room);
    (0..count)
        .map(|index| {
            let record = layout::RECORDS + index * layout::RECORD_SIZE;
            let wanted = word(ram, record + 8) != 0;
            Record {
                at: word(ram, record),
                value: word(ram, record + 16),
                wanted: wanted.then(|| word(ram, record + 24)),
            }
        })
        .collect()
}

/// The first few records that are not what the program or the harness wanted, in words.
pub fn wrong(program: &Program, records: &[Record]) -> String {
    let mut text = String::new();
    let mut wrong = 0;
    let mut complain = |line: String| {
        wrong += 1;
        if wrong <= 10 {
            let _ = writeln!(text, "  {line}");
        }
    };
    for (index, record) in records.iter().enumerate() {
        if record.wanted.is_some_and(|wanted| wanted != record.value) {
            complain(format!("record {index}: {} is {:#x}", record.text(), record.value));
        }
    }
    let observed: Vec<_> = records.iter().filter(|record| record.wanted.is_none()).collect();
    match program.expected {
        Expected::Known(expected) => {
            let expected = expected();
            if expected.len() != observed.len() {
                complain(format!("{} observations, not {}", observed.len(), expected.len()));
            }
            for (index, (record, (name, value))) in observed.iter().zip(expected).enumerate() {
                if record.value != value {
                    let (text, found) = (record.text(), record.value);
                    complain(format!(
                        "observation {index} ({name}): {text} is {found:#x}, not {value:#x}"
                    ));
                }
            }
        }
        Expected::Nothing if !observed.is_empty() => {
            complain("it observes what nobody knows the value of".to_owned());
        }
        Expected::Nothing | Expected::Same => {}
    }
    if records.is_empty() {
        complain("it recorded nothing".to_owned());
    }
    if wrong > 10 {
        let _ = writeln!(text, "  and {} more", wrong - 10);
    }
    text
}
