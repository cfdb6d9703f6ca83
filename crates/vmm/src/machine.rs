//! A machine: vCPUs, board and memory, run by one thread that takes the vCPUs in turn.

use std::time::Duration;

use accel_soft::SoftAccelerator;
use cpu::{AcceleratorError, CpuModel, CpuState, Exit, Topology, Vcpu};
use machine::{HostConfig, MachineConfig};
use memory::{DirtyBitmap, GuestRam, MemoryError};

use crate::board::{Board, Request};
use crate::boot::{self, Boot, BootError};
use crate::slots::{self, BackendError, SlotDevice};

/// Instructions that a vCPU runs before the next one has its turn. A promise of `ferry-1` under
/// icount: another number gives another run.
const SLICE: u64 = 20_000;
/// Nanoseconds that an instruction is taken for until the speed of this host is known.
const FIRST_GUESS_NS: f64 = 10.0;
/// Longest run on the host's clock, in nanoseconds: how late a look at the world may be.
const LONGEST_RUN_NS: f64 = 500_000.0;

/// A machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A CPU model that no accelerator here knows.
    #[error("cpu model {0:?} is unknown")]
    CpuModel(String),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A back end is missing or wrong.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// What it boots cannot be used.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The accelerator does not take the first state.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
}

/// Why the machine stopped running for a moment.
#[derive(Debug)]
pub enum Stop {
    /// It ran for as long as it was asked to, or wants somebody to look at input and commands.
    Look,
    /// Nothing runs until this many nanoseconds have passed, or input comes.
    Idle(Duration),
    /// Every vCPU is idle, and no timer is armed: only input can wake it.
    Asleep,
    /// The guest asked for something.
    Request(Request),
    /// A vCPU met a triple fault.
    Shutdown(u32),
}

/// A machine that is built; it runs only while [`Machine::run`] is called.
pub struct Machine {
    pub(crate) config: MachineConfig,
    pub(crate) ram: GuestRam,
    pub(crate) vcpus: Vec<Box<dyn Vcpu>>,
    pub(crate) board: Board,
    /// The vCPU whose turn it is, and how much of it is left.
    pub(crate) turn: usize,
    pub(crate) slice_left: u64,
    ns_per_instruction: f64,
}

impl Machine {
    /// Builds a machine in its power-up state, with its clock stopped.
    ///
    /// # Errors
    /// If this host cannot offer what the configuration asks for.
    pub fn build(config: &MachineConfig, host: &HostConfig) -> Result<Self, BuildError> {
        let model = CpuModel::find(&config.cpus.model)
            .ok_or_else(|| BuildError::CpuModel(config.cpus.model.clone()))?;
        let ram = GuestRam::new(config.memory_bytes)?;
        let slots = slots::plug(config, host, &ram)?;
        let board = Board::new(config, &ram, slots)?;
        let accelerator = SoftAccelerator::new(ram.clone());
        let count = config.cpus.count;
        let vcpus = (0..count)
            .map(|apic_id| {
                let vcpu = accelerator.vcpu(model, Topology { apic_id, count });
                Box::new(vcpu) as Box<dyn Vcpu>
            })
            .collect();
        Ok(Self {
            config: config.clone(),
            ram,
            vcpus,
            board,
            turn: 0,
            slice_left: SLICE,
            ns_per_instruction: FIRST_GUESS_NS,
        })
    }

    /// Builds a machine and puts into it what it boots.
    ///
    /// # Errors
    /// If it cannot be built here, or the boot files cannot be used.
    pub fn boot(
        config: &MachineConfig,
        boot: &Boot,
        host: &HostConfig,
    ) -> Result<Self, BuildError> {
        let mut machine = Self::build(config, host)?;
        let model = CpuModel::find(&config.cpus.model)
            .ok_or_else(|| BuildError::CpuModel(config.cpus.model.clone()))?;
        let state = boot::prepare(boot, config, model, &machine.ram)?;
        machine.start_at(&state)?;
        Ok(machine)
    }

    /// The configuration.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Guest memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The board.
    pub fn board(&mut self) -> &mut Board {
        &mut self.board
    }

    /// Gives the bootstrap processor its first state.
    fn start_at(&mut self, state: &CpuState) -> Result<(), AcceleratorError> {
        let tsc = self.board.clock.tsc(self.board.clock.now(0));
        self.vcpus[0].set_state(state, tsc)
    }

    /// Instructions executed by all vCPUs since the machine first started.
    pub fn instructions(&self) -> u64 {
        self.board.clock.instructions()
    }

    /// Lets the clock run.
    pub fn resume(&mut self) {
        self.board.clock.start();
    }

    /// Stops the clock. Call it between two calls of [`Self::run`] only.
    pub fn pause(&mut self) {
        self.board.clock.stop();
    }

    /// Runs for a while, and for at most `limit` instructions.
    ///
    /// # Errors
    /// If the accelerator fails.
    pub fn run(&mut self, limit: u64) -> Result<Stop, AcceleratorError> {
        let mut left = limit;
        loop {
            let now = self.board.clock.now(0);
            self.board.advance(now);
            for (vcpu, signal) in self.board.take_signals() {
                self.vcpus[vcpu].signal(signal);
            }
            if left == 0 {
                return Ok(Stop::Look);
            }
            let Some(vcpu) = self.next_vcpu() else {
                if let Some(stop) = self.idle(now) {
                    return Ok(stop);
                }
                continue;
            };
            let budget = self.budget(now).min(left);
            let started = self.board.clock.now(0);
            self.board.current = vcpu;
            self.board.clear_attention();
            let ran = self.vcpus[vcpu].run(&mut self.board, budget)?;
            self.board.clock.executed(ran.instructions);
            self.slice_left = self.slice_left.saturating_sub(ran.instructions);
            left = left.saturating_sub(ran.instructions);
            self.learn_speed(started, ran.instructions);
            if let Some(request) = self.board.take_request() {
                return Ok(Stop::Request(request));
            }
            match ran.exit {
                Exit::Shutdown => return Ok(Stop::Shutdown(vcpu as u32)),
                Exit::Idle | Exit::Yield => self.end_turn(),
                Exit::Budget | Exit::Attention if self.slice_left == 0 => self.end_turn(),
                Exit::Budget | Exit::Attention => {}
            }
            if !self.board.clock.is_icount() {
                return Ok(Stop::Look);
            }
        }
    }

