//! A machine: vCPUs, board and memory.
//!
//! The board is behind a lock. On the software CPU one thread holds it while it runs the vCPUs in
//! turn ([`crate::soft`]); on KVM every vCPU has a thread of its own and takes it for each access
//! to a device ([`crate::kvm`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cpu::{AcceleratorError, CpuState};
use devices::LapicState;
use devices::firmware::{Firmware, FirmwareState};
use machine::{HostConfig, MachineConfig};
use memory::{DirtyBitmap, GuestRam, MemoryError};

use crate::accelerator::{self, Accelerator, Choice};
use crate::board::{Board, Request};
use crate::boot::{self, Boot, BootError};
use crate::kvm::KvmCpus;
use crate::network::Network;
use crate::slots::{self, BackendError, SlotDevice};
use crate::soft::SoftCpus;
use crate::state::{SchedulerState, StateError};

/// A machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No accelerator of this host runs it.
    #[error(transparent)]
    NoAccelerator(#[from] accelerator::ChoiceError),
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
    State(#[from] StateError),
    /// The accelerator fails.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// The host gives no events or no thread for queue notifications.
    #[error("no queue notifications")]
    Events(#[source] std::io::Error),
    /// KVM does not give a machine.
    #[error(transparent)]
    Kvm(#[from] accel_kvm::KvmError),
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

/// The board, as everybody who runs a vCPU shares it.
pub(crate) type SharedBoard = Arc<Mutex<Board>>;

/// Takes the board.
pub(crate) fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    // A thread that panicked has ended the machine; what is left is to be looked at.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The vCPUs, by the accelerator that runs them.
pub(crate) enum Cpus {
    Soft(SoftCpus),
    Kvm(KvmCpus),
}

impl Cpus {
    fn start_at(&mut self, board: &mut Board, state: &CpuState) -> Result<(), StateError> {
        let tsc = board.clock.tsc(board.clock.now(0));
        match self {
            Self::Soft(cpus) => Ok(cpus.start_at(state, tsc)?),
            Self::Kvm(cpus) => cpus.start_at(board, state),
        }
    }

    /// The state of every vCPU of a paused machine, with its local APIC's.
    pub(crate) fn save(
        &self,
        board: &Board,
    ) -> Result<(SchedulerState, Vec<(CpuState, LapicState)>), StateError> {
        match self {
            Self::Soft(cpus) => {
                let tsc = board.clock.tsc(board.clock.now(0));
                Ok((cpus.scheduler(), cpus.save(board, tsc)?))
            }
            Self::Kvm(cpus) => cpus.save(board),
        }
    }

    /// Takes what [`Self::save`] gave. The clock has its time already.
    pub(crate) fn restore(
        &mut self,
        board: &mut Board,
        states: &[(CpuState, LapicState)],
        scheduler: &SchedulerState,
    ) -> Result<(), StateError> {
        match self {
            Self::Soft(cpus) => {
                let tsc = board.clock.tsc(board.clock.now(0));
                cpus.restore(board, states, scheduler, tsc)
            }
            Self::Kvm(cpus) => cpus.restore(board, states, scheduler),
        }
    }
}

/// A machine that is built. On the software CPU it runs only while [`Machine::run`] is called; on
/// KVM from [`Machine::resume`] to [`Machine::pause`].
pub struct Machine {
    pub(crate) config: MachineConfig,
    pub(crate) ram: GuestRam,
    pub(crate) board: SharedBoard,
    pub(crate) cpus: Cpus,
    pub(crate) networks: Vec<Network>,
    choice: Choice,
}

impl Machine {
    /// Builds a machine in its power-up state, with its clock stopped.
    ///
    /// # Errors
    /// If this host cannot offer what the configuration asks for.
    pub fn build(config: &MachineConfig, host: &HostConfig) -> Result<Self, BuildError> {
        let choice = accelerator::choose(config, host.accel)?;
        let model = choice.model;
        let ram = GuestRam::with_ranges(&config.memory_ranges())?;
        let slots = slots::plug(config, host, &ram)?;
        let board = Arc::new(Mutex::new(Board::new(config, &ram, slots)?));
        let cpus = match choice.accelerator {
            Accelerator::Soft => Cpus::Soft(SoftCpus::new(model, config.cpus.count, &ram)),
            Accelerator::Kvm => Cpus::Kvm(KvmCpus::new(config, model, &ram, &board)?),
        };
        Ok(Self { config: config.clone(), ram, board, cpus, networks: Vec::new(), choice })
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
        let state = boot::prepare(boot, config, machine.choice.model, &machine.ram)?;
        machine.cpus.start_at(&mut lock(&machine.board), &state)?;
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

    /// What runs the vCPUs, and why.
    pub fn accelerator(&self) -> &Choice {
        &self.choice
    }

    /// Instructions executed by all vCPUs since the machine first started; KVM counts none.
    pub fn instructions(&self) -> u64 {
        lock(&self.board).clock.instructions()
    }

    /// What is called, from any thread, when [`Self::run`] is to be called soon.
    pub fn set_waker(&mut self, waker: impl Fn() + Send + Sync + 'static) {
        match &mut self.cpus {
            Cpus::Soft(_) => {}
            Cpus::Kvm(cpus) => cpus.set_waker(Arc::new(waker)),
        }
    }

    /// Lets the clock run, and on KVM the vCPUs.
    ///
    /// # Errors
    /// If a vCPU cannot be started; the machine is then paused.
    pub fn resume(&mut self) -> Result<(), StateError> {
        match &mut self.cpus {
            Cpus::Soft(_) => lock(&self.board).clock.start(),
            Cpus::Kvm(cpus) => cpus.resume(&self.board)?,
        }
        Ok(())
    }

    /// Stops the vCPUs and the clock. On the software CPU call it between two calls of
    /// [`Self::run`] only.
    ///
    /// # Errors
    /// If a vCPU's state cannot be read.
    pub fn pause(&mut self) -> Result<(), StateError> {
        self.hush_networks();
        match &mut self.cpus {
            Cpus::Soft(_) => lock(&self.board).clock.stop(),
            Cpus::Kvm(cpus) => cpus.pause(&self.board)?,
        }
        Ok(())
    }

    /// Runs for a while, and for at most `limit` instructions. On KVM the vCPUs run by themselves;
    /// this serves timers, and says when it is to be called next.
    ///
    /// # Errors
    /// If the accelerator fails.
    pub fn run(&mut self, limit: u64) -> Result<Stop, AcceleratorError> {
        let board = &mut *lock(&self.board);
        match &mut self.cpus {
            Cpus::Soft(cpus) => cpus.run(board, limit),
            Cpus::Kvm(cpus) => cpus.attend(board),
        }
    }

    /// Keeps the vCPUs from running while the clock goes on, to slow the guest down. True if they
    /// need it, because they run by themselves.
    pub(crate) fn hold(&mut self, held: bool) -> bool {
        match &mut self.cpus {
            Cpus::Soft(_) => false,
            Cpus::Kvm(cpus) => {
                cpus.hold(held);
                true
            }
        }
    }

    /// Virtual nanoseconds since the machine first started.
    pub fn virtual_ns(&self) -> u64 {
        lock(&self.board).clock.now(0)
    }

    /// Starts to log what the vCPUs store to; what is dirty now is in the next harvest.
    ///
    /// # Errors
    /// If the accelerator cannot.
    pub fn start_dirty_log(&mut self) -> Result<(), AcceleratorError> {
        match &mut self.cpus {
            // It always logs.
            Cpus::Soft(_) => Ok(()),
            Cpus::Kvm(cpus) => cpus.start_dirty_log(),
        }
    }

    /// Ends the log.
    pub fn stop_dirty_log(&mut self) {
        match &mut self.cpus {
            Cpus::Soft(_) => {}
            Cpus::Kvm(cpus) => cpus.stop_dirty_log(),
        }
    }

    /// Takes the pages that were stored to since the last harvest.
    ///
    /// # Errors
    /// If the accelerator cannot give its log.
    pub fn harvest_dirty(&mut self) -> Result<DirtyBitmap, AcceleratorError> {
        match &mut self.cpus {
            Cpus::Soft(cpus) => {
                let dirty = self.ram.harvest();
                cpus.forget_dirty();
                Ok(dirty)
            }
            Cpus::Kvm(cpus) => {
                cpus.harvest()?;
                Ok(self.ram.harvest())
            }
        }
    }

    /// Takes the locks of all disks that the guest may write.
    ///
    /// # Errors
    /// If another process has one; locks that were taken are given back.
    pub fn lock_disks(&mut self) -> Result<(), BackendError> {
        let slots = &mut lock(&self.board).slots;
        for index in 0..slots.len() {
            if let Err(error) = slots[index].lock() {
                for slot in &mut slots[..index] {
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
        let slots = &mut lock(&self.board).slots;
        for slot in &mut *slots {
            slot.flush()?;
        }
        for slot in slots {
            slot.unlock()?;
        }
        Ok(())
    }

    /// The tables of its firmware, if it has firmware.
    pub fn firmware(&self) -> Option<FirmwareState> {
        lock(&self.board).firmware.as_ref().map(Firmware::save)
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) {
        let board = &mut *lock(&self.board);
        board.ged.press_power_button();
        board.ged_line();
    }

    /// Hands input to the serial port or a console; returns how many bytes it took.
    pub fn input(&mut self, id: &str, bytes: &[u8]) -> usize {
        let board = &mut *lock(&self.board);
        let now = board.clock.now(0);
        if id == self.config.serial_id {
            let taken = bytes.len().min(board.serial.receive_space());
            for byte in &bytes[..taken] {
                board.serial.receive(now, *byte);
            }
            board.serial_line();
            return taken;
        }
        let Some(index) = board.slots.iter().position(|slot| slot.id == id) else {
            return bytes.len();
        };
        let taken = match &mut board.slots[index].device {
            SlotDevice::Console(console) => console.receive(bytes),
            SlotDevice::Block(_) | SlotDevice::Rng(_) | SlotDevice::Net(_) => bytes.len(),
        };
        board.slot_line(index);
        taken
    }

    /// What serial port and consoles have written, by device id.
    pub fn take_output(&mut self) -> Vec<(String, Vec<u8>)> {
        let board = &mut *lock(&self.board);
        let mut outputs = Vec::new();
        let serial = board.serial.take_output();
        if !serial.is_empty() {
            outputs.push((self.config.serial_id.clone(), serial));
        }
        for index in 0..board.slots.len() {
            let slot = &mut board.slots[index];
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
                board.slot_line(index);
            }
        }
        outputs
    }
}
