//! The saved state of a local APIC.

use vmstate::{Invalid, VmState};

use super::registers::*;

/// Saved state of a local APIC; the section's instance is the vCPU's number.
///
/// Whether the vCPU waits for a start-up message is part of the vCPU's state.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "lapic", version = 1, validate = "check")]
pub struct LapicState {
    /// APIC base register.
    pub apic_base: u64,
    /// APIC ID.
    pub id: u8,
    /// Arbitration ID: the APIC ID at the last power-up.
    pub arbitration_id: u8,
    /// Task-priority register.
    pub task_priority: u8,
    /// Spurious-interrupt vector register.
    pub spurious_vector: u32,
    /// Logical destination, the upper byte of its register.
    pub logical_destination: u8,
    /// Destination format, the upper 4 bits of its register: 15 flat, 0 cluster.
    pub destination_format: u8,
    /// In-service register.
    pub isr: [u32; 8],
    /// Trigger-mode register.
    pub tmr: [u32; 8],
    /// Interrupt-request register.
    pub irr: [u32; 8],
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// Error-status register, as the last write to it left it.
    pub esr: u32,
    /// Errors since then.
    pub errors: u32,
    /// Interrupt-command register: low, high.
    pub icr: [u32; 2],
    /// Timer: divide configuration register.
    pub divide: u8,
    /// Timer: initial-count register.
    pub initial_count: u32,
    /// Timer: virtual nanoseconds at which the count began (before zero if the guest has raised
    /// the divider since).
    pub initial_count_load_time: i64,
    /// Timer: it runs; if not it stands at zero.
    pub timer_armed: bool,
    /// Timer: virtual nanoseconds at which the count reaches zero next; 0 if it does not run.
    pub timer_next: u64,
    /// Levels of LINT0 and LINT1.
    pub lint: [bool; 2],
}

fn check(state: &LapicState) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl LapicState {
    /// What can be said without the clock's frequency.
    pub(super) fn check(&self) -> Result<(), String> {
        let enabled = self.spurious_vector & SVR_ENABLED != 0;
        let low = self.isr[0] | self.tmr[0] | self.irr[0];
        let rules = [
            (self.apic_base & BASE_RESERVED == 0, "apic_base has reserved bits"),
            (self.spurious_vector & !SVR_BITS == 0, "spurious_vector has reserved bits"),
            (self.destination_format <= 0xf, "destination_format has more than 4 bits"),
            (low & 0xffff == 0, "isr, tmr or irr has a vector below 16"),
            (self.esr & !ERROR_BITS == 0, "esr has bits that do not exist"),
            (self.errors & !ERROR_BITS == 0, "errors has bits that do not exist"),
            (self.icr[0] & !ICR_LOW_BITS == 0, "icr has reserved bits"),
            (self.icr[1] & !ICR_HIGH_BITS == 0, "icr has reserved bits"),
            (self.timer_armed || self.timer_next == 0, "timer_next without a running timer"),
        ];
        if let Some((_, broken)) = rules.iter().find(|(holds, _)| !holds) {
            return Err((*broken).into());
        }
        for (index, entry) in self.lvt.iter().enumerate() {
            if entry & !(LVT_BITS[index] | LVT_REMOTE_IRR) != 0 {
                return Err(format!("lvt[{index}] has reserved bits"));
            }
            if entry & LVT_MASKED == 0 && !enabled {
                return Err(format!("lvt[{index}] is not masked and the apic is off"));
            }
            if entry & LVT_REMOTE_IRR != 0 && !is_level(index, *entry) {
                return Err(format!("lvt[{index}] has a remote irr and is edge-triggered"));
            }
        }
        Ok(())
    }
}
