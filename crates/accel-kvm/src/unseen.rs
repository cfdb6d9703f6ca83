//! Exceptions that KVM has on their way into the guest and does not show.
//!
//! KVM_GET_VCPU_EVENTS leaves out #BP and #OF, and interrupts by INT n (Linux,
//! arch/x86/kvm/x86.c, `kvm_vcpu_ioctl_x86_get_vcpu_events`): the instruction is expected to raise
//! them again. That is so where the instruction pointer is still at the instruction. A KVM that has
//! stepped over it already, as one without hardware behind it does, would lose the event with the
//! vCPU's state. So a vCPU does not stop there: it runs on until the event is in the guest.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use cpu::{AcceleratorError, Bus};
use kvm_bindings::kvm_regs;

use crate::kick::Kicker;
use crate::{KvmError, KvmVcpu};

const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;
const INT3: u8 = 0xcc;
const INTO: u8 = 0xce;
const INT: u8 = 0xcd;

/// How often a guest runs on that does not move, and how long the first time; each time a little
/// longer. An entry delivers the event, unless the kick comes before it. A guest that stays there,
/// with the event long delivered, spins at the instruction behind. One that moves and stops in such
/// a place again raises one such event after another: on a busy host nearly all of its time may be
/// there, so it runs on for as long as it moves.
const TRIES: u32 = 64;
const WINDOW: Duration = Duration::from_micros(100);

impl KvmVcpu {
    /// Lets the guest run on, as briefly as it can be had, if an event may be on its way that the
    /// state would not show. The vCPU has left the guest between two instructions.
    pub(crate) fn deliver_unseen(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        let (mut before, mut still) = (None, 0);
        while !self.shutdown
            && let Some(regs) = self.behind_unseen().map_err(|error| self.refuse(&error))?
        {
            still = if before == Some(regs) { still + 1 } else { 0 };
            if still == TRIES {
                break;
            }
            before = Some(regs);
            self.enter_for(WINDOW + WINDOW / 8 * still, bus)?;
            if self.pending_io {
                // The next instruction was begun.
                return self.finish_access(bus);
            }
        }
        Ok(())
    }

    /// The registers, if the last instruction may have raised what KVM still has to deliver. It says
    /// which event was the last one on its way, but not whether it has arrived.
    fn behind_unseen(&self) -> Result<Option<kvm_regs>, KvmError> {
        let events = self.fd.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?;
        let exception = events.exception;
        let shown = exception.injected != 0 || exception.pending != 0;
        let interrupt = events.interrupt;
        let may_be = !shown && [BREAKPOINT, OVERFLOW].contains(&exception.nr)
            || interrupt.injected == 0 && interrupt.nr != 0;
        if !may_be {
            return Ok(None);
        }
        let regs = self.fd.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
        let behind = |bytes: u64| self.code_at(regs.rip.wrapping_sub(bytes));
        let raised = match behind(1) {
            Some(INT3) => exception.nr == BREAKPOINT,
            Some(INTO) => exception.nr == OVERFLOW,
            Some(vector) => vector == interrupt.nr && behind(2) == Some(INT),
            None => false,
        };
        Ok(raised.then_some(regs))
    }

    /// One KVM_RUN that is kicked after a while.
    fn enter_for(&mut self, window: Duration, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        // Other threads' kicks wait meanwhile: there may be more of them than entries.
        let kicker = Kicker::new().map_err(|error| self.refuse(&error))?;
        let entered = kicker.enter(&raw mut self.fd.get_kvm_run().immediate_exit);
        let (left, waits) = channel::<()>();
        thread::scope(|scope| {
            let kicker = kicker.clone();
            scope.spawn(move || {
                if waits.recv_timeout(window) == Err(RecvTimeoutError::Timeout) {
                    kicker.kick();
                }
            });
            let result = self.enter(bus);
            drop(left);
            drop(entered);
            result.map(|_| ())
        })
    }
}
