//! The vCPUs of a machine on KVM: a thread for each, which runs it from the machine's resume to
//! its pause and takes the board's lock for every access to a device.
//!
//! The machine's own thread serves timers and input meanwhile. The local APICs are KVM's; the I/O
//! APICs, the 8259A pair and all timers but the local APICs' are the board's, so that the guest
//! meets the same controllers as on the software CPU.
//!
//! ```text
//! resume   write what is held into KVM -> start the clock -> start KVM's timers and TSCs
//!          -> let the threads go
//! pause    stop the threads -> take queue notifications that wait, and timers that are due
//!          -> read KVM -> stop the clock -> stop KVM's timers
//! ```
//!
//! While the machine is paused the state of its vCPUs is held here, with the local APICs' timers
//! in terms of the machine's clock, and written anew at the resume. Interrupts that devices raise
//! meanwhile (by input from a keyboard) go to KVM's local APICs and are read from there.

mod bus;
mod notify;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use accel_kvm::{ApicPage, CpuidPolicy, KvmAccelerator, KvmVcpu, PROMPT_NS, Reading};
use cpu::{AcceleratorError, CpuModel, CpuState, Topology, Vcpu};
use devices::LapicState;
use machine::MachineConfig;
use memory::GuestRam;

use crate::board::Board;
use crate::interrupts::new_lapic;
use crate::machine::{BuildError, SharedBoard, Stop, lock};
use crate::soft::SLICE;
use crate::state::{SchedulerState, StateError};
use bus::KvmLapics;
use notify::Notifier;
use threads::{Ended, Stoppable, Threads};

/// Wakes the machine's thread.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

/// All vCPUs.
pub(crate) struct KvmCpus {
    accelerator: KvmAccelerator,
    threads: Threads,
    notifier: Notifier,
    /// From resume to pause, also while the threads are held.
    running: bool,
    /// The state of a paused machine.
    held: Vec<(CpuState, LapicState)>,
    /// The software CPU's turn, which KVM has none of.
    scheduler: SchedulerState,
}

/// Whether KVM's timers are to run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timers {
    Running,
    Stopped,
}

/// How often a local APIC is written at most.
const TRIES: usize = 32;

/// Writes a local APIC into KVM; what of its timer is due comes first.
fn write_lapic(
    index: u32,
    vcpu: &mut KvmVcpu,
    lapic: &mut LapicState,
    now: u64,
    timers: Timers,
) -> Result<(), StateError> {
    let mut model = new_lapic(index);
    model.restore(lapic)?;
    if timers == Timers::Running {
        model.advance(now);
        *lapic = model.save();
    } else {
        model.stop_timer();
    }
    vcpu.set_apic(&ApicPage { base: lapic.apic_base, registers: model.page(now) })?;
    Ok(())
}

impl KvmCpus {
    pub(crate) fn new(
        config: &MachineConfig,
        model: &'static CpuModel,
        ram: &GuestRam,
        board: &SharedBoard,
    ) -> Result<Self, BuildError> {
        let accelerator = KvmAccelerator::new(ram.clone())?;
        // Where no other frequency can be had, the machine does not promise this one.
        if config.cpus.promise_tsc || accelerator.capabilities().tsc_control {
            accelerator.set_tsc_khz(config.cpus.tsc_khz)?;
        }
        let policy = if config.cpus.promise_cpuid {
            CpuidPolicy::Exact
        } else {
            CpuidPolicy::AsFarAsPossible
        };
        let count = config.cpus.count;
        let mut vcpus = Vec::new();
        for apic_id in 0..count {
            let topology = Topology { apic_id, count };
            vcpus.push(accelerator.vcpu(model, topology, policy)?);
        }
        let held = (0..count)
            .map(|vcpu| (CpuState::at_reset(model, vcpu), new_lapic(vcpu).save()))
            .collect();
        let threads = Threads::new(vcpus, board);
        let lapics = KvmLapics::new(accelerator.clone(), &threads);
        lock(board).interrupts.use_lapics(Box::new(lapics));
        let notifier = Notifier::new(&accelerator, config, board, threads.waker())?;
        let scheduler = SchedulerState { turn: 0, slice_left: SLICE };
        Ok(Self { accelerator, threads, notifier, running: false, held, scheduler })
    }

    pub(crate) fn set_waker(&mut self, waker: Waker) {
        self.threads.waker().set(waker);
    }

    /// Gives the bootstrap processor its first state.
    pub(crate) fn start_at(
        &mut self,
        board: &mut Board,
        state: &CpuState,
    ) -> Result<(), StateError> {
        self.held[0].0 = state.clone();
        self.write(board)
    }

    /// The state of a paused machine, as KVM holds it.
    pub(crate) fn save(
        &self,
        board: &Board,
    ) -> Result<(SchedulerState, Vec<(CpuState, LapicState)>), StateError> {
        let tsc = board.clock.tsc(board.clock.now(0));
        let mut states = Vec::new();
        for (index, held) in self.held.iter().enumerate() {
            let vcpu = &self.threads.vcpu(index).vcpu;
            // Time stands still: what it moves is as it was held.
            let cpu = CpuState { tsc: held.0.tsc, ..vcpu.state(tsc)? };
            let mut page = new_lapic(index as u32);
            page.restore(&held.1)?;
            page.take_requests(&vcpu.apic()?.registers);
            states.push((cpu, page.save()));
        }
        Ok((self.scheduler.clone(), states))
    }

