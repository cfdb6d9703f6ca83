//! Local APIC of a vCPU (Intel SDM volume 3, chapter 10) in xAPIC mode, version 0x14.
//!
//! It holds the interrupts that wait for its vCPU and the vCPU's timer. What it has for others
//! (inter-processor messages, the end of a level-triggered interrupt, a non-maskable interrupt for
//! its own vCPU) the board takes right after the access that caused it.

mod page;
mod registers;
mod state;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use crate::RestoreError;
use crate::message::DeliveryMode;
pub use page::LAPIC_REGISTERS;
use registers::*;
pub use state::LapicState;
use timer::Timer;
use vectors::Vectors;

/// Bytes of the local APIC's region.
pub const LAPIC_SIZE: u64 = 0x1000;

/// To whom an inter-processor message goes, if not to its destination field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// To the destination field's.
    None,
    /// To the sender.
    SelfOnly,
    /// To everyone.
    AllIncludingSelf,
    /// To everyone but the sender.
    AllExcludingSelf,
}

/// An inter-processor message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// To whom it goes.
    pub shorthand: Shorthand,
    /// Destination: an APIC ID or a set of logical destinations.
    pub destination: u8,
    /// The destination is logical.
    pub logical: bool,
    /// Delivery mode: not [`DeliveryMode::ExtInt`].
    pub mode: DeliveryMode,
    /// Vector.
    pub vector: u8,
    /// The level bit is set. (An INIT with the bit clear is only a message of the P6 family's
    /// arbitration; it is not passed on.)
    pub assert: bool,
    /// The trigger-mode bit is set; of no meaning in other modes than INIT.
    pub level: bool,
}

/// The APIC base register does not take a value: the vCPU raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("apic base register: {0:#x} sets reserved bits")]
pub struct ApicBaseError(pub u64);

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    bus_hz: u64,
    /// Its vCPU's number: the APIC ID at power-up; the bootstrap processor is 0.
    vcpu: u8,
    apic_base: u64,
    id: u8,
    arbitration_id: u8,
    task_priority: u8,
    spurious_vector: u32,
    logical_destination: u8,
    destination_format: u8,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    lvt: [u32; 6],
    esr: u32,
    errors: u32,
    icr: [u32; 2],
    timer: Timer,
    lint: [bool; 2],
    // For the board, which takes them at the end of every access: no part of the state.
    ipi: Option<Ipi>,
    eoi: Option<u8>,
    nmi: bool,
}

impl Lapic {
    /// The local APIC of this vCPU at power-up; vCPU 0 is the bootstrap processor. The timer's
    /// input clock has `bus_hz`, before the divider.
    pub fn new(vcpu: u8, bus_hz: u64) -> Self {
        let mut lapic = Self {
            bus_hz,
            vcpu,
            apic_base: 0,
            id: vcpu,
            arbitration_id: vcpu,
            task_priority: 0,
            spurious_vector: 0,
            logical_destination: 0,
            destination_format: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            lvt: [0; 6],
            esr: 0,
            errors: 0,
            icr: [0; 2],
            timer: Timer::default(),
            lint: [false; 2],
            ipi: None,
            eoi: None,
            nmi: false,
        };
        lapic.reset(false);
        lapic
    }

    /// Resets the registers: at power-up all of them, at INIT all but the APIC ID and the APIC
    /// base.
    pub fn reset(&mut self, init: bool) {
        if !init {
            let bootstrap = if self.vcpu == 0 { BASE_BOOTSTRAP } else { 0 };
            self.apic_base = BASE_ADDRESS | BASE_ENABLED | bootstrap;
            self.id = self.vcpu;
            self.arbitration_id = self.vcpu;
        }
        self.task_priority = 0;
        self.spurious_vector = 0xff;
        self.logical_destination = 0;
        self.destination_format = 0xf;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.lvt = [LVT_MASKED; 6];
        self.esr = 0;
        self.errors = 0;
        self.icr = [0; 2];
        self.timer = Timer::default();
    }

    fn globally_enabled(&self) -> bool {
        self.apic_base & BASE_ENABLED != 0
    }

    /// Enabled by both the APIC base and the spurious-interrupt vector register.
    fn accepting(&self) -> bool {
        self.globally_enabled() && self.spurious_vector & SVR_ENABLED != 0
    }

    fn periodic(&self) -> bool {
        self.lvt[TIMER] & LVT_PERIODIC != 0
    }

