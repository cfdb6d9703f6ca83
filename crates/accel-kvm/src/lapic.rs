//! The local APIC's registers, as its memory-mapped page shows them.

use cpu::{AcceleratorError, msr};
use kvm_bindings::kvm_lapic_state;

use crate::{KvmError, KvmVcpu, msrs};

/// A local APIC: what the architecture shows of it (Intel SDM volume 3, table 11-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApicPage {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// The registers, one for every 16 bytes of the page: the one at offset `0x10 * n` is number
    /// `n`.
    pub registers: [u32; 64],
}

impl KvmVcpu {
    /// The vCPU's local APIC. The timer's current count is that of this instant.
    ///
    /// # Errors
    /// If the host cannot be asked.
    pub fn apic(&self) -> Result<ApicPage, AcceleratorError> {
        let read = || -> Result<ApicPage, KvmError> {
            let page = self.fd.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?;
            let register = |number: usize| {
                let at = number * 16;
                u32::from_le_bytes(std::array::from_fn(|byte| page.regs[at + byte].cast_unsigned()))
            };
            Ok(ApicPage {
                base: msrs::read(&self.fd, msr::APIC_BASE)?,
                registers: std::array::from_fn(register),
            })
        };
        read().map_err(|error| self.refuse(&error))
    }

    /// Sets the local APIC whole; its timer runs on from the current count. Call it after
    /// [`cpu::Vcpu::set_state`].
    ///
    /// # Errors
    /// If the host does not take it.
    pub fn set_apic(&mut self, page: &ApicPage) -> Result<(), AcceleratorError> {
        self.stale = true;
        let write = || -> Result<(), KvmError> {
            // The base decides what the page means.
            msrs::write(&self.fd, msr::APIC_BASE, page.base)?;
            let mut state = kvm_lapic_state::default();
            for (number, value) in page.registers.iter().enumerate() {
                for (byte, part) in value.to_le_bytes().into_iter().enumerate() {
                    state.regs[number * 16 + byte] = part.cast_signed();
                }
            }
            self.fd.set_lapic(&state).map_err(KvmError::call("KVM_SET_LAPIC"))?;
            // Only a timer in deadline mode takes a deadline.
            if self.offered.tsc_deadline {
                msrs::set_deadline(&self.fd, self.retained.tsc_deadline)?;
            }
            Ok(())
        };
        write().map_err(|error| self.refuse(&error))
    }
}