    fn end_turn(&mut self) {
        self.turn = (self.turn + 1) % self.vcpus.len();
        self.slice_left = SLICE;
    }

    /// The vCPU whose turn it is, or the next one that has something to do.
    fn next_vcpu(&mut self) -> Option<usize> {
        for _ in 0..self.vcpus.len() {
            let candidate = &self.vcpus[self.turn];
            if !candidate.is_idle() || candidate.wakes(self.board.interrupts.is_pending(self.turn))
            {
                return Some(self.turn);
            }
            self.end_turn();
        }
        None
    }

    /// How many instructions may run before somebody has to look at the clock, and until when.
    fn budget(&mut self, now: u64) -> u64 {
        let deadline = self.board.deadline();
        if self.board.clock.is_icount() {
            self.board.horizon = deadline.unwrap_or(u64::MAX);
            let to_deadline =
                deadline.and_then(|deadline| self.board.clock.instructions_to(deadline));
            return to_deadline.unwrap_or(u64::MAX).clamp(1, self.slice_left.max(1));
        }
        let longest = now + LONGEST_RUN_NS as u64;
        self.board.horizon = deadline.unwrap_or(longest).min(longest);
        let span = self.board.horizon.saturating_sub(now) as f64;
        let instructions = (span / self.ns_per_instruction) as u64;
        instructions.clamp(100, self.slice_left.max(100))
    }

    fn learn_speed(&mut self, started: u64, instructions: u64) {
        if instructions > 1000 && !self.board.clock.is_icount() {
            let took = (self.board.clock.now(0) - started) as f64 / instructions as f64;
            self.ns_per_instruction += (took.clamp(0.5, 1000.0) - self.ns_per_instruction) * 0.05;
        }
    }

    /// Every vCPU is idle: skips to the next deadline under icount, else says how long it is.
    fn idle(&mut self, now: u64) -> Option<Stop> {
        let Some(deadline) = self.board.deadline() else { return Some(Stop::Asleep) };
        if self.board.clock.is_icount() {
            self.board.clock.skip_to(deadline);
            return None;
        }
        Some(Stop::Idle(Duration::from_nanos(deadline.saturating_sub(now))))
    }
}

impl Machine {
    /// Virtual nanoseconds since the machine first started.
    pub fn virtual_ns(&self) -> u64 {
        self.board.clock.now(0)
    }

    /// Takes the pages that were stored to since the last harvest.
    pub fn harvest_dirty(&mut self) -> DirtyBitmap {
        let dirty = self.ram.harvest();
        for vcpu in &mut self.vcpus {
            vcpu.forget_dirty();
        }
        dirty
    }

    /// Takes the locks of all disks that the guest may write.
    ///
    /// # Errors
    /// If another process has one; locks that were taken are given back.
    pub fn lock_disks(&mut self) -> Result<(), BackendError> {
        for index in 0..self.board.slots.len() {
            if let Err(error) = self.board.slots[index].lock() {
                for slot in &mut self.board.slots[..index] {
                    slot.unlock()?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes all writes to the disks durable and gives their locks back.
    ///
    /// # Errors
    /// If a disk cannot be written.
    pub fn unlock_disks(&mut self) -> Result<(), BackendError> {
        for slot in &mut self.board.slots {
            slot.flush()?;
        }
        for slot in &mut self.board.slots {
            slot.unlock()?;
        }
        Ok(())
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) {
        self.board.ged.press_power_button();
        self.board.ged_line();
    }

    /// Hands input to the serial port or a console; returns how many bytes it took.
    pub fn input(&mut self, id: &str, bytes: &[u8]) -> usize {
        let now = self.board.clock.now(0);
        if id == self.config.serial_id {
            let taken = bytes.len().min(self.board.serial.receive_space());
            for byte in &bytes[..taken] {
                self.board.serial.receive(now, *byte);
            }
            self.board.serial_line();
            return taken;
        }
        let Some(index) = self.board.slots.iter().position(|slot| slot.id == id) else {
            return bytes.len();
        };
        let taken = match &mut self.board.slots[index].device {
            SlotDevice::Console(console) => console.receive(bytes),
            SlotDevice::Block(_) | SlotDevice::Rng(_) => bytes.len(),
        };
        self.board.slot_line(index);
        taken
    }

    /// What serial port and consoles have written, by device id.
    pub fn take_output(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut outputs = Vec::new();
        let serial = self.board.serial.take_output();
        if !serial.is_empty() {
            outputs.push((self.config.serial_id.clone(), serial));
        }
        for index in 0..self.board.slots.len() {
            let slot = &mut self.board.slots[index];
            let SlotDevice::Console(console) = &mut slot.device else { continue };
            let mut all = Vec::new();
            loop {
                let part = console.take_output();
                if part.is_empty() {
                    break;
                }
                all.extend(part);
            }
            if !all.is_empty() {
                outputs.push((slot.id.clone(), all));
                self.board.slot_line(index);
            }
        }
        outputs
    }
}