    /// Reads a register: 32 bits at a multiple of 16. Anything else reads as 0.
    pub fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        self.advance(now);
        if !self.globally_enabled() {
            data.fill(0xff);
            return;
        }
        data.fill(0);
        if data.len() == 4 && offset.is_multiple_of(16) {
            data.copy_from_slice(&self.read_register(now, offset).to_le_bytes());
        }
    }

    fn read_register(&mut self, now: u64, register: u64) -> u32 {
        let word = |first: u64| ((register - first) / 16) as usize;
        match register {
            ID => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => self.task_priority.into(),
            // There is no bus to arbitrate for.
            ARBITRATION_PRIORITY | EOI => 0,
            PROCESSOR_PRIORITY => self.processor_priority().into(),
            LOGICAL_DESTINATION => u32::from(self.logical_destination) << 24,
            DESTINATION_FORMAT => u32::from(self.destination_format) << 28 | 0xfff_ffff,
            SPURIOUS_VECTOR => self.spurious_vector,
            ISR..=ISR_LAST => self.isr.0[word(ISR)],
            TMR..=TMR_LAST => self.tmr.0[word(TMR)],
            IRR..=IRR_LAST => self.irr.0[word(IRR)],
            ERROR_STATUS => self.esr,
            ICR_LOW => self.icr[0],
            ICR_HIGH => self.icr[1],
            LVT..=LVT_LAST => self.lvt[word(LVT)],
            INITIAL_COUNT => self.timer.initial,
            CURRENT_COUNT => self.timer.current(now, self.bus_hz, self.periodic()),
            DIVIDE => self.timer.divide.into(),
            _ => {
                self.error(ERROR_REGISTER);
                0
            }
        }
    }

    /// Writes a register: 32 bits at a multiple of 16. Anything else has no effect.
    pub fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        self.advance(now);
        if let (&[a, b, c, d], true, true) =
            (data, offset.is_multiple_of(16), self.globally_enabled())
        {
            self.write_register(now, offset, u32::from_le_bytes([a, b, c, d]));
        }
    }

    fn write_register(&mut self, now: u64, register: u64, value: u32) {
        match register {
            ID => self.id = (value >> 24) as u8,
            TASK_PRIORITY => self.task_priority = value as u8,
            EOI => self.end_of_interrupt(),
            LOGICAL_DESTINATION => self.logical_destination = (value >> 24) as u8,
            DESTINATION_FORMAT => self.destination_format = (value >> 28) as u8,
            SPURIOUS_VECTOR => {
                self.spurious_vector = value & SVR_BITS;
                if value & SVR_ENABLED == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ERROR_STATUS => self.esr = std::mem::take(&mut self.errors),
            ICR_LOW => {
                self.icr[0] = value & ICR_LOW_BITS;
                self.send();
            }
            ICR_HIGH => self.icr[1] = value & ICR_HIGH_BITS,
            LVT..=LVT_LAST => self.write_lvt(now, ((register - LVT) / 16) as usize, value),
            INITIAL_COUNT => self.timer.start(now, self.bus_hz, value),
            DIVIDE => self.timer.set_divide(now, self.bus_hz, value as u8, self.periodic()),
            VERSION | ARBITRATION_PRIORITY | PROCESSOR_PRIORITY | CURRENT_COUNT => (),
            ISR..=IRR_LAST => (),
            _ => self.error(ERROR_REGISTER),
        }
    }

    fn write_lvt(&mut self, now: u64, index: usize, value: u32) {
        let was_periodic = self.periodic();
        let mut entry = value & LVT_BITS[index];
        if is_level(index, entry) {
            entry |= self.lvt[index] & LVT_REMOTE_IRR;
        }
        if self.spurious_vector & SVR_ENABLED == 0 {
            entry |= LVT_MASKED;
        }
        self.lvt[index] = entry;
        if was_periodic && !self.periodic() {
            self.timer.make_one_shot(now, self.bus_hz);
        }
        if index == LINT0 {
            self.level_input();
        }
    }

    /// The interrupt command register was written.
    fn send(&mut self) {
        let [low, high] = self.icr;
        let mode = match DeliveryMode::from_bits(low >> 8) {
            Some(DeliveryMode::ExtInt) | None => return,
            Some(mode) => mode,
        };
        let vector = low as u8;
        if matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) && vector < 16 {
            self.error(ERROR_SEND_VECTOR);
            return;
        }
        let assert = low & ICR_ASSERT != 0;
        let level = low & ICR_LEVEL != 0;
        if mode == DeliveryMode::Init && level && !assert {
            return;
        }
        let shorthand = match low >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::SelfOnly,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        };
        self.ipi = Some(Ipi {
            shorthand,
            destination: (high >> 24) as u8,
            logical: low & ICR_LOGICAL != 0,
            mode,
            vector,
            assert,
            level,
        });
    }

    fn error(&mut self, error: u32) {
        self.errors |= error;
        let entry = self.lvt[ERROR];
        if entry & LVT_MASKED != 0 {
            return;
        }
        match entry as u8 {
            0..16 => self.errors |= ERROR_RECEIVE_VECTOR,
            vector => self.request(vector, false),
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
    }

    /// Takes a fixed or lowest-priority interrupt that is addressed to it; false if it is switched
    /// off or the vector is not one (0 to 15).
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.accepting() {
            return false;
        }
        if vector < 16 {
            self.error(ERROR_RECEIVE_VECTOR);
            return false;
        }
        self.request(vector, level);
        true
    }

    fn processor_priority(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0);
        if self.task_priority >> 4 >= serving >> 4 { self.task_priority } else { serving & 0xf0 }
    }

    /// The interrupt that the vCPU is to take, if any.
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.processor_priority() >> 4 && self.accepting()).then_some(vector)
    }

    /// The vCPU takes the pending interrupt, which gets into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending_vector()?;
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        Some(vector)
    }

    fn end_of_interrupt(&mut self) {
        let Some(vector) = self.isr.highest() else { return };
        self.isr.set(vector, false);
        if self.tmr.contains(vector) {
            self.eoi = Some(vector);
            let entry = &mut self.lvt[LINT0];
            if is_level(LINT0, *entry) && *entry as u8 == vector {
                *entry &= !LVT_REMOTE_IRR;
                self.level_input();
            }
        }
    }

    /// CR8: the task-priority class.
    pub fn task_priority(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Writes CR8; bits above the lowest four do not exist.
    pub fn set_task_priority(&mut self, class: u8) {
        self.task_priority = class << 4;
    }

    /// What lowest-priority messages compare: the processor priority, or 0x100 if it takes none.
    pub fn arbitration_priority(&self) -> u16 {
        if self.accepting() { self.processor_priority().into() } else { 0x100 }
    }

    /// Of several local APICs the index of the one that takes a lowest-priority message: the first
    /// of those with the lowest priority.
    pub fn lowest_priority<'a>(
        candidates: impl Iterator<Item = (usize, &'a Self)>,
    ) -> Option<usize> {
        candidates
            .filter(|(_, lapic)| lapic.accepting())
            .min_by_key(|(_, lapic)| lapic.arbitration_priority())
            .map(|(index, _)| index)
    }

    /// Whether a message's destination includes this local APIC (SDM, section 10.6.2).
    pub fn matches_destination(&self, destination: u8, logical: bool) -> bool {
        if !self.globally_enabled() {
            return false;
        }
        if destination == 0xff {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        let common = destination & self.logical_destination;
        if self.destination_format == 0xf {
            return common != 0;
        }
        let same_cluster = destination >> 4 == self.logical_destination >> 4;
        common & 0xf != 0 && (same_cluster || destination >> 4 == 0xf)
    }

    /// Sets the level of a local input, LINT0 or LINT1. (The 8259 pair's output needs no call
    /// while LINT0 is in ExtINT mode: see [`Self::accepts_pic`].)
    pub fn set_lint(&mut self, input: usize, level: bool) {
        let Some(line) = self.lint.get_mut(input) else { return };
        let rising = level && !*line;
        *line = level;
        if !self.globally_enabled() {
            // The pins are then INTR and NMI of a processor without APIC.
            self.nmi |= rising && input == 1;
            return;
        }
        let index = LINT0 + input;
        let entry = self.lvt[index];
        if is_level(index, entry) {
            self.level_input();
        } else if rising && entry & LVT_MASKED == 0 {
            match DeliveryMode::from_bits(entry >> 8) {
                Some(DeliveryMode::Fixed) => {
                    self.accept(entry as u8, false);
                }
                Some(DeliveryMode::Nmi) => self.nmi = true,
                _ => (),
            }
        }
    }

    /// LINT0, if level-triggered: asks again as long as it is up and its last request has ended.
    fn level_input(&mut self) {
        let entry = self.lvt[LINT0];
        let open = entry & (LVT_MASKED | LVT_REMOTE_IRR) == 0 && is_level(LINT0, entry);
        if open && self.lint[0] && self.accept(entry as u8, true) {
            self.lvt[LINT0] |= LVT_REMOTE_IRR;
        }
    }

    /// Whether the 8259 pair's output reaches the vCPU: LINT0 is open in ExtINT mode, or the APIC
    /// is off altogether.
    pub fn accepts_pic(&self) -> bool {
        let entry = self.lvt[LINT0];
        let ext_int = DeliveryMode::from_bits(entry >> 8) == Some(DeliveryMode::ExtInt);
        !self.globally_enabled() || (entry & LVT_MASKED == 0 && ext_int)
    }

    /// The APIC base register.
    pub fn apic_base(&self) -> u64 {
        self.apic_base
    }

    /// Writes the APIC base register. The bootstrap flag is the hardware's. Switching the APIC off
    /// resets its registers.
    ///
    /// # Errors
    /// If reserved bits are set, or x2APIC mode, which is not offered.
    pub fn set_apic_base(&mut self, now: u64, value: u64) -> Result<(), ApicBaseError> {
        self.advance(now);
        if value & BASE_RESERVED != 0 {
            return Err(ApicBaseError(value));
        }
        if value & BASE_ENABLED == 0 {
            self.reset(true);
        }
        self.apic_base = value & !BASE_BOOTSTRAP | self.apic_base & BASE_BOOTSTRAP;
        Ok(())
    }

    /// Takes the inter-processor message that the last access sent.
    pub fn take_ipi(&mut self) -> Option<Ipi> {
        self.ipi.take()
    }

    /// Takes the vector of the level-triggered interrupt that the last access ended, for the I/O
    /// APICs.
    pub fn take_eoi_broadcast(&mut self) -> Option<u8> {
        self.eoi.take()
    }

    /// Takes the non-maskable interrupt that a local input has caused.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// When the timer reaches zero.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.next
    }

    /// Brings the timer up to `now`.
    pub fn advance(&mut self, now: u64) {
        let fired = self.timer.advance(now, self.bus_hz, self.periodic());
        let entry = self.lvt[TIMER];
        if fired && entry & LVT_MASKED == 0 {
            self.accept(entry as u8, false);
        }
    }

    /// The state to be sent.
    pub fn save(&self) -> LapicState {
        let Self {
            // The machine configuration's.
            bus_hz: _,
            vcpu: _,
            apic_base,
            id,
            arbitration_id,
            task_priority,
            spurious_vector,
            logical_destination,
            destination_format,
            isr,
            tmr,
            irr,
            lvt,
            esr,
            errors,
            icr,
            timer: Timer { initial, started, next, divide },
            lint,
            // The board has taken them.
            ipi: _,
            eoi: _,
            nmi: _,
        } = self;
        LapicState {
            apic_base: *apic_base,
            id: *id,
            arbitration_id: *arbitration_id,
            task_priority: *task_priority,
            spurious_vector: *spurious_vector,
            logical_destination: *logical_destination,
            destination_format: *destination_format,
            isr: isr.0,
            tmr: tmr.0,
            irr: irr.0,
            lvt: *lvt,
            esr: *esr,
            errors: *errors,
            icr: *icr,
            divide: *divide,
            initial_count: *initial,
            initial_count_load_time: *started,
            timer_armed: next.is_some(),
            timer_next: next.unwrap_or(0),
            lint: *lint,
        }
    }

    /// Becomes the local APIC that was saved.
    ///
    /// # Errors
    /// If the state is one that no local APIC of this vCPU reaches; this one is then unchanged.
    pub fn restore(&mut self, state: &LapicState) -> Result<(), RestoreError> {
        let refuse =
            |reason: &str| RestoreError::new("lapic", format!("vcpu {}: {reason}", self.vcpu));
        state.check().map_err(|reason| refuse(&reason))?;
        let LapicState {
            apic_base,
            id,
            arbitration_id,
            task_priority,
            spurious_vector,
            logical_destination,
            destination_format,
            isr,
            tmr,
            irr,
            lvt,
            esr,
            errors,
            icr,
            divide,
            initial_count,
            initial_count_load_time,
            timer_armed,
            timer_next,
            lint,
        } = *state;
        if (apic_base & BASE_BOOTSTRAP != 0) != (self.vcpu == 0) {
            return Err(refuse("apic_base has another processor's bootstrap flag"));
        }
        let timer = Timer {
            initial: initial_count,
            started: initial_count_load_time,
            next: timer_armed.then_some(timer_next),
            divide,
        };
        timer.check(self.bus_hz, lvt[TIMER] & LVT_PERIODIC != 0).map_err(refuse)?;
        *self = Self {
            bus_hz: self.bus_hz,
            vcpu: self.vcpu,
            apic_base,
            id,
            arbitration_id,
            task_priority,
            spurious_vector,
            logical_destination,
            destination_format,
            isr: Vectors(isr),
            tmr: Vectors(tmr),
            irr: Vectors(irr),
            lvt,
            esr,
            errors,
            icr,
            timer,
            lint,
            ipi: None,
            eoi: None,
            nmi: false,
        };
        Ok(())
    }
}
