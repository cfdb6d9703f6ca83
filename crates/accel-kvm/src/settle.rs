//! What KVM's local APIC timer has counted and not yet asked for.
//!
//! When the timer of a local APIC in the kernel ends, KVM counts that, and requests the interrupt
//! only when the vCPU next passes through the loop around the guest (Linux, arch/x86/kvm/x86.c,
//! `vcpu_run`). Neither KVM_GET_LAPIC nor any other call shows the count, so a vCPU that is stopped
//! in between would lose the interrupt. A KVM_RUN that a signal interrupts before it enters the
//! guest passes through that loop; `immediate_exit` does not, since it returns before.

use std::thread;
use std::time::{Duration, Instant};

use cpu::{AcceleratorError, Bus};
use vmm_sys_util::signal::{block_signal, clear_signal, unblock_signal};

use crate::kick::signal_number;
use crate::{ApicPage, KvmError, KvmVcpu, calls};

/// How often it is tried to read a timer promptly, and one that does not end meanwhile. Only one with
/// a period of a few microseconds ends every time.
const TRIES: usize = 32;

/// Nanoseconds that a reading may take. A thread that loses its processor in the middle of one does
/// not know when it read.
pub const PROMPT_NS: u64 = 50_000;

/// A local APIC and the instant, by the clock that was given, at which it was read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its registers.
    pub page: ApicPage,
    /// When: within half of [`PROMPT_NS`], unless the host is too busy for 32 attempts.
    pub at: u64,
}

/// How long a periodic timer is waited for whose count stands at zero: its end was due, and the host
/// has not come to it. How late that is cannot be read.
const LATE: Duration = Duration::from_millis(50);
const LATE_STEP: Duration = Duration::from_micros(50);

/// Registers of the page: the timer's entry of the local vector table, and its counts.
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;
const LVT_PERIODIC: u32 = 1 << 17;

/// Whether the timer has ended between two readings.
fn ended(before: &ApicPage, after: &ApicPage) -> bool {
    let count = |page: &ApicPage| page.registers[CURRENT_COUNT];
    if after.registers[LVT_TIMER] & LVT_PERIODIC != 0 {
        count(after) > count(before)
    } else {
        count(before) != 0 && count(after) == 0
    }
}

/// Whether the end of a period was due and has not come.
fn is_late(page: &ApicPage) -> bool {
    page.registers[LVT_TIMER] & LVT_PERIODIC != 0
        && page.registers[INITIAL_COUNT] != 0
        && page.registers[CURRENT_COUNT] == 0
}

impl KvmVcpu {
    /// The local APIC of a vCPU that has just left the guest, with every interrupt of its timer
    /// requested that was due up to this reading. Call it on the thread that ran the vCPU, after
    /// the run; what the timer does after this reading follows from its count. `clock` counts
    /// nanoseconds.
    ///
    /// # Errors
    /// If the host cannot be asked, or the vCPU fails.
    pub fn settle(
        &mut self,
        bus: &mut dyn Bus,
        clock: impl Fn() -> u64,
    ) -> Result<Reading, AcceleratorError> {
        let (mut before, _) = self.read_apic(&clock)?;
        let mut best: Option<(Reading, u64)> = None;
        for _ in 0..TRIES {
            self.pass_through(bus)?;
            let (reading, took) = self.read_apic(&clock)?;
            let settled = !ended(&before.page, &reading.page);
            before = reading.clone();
            if settled && best.as_ref().is_none_or(|(_, least)| took < *least) {
                best = Some((reading, took));
            }
            if settled && took <= PROMPT_NS {
                break;
            }
        }
        Ok(best.map_or(before, |(reading, _)| reading))
    }

    /// Reads the local APIC; with how long that took.
    fn read_apic(&self, clock: &impl Fn() -> u64) -> Result<(Reading, u64), AcceleratorError> {
        let began = Instant::now();
        loop {
            let from = clock();
            let page = self.apic()?;
            let took = clock() - from;
            if !is_late(&page) || began.elapsed() > LATE {
                return Ok((Reading { page, at: from + took / 2 }, took));
            }
            thread::sleep(LATE_STEP);
        }
    }

    /// Enters KVM with a signal pending, so that it does all that it does before a guest is
    /// entered, and comes back.
    fn pass_through(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        let signal = signal_number();
        let failed = |call: &'static str| {
            move |error: vmm_sys_util::signal::Error| {
                AcceleratorError::from(KvmError::State(format!("{call}: {error}")))
            }
        };
        // Somebody up the stack may have it blocked already.
        let blocked_here = block_signal(signal).is_ok();
        let passed = self.enter_interrupted(bus);
        clear_signal(signal).map_err(failed("sigtimedwait"))?;
        if blocked_here {
            unblock_signal(signal).map_err(failed("pthread_sigmask"))?;
        }
        passed
    }

    fn enter_interrupted(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        calls::raise(signal_number());
        calls::set_signal_mask(&self.fd, Some(0))?;
        // Whatever the kernel still had to finish comes first.
        let mut entered = Ok(true);
        while let Ok(true) = entered {
            entered = self.enter(bus);
        }
        calls::set_signal_mask(&self.fd, None)?;
        entered.map(|_| ())
    }
}