    /// Takes what [`Self::save`] gave. KVM is asked whether it holds it.
    pub(crate) fn restore(
        &mut self,
        board: &mut Board,
        states: &[(CpuState, LapicState)],
        scheduler: &SchedulerState,
    ) -> Result<(), StateError> {
        for (vcpu, (_, lapic)) in (0..).zip(states) {
            new_lapic(vcpu).restore(lapic)?;
        }
        self.held = states.to_vec();
        self.scheduler = scheduler.clone();
        self.write(board)
    }

    /// Writes what is held into KVM; its timers stand still.
    fn write(&mut self, board: &Board) -> Result<(), StateError> {
        let tsc = board.clock.tsc(board.clock.now(0));
        for (index, (state, _)) in self.held.iter().enumerate() {
            self.threads.vcpu(index).vcpu.set_state(state, tsc)?;
        }
        self.write_lapics(board, Timers::Stopped)
    }

    /// Writes the local APICs into KVM. Their timers run from the very moment at which each is
    /// written, so each is as the clock has it then; one that took too long for that is written
    /// anew.
    fn write_lapics(&mut self, board: &Board, timers: Timers) -> Result<(), StateError> {
        for (index, (_, held)) in self.held.iter_mut().enumerate() {
            let vcpu = &mut self.threads.vcpu(index).vcpu;
            let before = held.clone();
            for _ in 0..TRIES {
                let now = board.clock.now(0);
                *held = before.clone();
                write_lapic(index as u32, vcpu, held, now, timers)?;
                if timers == Timers::Stopped || board.clock.now(0) - now <= PROMPT_NS {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads what KVM holds after the threads have stopped.
    fn read(&mut self, board: &Board) -> Result<(), StateError> {
        for (index, (state, lapic)) in self.held.iter_mut().enumerate() {
            let Stoppable { vcpu, seen } = &mut *self.threads.vcpu(index);
            let mut model = new_lapic(index as u32);
            model.restore(lapic)?;
            let now = board.clock.now(0);
            *state = vcpu.state(board.clock.tsc(now))?;
            let page = vcpu.apic()?;
            // Where the timer stood when the thread stopped is known to the point; what it did
            // since, KVM may have counted and not requested, so it is worked out. All else is as it
            // is now.
            let stopped = seen.take().unwrap_or_else(|| Reading { page: page.clone(), at: now });
            model.advance(stopped.at);
            model.take_page(stopped.at, stopped.page.base, &stopped.page.registers)?;
            model.advance(now);
            model.add_requests(&page.registers);
            *lapic = model.save();
        }
        Ok(())
    }

    /// Lets the vCPUs and the clock run.
    pub(crate) fn resume(&mut self, board: &SharedBoard) -> Result<(), StateError> {
        if self.running {
            return Ok(());
        }
        {
            let board = &mut *lock(board);
            // What devices asked for during the pause.
            (_, self.held) = self.save(board)?;
            self.write(board)?;
            let (now, host_tsc) = (board.clock.now(0), accel_kvm::host_tsc());
            board.clock.start();
            for index in 0..self.held.len() {
                let tsc = board.clock.tsc(now);
                self.threads.vcpu(index).vcpu.start_clock(tsc, host_tsc)?;
            }
            self.write_lapics(board, Timers::Running)?;
            self.notifier.set_active(true);
        }
        self.running = true;
        self.threads.go();
        Ok(())
    }

    /// Stops the vCPUs and the clock.
    pub(crate) fn pause(&mut self, board: &SharedBoard) -> Result<(), StateError> {
        if !self.running {
            return Ok(());
        }
        self.running = false;
        self.threads.stop();
        let board = &mut *lock(board);
        self.notifier.take_waiting(board);
        self.notifier.set_active(false);
        let now = board.clock.now(0);
        board.advance(now);
        let read = self.read(board);
        board.clock.stop();
        read?;
        self.write_lapics(board, Timers::Stopped)
    }

    /// Keeps the vCPUs from running while the clock goes on.
    pub(crate) fn hold(&mut self, held: bool) {
        match (self.running, held) {
            (true, true) => self.threads.stop(),
            (true, false) => self.threads.go(),
            (false, _) => {}
        }
    }

    /// Serves what is due, and says when this is to be called next.
    pub(crate) fn attend(&mut self, board: &mut Board) -> Result<Stop, AcceleratorError> {
        self.threads.waker().looked();
        let now = board.clock.now(0);
        board.advance(now);
        if let Some(request) = board.take_request() {
            return Ok(Stop::Request(request));
        }
        match self.threads.take_ended() {
            Some(Ended::Shutdown(vcpu)) => return Ok(Stop::Shutdown(vcpu)),
            Some(Ended::Failed(error)) => return Err(error),
            None => {}
        }
        board.clear_attention();
        let deadline = board.deadline();
        board.horizon = deadline.unwrap_or(u64::MAX);
        Ok(match deadline {
            Some(deadline) => Stop::Idle(Duration::from_nanos(deadline.saturating_sub(now))),
            None => Stop::Asleep,
        })
    }

    pub(crate) fn start_dirty_log(&mut self) -> Result<(), AcceleratorError> {
        Ok(self.accelerator.start_dirty_log()?)
    }

    pub(crate) fn stop_dirty_log(&mut self) {
        self.accelerator.stop_dirty_log();
    }

    pub(crate) fn harvest(&mut self) -> Result<(), AcceleratorError> {
        Ok(self.accelerator.harvest()?)
    }
}
