//! How an accelerator runs a vCPU.
//!
//! The machine calls [`Vcpu::run`] with a budget; the vCPU executes guest instructions and reaches
//! the rest of the machine through [`Bus`] alone. Every call of the bus carries how many
//! instructions this run has executed before the one that makes the call, so that under
//! `clock=icount` the machine knows the exact instant.

use crate::CpuState;

/// The guest did what the architecture answers with #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// What the machine offers a vCPU while it runs. `at` counts the instructions that the current run
/// has executed so far.
pub trait Bus {
    /// Reads `size` (1, 2 or 4) bytes from a port.
    fn port_in(&mut self, at: u64, port: u16, size: u8) -> u32;
    /// Writes `size` (1, 2 or 4) bytes to a port.
    fn port_out(&mut self, at: u64, port: u16, size: u8, value: u32);
    /// Reads guest-physical memory that is not RAM; at most 8 bytes.
    fn mmio_read(&mut self, at: u64, address: u64, data: &mut [u8]);
    /// Writes guest-physical memory that is not RAM; at most 8 bytes.
    fn mmio_write(&mut self, at: u64, address: u64, data: &[u8]);
    /// The machine's time-stamp counter, before a vCPU's own offset.
    fn tsc(&mut self, at: u64) -> u64;
    /// The APIC base register of this vCPU's local APIC.
    fn apic_base(&mut self) -> u64;
    /// Writes the APIC base register.
    ///
    /// # Errors
    /// If the local APIC does not take the value.
    fn set_apic_base(&mut self, at: u64, value: u64) -> Result<(), GeneralProtection>;
    /// CR8: the task priority class of this vCPU's local APIC.
    fn task_priority(&mut self) -> u8;
    /// Writes CR8.
    fn set_task_priority(&mut self, at: u64, value: u8);
    /// True if an interrupt waits that this vCPU may take as soon as its flags allow.
    fn interrupt_pending(&mut self) -> bool;
    /// Takes the waiting interrupt; `None` if it went away meanwhile.
    fn acknowledge_interrupt(&mut self, at: u64) -> Option<u8>;
    /// The guest ended a level-triggered interrupt at its local APIC, which an accelerator keeps:
    /// the I/O APICs hear of it here. An accelerator whose local APICs are the machine's own models
    /// never calls this.
    fn end_of_interrupt(&mut self, vector: u8);
    /// True if the run must end at once, since an access moved a deadline or concerns another vCPU.
    fn attention(&mut self) -> bool;
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The budget is spent.
    Budget,
    /// [`Bus::attention`] asked for it.
    Attention,
    /// The vCPU has nothing to execute until an interrupt, an INIT or a SIPI comes.
    Idle,
    /// PAUSE: the guest waits for another vCPU; run that one first.
    Yield,
    /// A triple fault; the vCPU cannot go on.
    Shutdown,
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Why it ended.
    pub exit: Exit,
    /// Instructions executed. An instruction that faults counts; a repeated string instruction
    /// counts once for each repetition; the delivery of an event does not count.
    pub instructions: u64,
}

/// What reaches a vCPU from outside, besides maskable interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Non-maskable interrupt.
    Nmi,
    /// INIT: reset, then wait for a SIPI (the bootstrap processor runs at once).
    Init,
    /// Start-up IPI with its vector; ignored unless the vCPU waits for it.
    Startup(u8),
}

/// The accelerator failed, or the guest asked for what it does not offer.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// A state that the accelerator cannot take.
    #[error("vcpu {vcpu}: {reason}")]
    State {
        /// Which vCPU.
        vcpu: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's part of the accelerator failed, for no vCPU in particular.
    #[error("the host's part of the accelerator failed")]
    Host(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The guest cannot go on, for a reason that is ours.
    #[error("vcpu {vcpu} at rip {rip:#x}: {reason}")]
    Run {
        /// Which vCPU.
        vcpu: u32,
        /// Where it stood.
        rip: u64,
        /// What happened.
        reason: String,
    },
}

/// One vCPU of an accelerator.
pub trait Vcpu: Send {
    /// Runs for at most `budget` instructions. Where the accelerator cannot count, it runs until
    /// something ends the run.
    ///
    /// # Errors
    /// If the accelerator fails; the vCPU's state is then what it was before the instruction.
    fn run(&mut self, bus: &mut dyn Bus, budget: u64) -> Result<Ran, AcceleratorError>;

    /// The state between two instructions. `tsc` is the machine's counter at this instant.
    ///
    /// # Errors
    /// If the accelerator cannot be asked.
    fn state(&self, tsc: u64) -> Result<CpuState, AcceleratorError>;

    /// Takes a state whole, or changes nothing. `tsc` is the machine's counter at this instant.
    ///
    /// # Errors
    /// If the state is not one that this accelerator can run.
    fn set_state(&mut self, state: &CpuState, tsc: u64) -> Result<(), AcceleratorError>;

    /// Takes a signal; it acts before the next instruction.
    fn signal(&mut self, signal: Signal);

    /// True if there is nothing to execute until a signal or an interrupt comes.
    fn is_idle(&self) -> bool;

    /// True if an idle vCPU would take up an interrupt that is pending: it is halted with
    /// interrupts enabled.
    fn wakes(&self, interrupt_pending: bool) -> bool;

    /// Makes every later store mark its page anew: called between a harvest of the dirty log and
    /// the next run.
    fn forget_dirty(&mut self);
}
