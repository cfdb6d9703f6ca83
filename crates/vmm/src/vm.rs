//! A machine with the thread that runs it.
//!
//! One thread owns the [`Machine`] and runs its vCPUs and devices; everybody else speaks to it
//! through a [`Vm`] handle by commands, which it takes between two runs, when no vCPU holds a
//! translation in use. A paused machine waits for commands only.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cpu::AcceleratorError;
use devices::firmware::FirmwareState;
use machine::{HostConfig, MachineConfig};
use memory::{DirtyBitmap, GuestRam};
use migration::Filling;
use vmstate::SavedSection;

use crate::accelerator::Choice;
use crate::board::Request;
use crate::boot::Boot;
use crate::machine::{BuildError, Machine, Stop};
use crate::slots::BackendError;
use crate::state::StateError;

/// Instructions between two looks at the commands.
const LOOK_EVERY: u64 = 500_000;
/// The longest sleep of an idle machine.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// How long a turn of running and standing still takes where vCPUs that run by themselves are slowed.
const THROTTLE_PERIOD: Duration = Duration::from_millis(10);
/// Keyboard input that waits for the guest at most, in bytes for each device; more is dropped, as
/// a terminal does.
const INPUT_LIMIT: usize = 64 * 1024;

/// Why a machine came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest wrote this code to the exit device.
    Exit(u8),
    /// The guest powered the machine off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// A vCPU met a triple fault.
    Shutdown {
        /// Which one.
        vcpu: u32,
    },
    /// Ferry failed.
    Failed(String),
    /// The operator ended it.
    Quit,
}

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    /// The guest runs.
    Running,
    /// The guest is paused.
    Paused,
    /// Given away by a migration: this process no longer owns it.
    Gone,
    /// It has ended.
    Ended(End),
}

/// What there is to know at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmStatus {
    /// What it is doing.
    pub state: VmState,
    /// Instructions executed since it first started, on any host.
    pub instructions: u64,
    /// Virtual nanoseconds since then.
    pub virtual_ns: u64,
    /// Percentage of time taken from the vCPUs.
    pub throttle: u8,
}

/// Where the characters of serial port and consoles go, by device id. Those of a device without an
/// entry are thrown away.
#[derive(Default)]
pub struct Endpoints {
    /// The outputs.
    pub outputs: BTreeMap<String, Box<dyn Write + Send>>,
}

/// A machine could not be made or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// It could not be built or booted.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The accelerator failed.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// Its state could not be saved or restored.
    #[error(transparent)]
    State(#[from] StateError),
    /// A disk could not be locked or unlocked.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It has ended, or was given away.
    #[error("the machine has ended or was given away")]
    Over,
    /// It is running, where it has to be paused.
    #[error("the machine is running")]
    Running,
    /// It was moved here by post-copy, and the source still has some of its memory.
    #[error("{0} pages of its memory have not arrived yet")]
    Incomplete(u64),
}

pub(crate) enum Command {
    Resume(Sender<Result<(), VmError>>),
    Pause(Sender<Result<(), VmError>>),
    StartDirtyLog(Sender<Result<(), VmError>>),
    StopDirtyLog,
    Harvest(Sender<Result<DirtyBitmap, VmError>>),
    Save(Sender<Result<Vec<SavedSection>, VmError>>),
    Firmware(Sender<Option<FirmwareState>>),
    Throttle(u8),
    LockDisks(Sender<Result<(), VmError>>),
    UnlockDisks(Sender<Result<(), VmError>>),
    Input(String, Vec<u8>),
    PowerButton,
    /// There may be something to see to.
    Look,
    /// The machine has come from another host.
    Arrived,
    Quit,
    Gone,
}

