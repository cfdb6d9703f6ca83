//! Small machines with the embedded guest, and moves of a machine that stands still.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod live;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::{Flags, Parameters};
use machine::{ClockMode, HostConfig, MachineConfig};
use memory::{DirtyBitmap, GuestRam};
use migration::{
    Cancel, Cause, MigrationError, MigrationSource, Ownership, Settings, SharedSchemas, Silent,
};
use transport::{Control, Delivered, Delivery, Intake, Sink, TransportError};
use vmm::{Boot, Endpoints, Machine, Stop, VmTarget};
use vmstate::SavedSection;

/// Numbers that are the same in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % bound
    }
}

/// A machine that counts instructions, with `memory` bytes.
pub fn configuration(memory: u64, cpus: u32) -> MachineConfig {
    let mut config = MachineConfig::new("test", [7; 16], memory);
    config.clock = ClockMode::Icount { shift: 0 };
    config.cpus.count = cpus;
    config
}

/// The embedded guest in a machine of this configuration, at its first instruction.
pub fn machine(config: &MachineConfig, rounds: u64) -> Machine {
    let mut parameters = Parameters::new(config.memory_bytes, config.cpus.count.into(), rounds);
    parameters.tsc_khz = config.cpus.tsc_khz;
    parameters.flags = Flags::EXACT_TICKS;
    if config.hpet {
        parameters.flags = parameters.flags.with(Flags::HPET);
    }
    parameters.register_loops = 50;
    Machine::boot(config, &Boot::Embedded(Box::new(parameters)), &HostConfig::default())
        .expect("a machine")
}

/// Runs up to an instruction count or to the guest's own end, which is returned.
pub fn run_to(machine: &mut Machine, instruction: u64) -> Option<Stop> {
    machine.resume().expect("it resumes");
    let end = loop {
        let left = instruction.saturating_sub(machine.instructions());
        if left == 0 {
            break None;
        }
        match machine.run(left).expect("the accelerator runs") {
            Stop::Look => {}
            stop => break Some(stop),
        }
    };
    machine.pause().expect("it pauses");
    end
}

/// What the guest has printed.
pub fn printed(machine: &mut Machine) -> String {
    let bytes: Vec<u8> = machine.take_output().into_iter().flat_map(|(_, bytes)| bytes).collect();
    String::from_utf8(bytes).expect("the guest prints ASCII")
}

/// A machine that stands still, as a source.
pub struct Still<'a>(pub &'a mut Machine);

impl MigrationSource for Still<'_> {
    fn machine_type(&self) -> String {
        self.0.config().machine_type.to_string()
    }
    fn machine(&self) -> Vec<u8> {
        self.0.config().to_fdt().expect("a valid configuration")
    }
    fn schemas(&self) -> SharedSchemas {
        vmm::schemas(self.0.config())
    }
    fn ram(&self) -> GuestRam {
        self.0.ram().clone()
    }
    fn was_running(&self) -> bool {
        false
    }
    fn start_dirty_log(&mut self) -> Result<(), Cause> {
        self.0.harvest_dirty()?;
        Ok(())
    }
    fn stop_dirty_log(&mut self) {}
    fn harvest_dirty(&mut self) -> Result<DirtyBitmap, Cause> {
        Ok(self.0.harvest_dirty()?)
    }
    fn pause(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        let mut sections = self.0.save()?;
        Machine::set_run_state(&mut sections, false);
        Ok(sections)
    }
    fn release(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn retake(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn throttle(&mut self, _: u8) -> Result<(), Cause> {
        Ok(())
    }
}

/// A machine that the test runs itself, as a source that goes on while rounds are sent: each
/// harvest lets it run for some instructions first.
pub struct Stepping<'a> {
    pub machine: &'a mut Machine,
    /// It goes no further than to this instruction.
    pub until: u64,
    /// How many instructions it does before each harvest.
    pub step: u64,
    /// What it printed.
    pub lines: String,
}

impl MigrationSource for Stepping<'_> {
    fn machine_type(&self) -> String {
        self.machine.config().machine_type.to_string()
    }
    fn machine(&self) -> Vec<u8> {
        self.machine.config().to_fdt().expect("a valid configuration")
    }
    fn schemas(&self) -> SharedSchemas {
        vmm::schemas(self.machine.config())
    }
    fn ram(&self) -> GuestRam {
        self.machine.ram().clone()
    }
    fn was_running(&self) -> bool {
        true
    }
    fn start_dirty_log(&mut self) -> Result<(), Cause> {
        self.machine.harvest_dirty()?;
        Ok(())
    }
    fn stop_dirty_log(&mut self) {}
    fn harvest_dirty(&mut self) -> Result<DirtyBitmap, Cause> {
        let to = (self.machine.instructions() + self.step).min(self.until);
        assert!(run_to(self.machine, to).is_none());
        self.lines += &printed(self.machine);
        Ok(self.machine.harvest_dirty()?)
    }
    fn pause(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        let mut sections = self.machine.save()?;
        Machine::set_run_state(&mut sections, false);
        Ok(sections)
    }
    fn release(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn retake(&mut self) -> Result<(), Cause> {
        Ok(())
    }
    fn throttle(&mut self, _: u8) -> Result<(), Cause> {
        Ok(())
    }
}

struct NoControl;

impl Control for NoControl {
    fn shutdown(&self) {}
    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

struct ToVec(Arc<Mutex<Vec<u8>>>);

impl Write for ToVec {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(from);
        Ok(from.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for ToVec {
    fn delivery(&self) -> Delivery {
        Delivery::Commit
    }
    fn control(&self) -> Arc<dyn Control> {
        Arc::new(NoControl)
    }
    fn prepare(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
    fn commit(self: Box<Self>) -> Result<Delivered, TransportError> {
        Ok(Delivered::Confirmed)
    }
    fn discard(self: Box<Self>) {}
}

struct FromVec(io::Cursor<Vec<u8>>);

impl Read for FromVec {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Intake for FromVec {
    fn control(&self) -> Arc<dyn Control> {
        Arc::new(NoControl)
    }
    fn finish(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// The stream of a machine that stands still.
pub fn saved(machine: &mut Machine) -> Vec<u8> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let sink = Box::new(ToVec(Arc::clone(&bytes)));
    migration::save_to(
        &mut Still(machine),
        sink,
        &mut Ownership::without_record(),
        &Settings::stop_and_save(),
        &mut Silent,
        &Cancel::new(),
    )
    .expect("the machine is saved");
    Arc::try_unwrap(bytes).expect("the pipe is closed").into_inner().unwrap()
}

/// The machine that a stream holds, not running.
pub fn restored(stream: Vec<u8>, host: &HostConfig) -> Result<Machine, MigrationError> {
    let mut target = VmTarget::new(host.clone(), |_| Endpoints::default()).without_thread();
    migration::restore_from(
        &mut target,
        Box::new(FromVec(io::Cursor::new(stream))),
        &mut Ownership::without_record(),
        &Settings::default(),
        &mut Silent,
        &Cancel::new(),
    )?;
    Ok(target.into_machine().expect("the machine is built"))
}
