//! The vCPUs of a machine on the software CPU: one thread runs them in turn.

use std::time::Duration;

use accel_soft::SoftAccelerator;
use cpu::{AcceleratorError, CpuModel, CpuState, Exit, Topology, Vcpu};
use devices::LapicState;
use memory::GuestRam;

use crate::board::Board;
use crate::machine::Stop;
use crate::state::{SchedulerState, StateError};

/// Instructions that a vCPU runs before the next one has its turn. A promise of `ferry-1` under
/// icount: another number gives another run.
pub(crate) const SLICE: u64 = 20_000;
/// Nanoseconds that an instruction is taken for until the speed of this host is known.
const FIRST_GUESS_NS: f64 = 10.0;
/// Longest run on the host's clock, in nanoseconds: how late a look at the world may be.
const LONGEST_RUN_NS: f64 = 500_000.0;

/// All vCPUs.
pub(crate) struct SoftCpus {
    vcpus: Vec<Box<dyn Vcpu>>,
    /// The vCPU whose turn it is, and how much of it is left.
    turn: usize,
    slice_left: u64,
    ns_per_instruction: f64,
}

impl SoftCpus {
    pub(crate) fn new(model: &'static CpuModel, count: u32, ram: &GuestRam) -> Self {
        let accelerator = SoftAccelerator::new(ram.clone());
        let vcpus = (0..count)
            .map(|apic_id| {
                let vcpu = accelerator.vcpu(model, Topology { apic_id, count });
                Box::new(vcpu) as Box<dyn Vcpu>
            })
            .collect();
        Self { vcpus, turn: 0, slice_left: SLICE, ns_per_instruction: FIRST_GUESS_NS }
    }

    /// Gives the bootstrap processor its first state.
    pub(crate) fn start_at(&mut self, state: &CpuState, tsc: u64) -> Result<(), AcceleratorError> {
        self.vcpus[0].set_state(state, tsc)
    }

    /// Runs for a while, and for at most `limit` instructions.
    pub(crate) fn run(&mut self, board: &mut Board, limit: u64) -> Result<Stop, AcceleratorError> {
        let mut left = limit;
        loop {
            let now = board.clock.now(0);
            board.advance(now);
            for (vcpu, signal) in board.take_signals() {
                self.vcpus[vcpu].signal(signal);
            }
            if left == 0 {
                return Ok(Stop::Look);
            }
            let Some(vcpu) = self.next_vcpu(board) else {
                if let Some(stop) = idle(board, now) {
                    return Ok(stop);
                }
                continue;
            };
            let budget = self.budget(board, now).min(left);
            let started = board.clock.now(0);
            board.current = vcpu;
            board.clear_attention();
            let ran = self.vcpus[vcpu].run(board, budget)?;
            board.clock.executed(ran.instructions);
            self.slice_left = self.slice_left.saturating_sub(ran.instructions);
            left = left.saturating_sub(ran.instructions);
            self.learn_speed(board, started, ran.instructions);
            if let Some(request) = board.take_request() {
                return Ok(Stop::Request(request));
            }
            match ran.exit {
                Exit::Shutdown => return Ok(Stop::Shutdown(vcpu as u32)),
                Exit::Idle | Exit::Yield => self.end_turn(),
                Exit::Budget | Exit::Attention if self.slice_left == 0 => self.end_turn(),
                Exit::Budget | Exit::Attention => {}
            }
            if !board.clock.is_icount() {
                return Ok(Stop::Look);
            }
        }
    }

    fn end_turn(&mut self) {
        self.turn = (self.turn + 1) % self.vcpus.len();
        self.slice_left = SLICE;
    }

    /// The vCPU whose turn it is, or the next one that has something to do.
    fn next_vcpu(&mut self, board: &Board) -> Option<usize> {
        for _ in 0..self.vcpus.len() {
            let candidate = &self.vcpus[self.turn];
            if !candidate.is_idle() || candidate.wakes(board.interrupts.is_pending(self.turn)) {
                return Some(self.turn);
            }
            self.end_turn();
        }
        None
    }

    /// How many instructions may run before somebody has to look at the clock, and until when.
    fn budget(&self, board: &mut Board, now: u64) -> u64 {
        let deadline = board.deadline();
        if board.clock.is_icount() {
            board.horizon = deadline.unwrap_or(u64::MAX);
            let to_deadline = deadline.and_then(|deadline| board.clock.instructions_to(deadline));
            return to_deadline.unwrap_or(u64::MAX).clamp(1, self.slice_left.max(1));
        }
        let longest = now + LONGEST_RUN_NS as u64;
        board.horizon = deadline.unwrap_or(longest).min(longest);
        let span = board.horizon.saturating_sub(now) as f64;
        let instructions = (span / self.ns_per_instruction) as u64;
        instructions.clamp(100, self.slice_left.max(100))
    }

    fn learn_speed(&mut self, board: &Board, started: u64, instructions: u64) {
        if instructions > 1000 && !board.clock.is_icount() {
            let took = (board.clock.now(0) - started) as f64 / instructions as f64;
            self.ns_per_instruction += (took.clamp(0.5, 1000.0) - self.ns_per_instruction) * 0.05;
        }
    }

    /// Makes every later store mark its page anew.
    pub(crate) fn forget_dirty(&mut self) {
        for vcpu in &mut self.vcpus {
            vcpu.forget_dirty();
        }
    }

    /// Whose turn it is.
    pub(crate) fn scheduler(&self) -> SchedulerState {
        SchedulerState { turn: self.turn as u32, slice_left: self.slice_left }
    }

    /// The state of every vCPU and its local APIC; `tsc` is the machine's counter.
    pub(crate) fn save(
        &self,
        board: &Board,
        tsc: u64,
    ) -> Result<Vec<(CpuState, LapicState)>, StateError> {
        let lapics = board.interrupts.modelled().iter().map(devices::Lapic::save);
        self.vcpus.iter().zip(lapics).map(|(vcpu, lapic)| Ok((vcpu.state(tsc)?, lapic))).collect()
    }

    /// Takes what [`Self::save`] gave.
    pub(crate) fn restore(
        &mut self,
        board: &mut Board,
        states: &[(CpuState, LapicState)],
        scheduler: &SchedulerState,
        tsc: u64,
    ) -> Result<(), StateError> {
        for (vcpu, (state, _)) in self.vcpus.iter_mut().zip(states) {
            vcpu.set_state(state, tsc)?;
        }
        for (lapic, (_, state)) in board.interrupts.modelled_mut().iter_mut().zip(states) {
            lapic.restore(state)?;
        }
        let SchedulerState { turn, slice_left } = *scheduler;
        self.turn = turn as usize;
        self.slice_left = slice_left;
        Ok(())
    }
}

/// Every vCPU is idle: skips to the next deadline under icount, else says how long it is.
fn idle(board: &mut Board, now: u64) -> Option<Stop> {
    let Some(deadline) = board.deadline() else { return Some(Stop::Asleep) };
    if board.clock.is_icount() {
        board.clock.skip_to(deadline);
        return None;
    }
    Some(Stop::Idle(Duration::from_nanos(deadline.saturating_sub(now))))
}