struct Shared {
    status: Mutex<VmStatus>,
    changed: Condvar,
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, VmStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on a machine and its thread.
#[derive(Clone)]
pub struct Vm {
    commands: Arc<Sender<Command>>,
    shared: Arc<Shared>,
    config: Arc<MachineConfig>,
    accelerator: Arc<Choice>,
    ram: GuestRam,
    /// What fills its memory, if it arrived without all of it.
    filling: Option<Filling>,
}

impl Vm {
    /// Builds and boots a new machine, paused.
    ///
    /// # Errors
    /// If this host cannot build it or the boot files cannot be used.
    pub fn create(
        config: &MachineConfig,
        boot: &Boot,
        host: &HostConfig,
        endpoints: Endpoints,
    ) -> Result<Self, VmError> {
        let mut machine = Machine::boot(config, boot, host)?;
        machine.lock_disks()?;
        Ok(Self::adopt(machine, endpoints))
    }

    /// Puts a thread behind a machine, which stays paused.
    pub fn adopt(mut machine: Machine, endpoints: Endpoints) -> Self {
        let (commands, orders) = channel();
        let waker = commands.clone();
        // A machine whose thread has ended needs no waking.
        machine.set_waker(move || drop(waker.send(Command::Look)));
        let commands = Arc::new(commands);
        // Nor does one that nobody has a handle on, and that ends therefore.
        let handles = Arc::downgrade(&commands);
        machine.watch_networks(&move || {
            handles.upgrade().is_some_and(|commands| commands.send(Command::Look).is_ok())
        });
        let config = Arc::new(machine.config().clone());
        let accelerator = Arc::new(machine.accelerator().clone());
        let ram = machine.ram().clone();
        let status = VmStatus {
            state: VmState::Paused,
            instructions: machine.instructions(),
            virtual_ns: 0,
            throttle: 0,
        };
        let shared = Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() });
        let worker = Worker {
            machine,
            orders,
            shared: Arc::clone(&shared),
            endpoints,
            input: BTreeMap::new(),
            running: false,
            throttle: 0,
        };
        thread::Builder::new()
            .name("machine".to_owned())
            .spawn(move || worker.work())
            .expect("a thread can be started");
        Self { commands, shared, config, accelerator, ram, filling: None }
    }

    /// Tells that the machine has arrived without all of its memory, and what fills it.
    #[must_use]
    pub(crate) fn with_filling(self, filling: Option<Filling>) -> Self {
        Self { filling, ..self }
    }

    /// What fills its memory, if it arrived without all of it and some is missing still, or the
    /// source does not know yet that nothing is.
    pub fn filling(&self) -> Option<&Filling> {
        self.filling.as_ref().filter(|filling| !filling.is_released())
    }

    /// Pages of its memory that have not arrived yet.
    pub fn missing_pages(&self) -> u64 {
        self.filling.as_ref().map_or(0, Filling::left)
    }

    /// Refuses what needs all of the machine: its threads may be waiting for missing pages, and
    /// then answer nobody.
    ///
    /// # Errors
    /// If some of its memory has not arrived yet.
    pub fn check_complete(&self) -> Result<(), VmError> {
        match self.missing_pages() {
            0 => Ok(()),
            pages => Err(VmError::Incomplete(pages)),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// What runs the vCPUs, and why.
    pub fn accelerator(&self) -> &Choice {
        &self.accelerator
    }

    /// Guest memory.
    pub fn ram(&self) -> GuestRam {
        self.ram.clone()
    }

    /// Asks the thread and waits for the answer.
    pub(crate) fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, VmError> {
        let (reply, answer) = channel();
        self.commands.send(command(reply)).map_err(|_| VmError::Over)?;
        answer.recv().map_err(|_| VmError::Over)
    }

    pub(crate) fn tell(&self, command: Command) {
        // A machine that has ended needs telling nothing.
        let _ = self.commands.send(command);
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// If the machine is over.
    pub fn resume(&self) -> Result<(), VmError> {
        self.ask(Command::Resume)?
    }

    /// Stops the guest and its clock.
    ///
    /// # Errors
    /// If the machine is over, or not all here yet.
    pub fn pause(&self) -> Result<(), VmError> {
        self.check_complete()?;
        self.ask(Command::Pause)?
    }

    /// Ends the machine.
    pub fn quit(&self) {
        self.tell(Command::Quit);
        if self.check_complete().is_err() {
            // Its threads may be waiting for memory, for ever, and hear nothing. Nobody needs them
            // any more: they go with the process.
            self.shared.status().state = VmState::Ended(End::Quit);
            self.shared.changed.notify_all();
        }
    }

    /// Ends the thread of a machine that was given away.
    pub fn set_gone(&self) {
        self.tell(Command::Gone);
    }

    /// Types on the serial port or a console.
    pub fn input(&self, id: &str, bytes: &[u8]) {
        self.tell(Command::Input(id.to_owned(), bytes.to_owned()));
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.tell(Command::PowerButton);
    }

    /// What it is doing.
    pub fn status(&self) -> VmStatus {
        self.shared.status().clone()
    }

    /// Waits until the machine has ended or was given away.
    pub fn wait(&self) -> VmState {
        let mut status = self.shared.status();
        loop {
            if matches!(status.state, VmState::Gone | VmState::Ended(_)) {
                return status.state.clone();
            }
            status = self.shared.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The state of every device and vCPU of a paused machine.
    ///
    /// # Errors
    /// If it runs or is over, or not all here yet.
    pub fn save(&self) -> Result<Vec<SavedSection>, VmError> {
        self.check_complete()?;
        self.ask(Command::Save)?
    }

    /// The tables of its firmware, which never change, if it has firmware.
    ///
    /// # Errors
    /// If the machine is over.
    pub fn firmware(&self) -> Result<Option<FirmwareState>, VmError> {
        self.ask(Command::Firmware)
    }
}

struct Worker {
    machine: Machine,
    orders: Receiver<Command>,
    shared: Arc<Shared>,
    endpoints: Endpoints,
    input: BTreeMap<String, VecDeque<u8>>,
    running: bool,
    throttle: u8,
}

/// How the thread ends.
enum Over {
    Gone,
    Ended(End),
}

impl Worker {
    fn work(mut self) {
        let over = loop {
            let waited = if self.running { self.take_waiting() } else { self.wait_for(None) };
            if let Err(over) = waited {
                break over;
            }
            if !self.running {
                continue;
            }
            if let Err(over) = self.run_once() {
                break over;
            }
        };
        // A vCPU that cannot be read any more has ended all the same.
        let _ = self.machine.pause();
        self.flush();
        self.publish(match over {
            Over::Gone => VmState::Gone,
            Over::Ended(end) => VmState::Ended(end),
        });
    }

    fn publish(&self, state: VmState) {
        *self.shared.status() = VmStatus {
            state,
            instructions: self.machine.instructions(),
            virtual_ns: self.machine.virtual_ns(),
            throttle: self.throttle,
        };
        self.shared.changed.notify_all();
    }

    /// Says how far the guest has come.
    fn publish_progress(&self) {
        let (instructions, virtual_ns) = (self.machine.instructions(), self.machine.virtual_ns());
        let mut status = self.shared.status();
        status.instructions = instructions;
        status.virtual_ns = virtual_ns;
    }

    fn publish_running(&self) {
        self.publish(if self.running { VmState::Running } else { VmState::Paused });
    }

    fn take_waiting(&mut self) -> Result<(), Over> {
        loop {
            match self.orders.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Over::Ended(End::Quit)),
            }
        }
    }

    /// Waits for a command, at most for some time.
    fn wait_for(&mut self, longest: Option<Duration>) -> Result<(), Over> {
        let received = match longest {
            Some(longest) => self.orders.recv_timeout(longest),
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Over::Ended(End::Quit)),
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Over> {
        // Whoever asked may have gone meanwhile; that is no matter to the machine.
        match command {
            Command::Resume(reply) => {
                let resumed = self.machine.resume();
                self.running = resumed.is_ok();
                self.publish_running();
                let _ = reply.send(resumed.map_err(VmError::from));
            }
            Command::Pause(reply) => {
                let paused = self.machine.pause();
                self.flush();
                self.running = false;
                self.publish_running();
                let _ = reply.send(paused.map_err(VmError::from));
            }
            Command::StartDirtyLog(reply) => {
                let _ = reply.send(self.machine.start_dirty_log().map_err(VmError::from));
            }
            Command::StopDirtyLog => self.machine.stop_dirty_log(),
            Command::Harvest(reply) => {
                let _ = reply.send(self.machine.harvest_dirty().map_err(VmError::from));
            }
            Command::Save(reply) => {
                let saved = if self.running {
                    Err(VmError::Running)
                } else {
                    self.machine.save().map_err(VmError::from)
                };
                let _ = reply.send(saved);
            }
            Command::Firmware(reply) => {
                let _ = reply.send(self.machine.firmware());
            }
            Command::Throttle(percent) => {
                self.throttle = percent.min(99);
                self.publish_running();
            }
            Command::LockDisks(reply) => {
                let _ = reply.send(self.machine.lock_disks().map_err(VmError::from));
            }
            Command::UnlockDisks(reply) => {
                let _ = reply.send(self.machine.unlock_disks().map_err(VmError::from));
            }
            Command::Input(id, bytes) => {
                let waiting = self.input.entry(id).or_default();
                let room = INPUT_LIMIT.saturating_sub(waiting.len());
                waiting.extend(bytes.into_iter().take(room));
                self.feed();
            }
            Command::PowerButton => self.machine.press_power_button(),
            Command::Look => {}
            Command::Arrived => self.machine.arrive(),
            Command::Quit => return Err(Over::Ended(End::Quit)),
            Command::Gone => return Err(Over::Gone),
        }
        Ok(())
    }

    fn run_once(&mut self) -> Result<(), Over> {
        self.feed();
        self.machine.receive_frames();
        let started = Instant::now();
        let stop = self.machine.run(LOOK_EVERY);
        let took = started.elapsed();
        self.publish_progress();
        self.flush();
        match stop {
            Ok(Stop::Look) => {}
            Ok(Stop::Idle(wait)) => return self.sleep(wait),
            Ok(Stop::Asleep) => return self.sleep(LONGEST_SLEEP),
            Ok(Stop::Request(Request::Exit(code))) => return Err(Over::Ended(End::Exit(code))),
            Ok(Stop::Request(Request::PowerOff)) => return Err(Over::Ended(End::PowerOff)),
            Ok(Stop::Request(Request::Reset)) => return Err(Over::Ended(End::Reset)),
            Ok(Stop::Shutdown(vcpu)) => return Err(Over::Ended(End::Shutdown { vcpu })),
            Err(error) => return Err(Over::Ended(End::Failed(error.to_string()))),
        }
        if self.throttle > 0 {
            let share = u32::from(self.throttle);
            return self.wait_for(Some(took * share / (100 - share)));
        }
        Ok(())
    }

    /// Waits until there is something to do; vCPUs that run by themselves are slowed meanwhile.
    fn sleep(&mut self, longest: Duration) -> Result<(), Over> {
        if self.throttle == 0 || !self.machine.hold(true) {
            return self.wait_for(Some(longest.min(LONGEST_SLEEP)));
        }
        let share = u32::from(self.throttle);
        let waited = self.wait_for(Some(longest.min(THROTTLE_PERIOD * share / 100)));
        if self.running {
            self.machine.hold(false);
            waited?;
            return self.wait_for(Some(longest.min(THROTTLE_PERIOD * (100 - share) / 100)));
        }
        waited
    }

    /// Hands waiting input to the devices, as much as they take.
    fn feed(&mut self) {
        for (id, waiting) in &mut self.input {
            if !waiting.is_empty() {
                let taken = self.machine.input(id, waiting.make_contiguous());
                waiting.drain(..taken);
            }
        }
    }

    /// Hands what the devices have written to its endpoints.
    fn flush(&mut self) {
        for (id, bytes) in self.machine.take_output() {
            if let Some(output) = self.endpoints.outputs.get_mut(&id) {
                // An endpoint that is gone does not stop the guest.
                let _ = output.write_all(&bytes).and_then(|()| output.flush());
            }
        }
    }
}
