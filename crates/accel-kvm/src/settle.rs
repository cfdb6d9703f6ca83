//! What KVM's local APIC timer has counted and not yet asked for.
//!
//! When the timer of a local APIC in the kernel ends, KVM counts that, and requests the interrupt
//! only when the vCPU next passes through the loop around the guest (Linux, arch/x86/kvm/x86.c,
//! `vcpu_run`). Neither KVM_GET_LAPIC nor any other call shows the count, so a vCPU that is stopped
//! in between would lose the interrupt. A KVM_RUN that a signal interrupts before it enters the
//! guest passes through that loop; `immediate_exit` does not, since it returns before.

use cpu::{AcceleratorError, Bus};
use vmm_sys_util::signal::{block_signal, clear_signal, unblock_signal};

use crate::kick::signal_number;
use crate::{ApicPage, KvmError, KvmVcpu, calls};

/// How often it is tried to read a timer that does not end meanwhile. Only one with a period of a
/// few microseconds ends every time.
const TRIES: usize = 32;

/// Registers of the page: the timer's entry of the local vector table, and its current count.
const LVT_TIMER: usize = 0x32;
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

impl KvmVcpu {
    /// The local APIC of a vCPU that has just left the guest, with every interrupt of its timer
    /// requested that was due up to this reading. Call it on the thread that ran the vCPU, after
    /// the run; what the timer does after this reading follows from its count.
    ///
    /// # Errors
    /// If the host cannot be asked, or the vCPU fails.
    pub fn settle(&mut self, bus: &mut dyn Bus) -> Result<ApicPage, AcceleratorError> {
        let mut before = self.apic()?;
        for _ in 0..TRIES {
            self.pass_through(bus)?;
            let after = self.apic()?;
            if !ended(&before, &after) {
                return Ok(after);
            }
            before = after;
        }
        Ok(before)
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
