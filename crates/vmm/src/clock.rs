//! The one virtual clock from which every device and every TSC takes its time.
//!
//! It counts nanoseconds since the machine first started, and stands still while the machine is
//! paused. Under `clock=host` it follows the host's monotonic clock; under `clock=icount` it is the
//! number of executed instructions, plus the idle time that was skipped.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use machine::{ClockMode, MachineConfig};
use vmstate::{Invalid, VmState};

/// Real-time clock of an icount machine at its start: 2020-01-01 00:00:00 UTC, whenever it runs.
const ICOUNT_EPOCH_NS: i64 = 1_577_836_800_000_000_000;

/// Saved state of the clock.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "clock", version = 1, validate = "ClockState::check")]
pub struct ClockState {
    /// Virtual nanoseconds since the machine first started.
    pub virtual_ns: u64,
    /// Instructions executed by all vCPUs together since then; counted on either clock.
    pub instructions: u64,
    /// Under icount, virtual nanoseconds that passed while every vCPU was idle.
    pub skipped_ns: u64,
    /// Wall-clock nanoseconds since 1970 at the pause; zero under icount.
    pub paused_at_ns: i64,
    /// Wall-clock nanoseconds that the guest has missed in pauses before this one.
    pub missed_ns: u64,
}

impl ClockState {
    fn check(&self) -> Result<(), Invalid> {
        // Half the range leaves room for every deadline that a device may compute from it.
        if self.virtual_ns > i64::MAX as u64 || self.instructions > i64::MAX as u64 {
            return Err(Invalid::new("the clock is past its range"));
        }
        Ok(())
    }
}

/// The clock of one machine.
#[derive(Debug)]
pub struct Clock {
    mode: ClockMode,
    tsc_khz: u64,
    /// Virtual time at the last start or pause (host clock).
    base_ns: u64,
    /// When the host clock was started; `None` while paused.
    started: Option<Instant>,
    instructions: u64,
    skipped_ns: u64,
    paused_at_ns: i64,
    missed_ns: u64,
}

fn wall_clock_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

impl Clock {
    /// A clock at zero, not running.
    pub fn new(config: &MachineConfig) -> Self {
        let mut clock = Self {
            mode: config.clock,
            tsc_khz: config.cpus.tsc_khz,
            base_ns: 0,
            started: None,
            instructions: 0,
            skipped_ns: 0,
            paused_at_ns: 0,
            missed_ns: 0,
        };
        clock.paused_at_ns = clock.wall_clock_ns();
        clock
    }

    /// True if time is counted in instructions.
    pub fn is_icount(&self) -> bool {
        matches!(self.mode, ClockMode::Icount { .. })
    }

    /// Wall-clock nanoseconds since 1970, or what stands for them under icount.
    pub fn wall_clock_ns(&self) -> i64 {
        if self.is_icount() { 0 } else { wall_clock_ns() }
    }

    /// What the real-time clock of a new machine shows at virtual time zero.
    pub fn epoch_ns(&self) -> i64 {
        if self.is_icount() { ICOUNT_EPOCH_NS } else { wall_clock_ns() }
    }

    /// Instructions executed by all vCPUs together.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Virtual time when a run has executed `at` instructions past [`Self::instructions`].
    #[inline]
    pub fn now(&self, at: u64) -> u64 {
        match self.mode {
            ClockMode::Icount { shift } => ((self.instructions + at) << shift) + self.skipped_ns,
            ClockMode::Host => {
                let running = self.started.map_or(0, |started| started.elapsed().as_nanos() as u64);
                self.base_ns + running
            }
        }
    }

    /// The time-stamp counter at a virtual time.
    #[inline]
    pub fn tsc(&self, now: u64) -> u64 {
        (u128::from(now) * u128::from(self.tsc_khz) / 1_000_000) as u64
    }

    /// Instructions from now to a deadline under icount, rounded up so that it has passed then.
    pub fn instructions_to(&self, deadline: u64) -> Option<u64> {
        let ClockMode::Icount { shift } = self.mode else { return None };
        let left = deadline.saturating_sub(self.now(0));
        Some(left.div_ceil(1 << shift))
    }

    /// Counts executed instructions.
    pub fn executed(&mut self, instructions: u64) {
        self.instructions += instructions;
    }

    /// Under icount, skips the time to a deadline while every vCPU is idle.
    pub fn skip_to(&mut self, deadline: u64) {
        self.skipped_ns += deadline.saturating_sub(self.now(0));
    }

    /// Lets time pass.
    pub fn start(&mut self) {
        if self.started.is_none() {
            let missed = self.wall_clock_ns().saturating_sub(self.paused_at_ns);
            self.missed_ns += u64::try_from(missed).unwrap_or(0);
            self.started = Some(Instant::now());
        }
    }

    /// Stops time.
    pub fn stop(&mut self) {
        if self.started.is_some() {
            self.base_ns = self.now(0);
            self.started = None;
            self.paused_at_ns = self.wall_clock_ns();
        }
    }

    /// The state of a stopped clock.
    pub fn save(&self) -> ClockState {
        ClockState {
            virtual_ns: self.now(0),
            instructions: self.instructions,
            skipped_ns: self.skipped_ns,
            paused_at_ns: self.paused_at_ns,
            missed_ns: self.missed_ns,
        }
    }

    /// Refuses a state that is not this clock's.
    ///
    /// # Errors
    /// With the field that disagrees.
    pub fn accepts(&self, state: &ClockState) -> Result<(), Invalid> {
        if let ClockMode::Icount { shift } = self.mode {
            let counted = state.instructions.checked_shl(u32::from(shift));
            let virtual_ns = counted.and_then(|counted| counted.checked_add(state.skipped_ns));
            if virtual_ns != Some(state.virtual_ns) {
                return Err(Invalid::new(
                    "virtual_ns is not the instructions and what was skipped",
                ));
            }
        } else if state.skipped_ns != 0 {
            return Err(Invalid::new("skipped_ns without icount"));
        }
        Ok(())
    }

    /// Takes a state that [`Self::accepts`] took.
    pub fn restore(&mut self, state: &ClockState) {
        let ClockState { virtual_ns, instructions, skipped_ns, paused_at_ns, missed_ns } = *state;
        self.base_ns = virtual_ns;
        self.started = None;
        self.instructions = instructions;
        self.skipped_ns = skipped_ns;
        self.paused_at_ns = paused_at_ns;
        self.missed_ns = missed_ns;
    }
}
