//! The local APIC as its page of registers, for an accelerator that runs one of its own.
//!
//! The page is what the architecture defines (Intel SDM volume 3, table 11-1) and holds all but a
//! little of the state: not the levels of the local inputs, not errors that no write to the
//! error-status register has shown yet, and of the timer only a count, not the instant at which it
//! began. What it does not hold is kept from before.

use super::registers::*;
use super::timer::Timer;
use super::{Lapic, LapicState};
use crate::RestoreError;

/// Registers of the page, one for each 16 bytes; those past the last do not exist.
pub const LAPIC_REGISTERS: usize = 64;

/// How far, in nanoseconds, an accelerator's timer may seem to be from where it was set to run, and
/// still be taken for the same: reading it takes time, and what is read must not wander with every
/// reading.
const TIMER_TOLERANCE_NS: u64 = 50_000;

fn index(register: u64) -> usize {
    (register / 16) as usize
}

impl Lapic {
    /// The registers as the vCPU would read them at `now`. Nothing of the timer may be due then:
    /// call [`Self::advance`] first.
    pub fn page(&self, now: u64) -> [u32; LAPIC_REGISTERS] {
        let mut page = [0; LAPIC_REGISTERS];
        let mut set = |register, value: u32| page[index(register)] = value;
        set(ID, u32::from(self.id) << 24);
        set(VERSION, VERSION_VALUE);
        set(TASK_PRIORITY, self.task_priority.into());
        set(PROCESSOR_PRIORITY, self.processor_priority().into());
        set(LOGICAL_DESTINATION, u32::from(self.logical_destination) << 24);
        set(DESTINATION_FORMAT, u32::from(self.destination_format) << 28 | 0xfff_ffff);
        set(SPURIOUS_VECTOR, self.spurious_vector);
        set(ERROR_STATUS, self.esr);
        set(ICR_LOW, self.icr[0]);
        set(ICR_HIGH, self.icr[1]);
        set(INITIAL_COUNT, self.timer.initial);
        set(CURRENT_COUNT, self.timer.current(now, self.bus_hz, self.periodic()));
        set(DIVIDE, self.timer.divide.into());
        for (first, words) in [(ISR, &self.isr.0), (TMR, &self.tmr.0), (IRR, &self.irr.0)] {
            page[index(first)..index(first) + words.len()].copy_from_slice(words);
        }
        page[index(LVT)..index(LVT) + self.lvt.len()].copy_from_slice(&self.lvt);
        page
    }

    /// Becomes the local APIC that shows this page at `now`, and that was this one when it was
    /// last set.
    ///
    /// # Errors
    /// If no local APIC of this machine shows such a page; this one is then unchanged.
    pub fn take_page(
        &mut self,
        now: u64,
        apic_base: u64,
        page: &[u32; LAPIC_REGISTERS],
    ) -> Result<(), RestoreError> {
        let get = |register| page[index(register)];
        let words = |first| -> [u32; 8] { std::array::from_fn(|word| page[index(first) + word]) };
        if get(VERSION) != VERSION_VALUE {
            let reason = format!("vcpu {}: version {:#x}", self.vcpu, get(VERSION));
            return Err(RestoreError::new("lapic", reason));
        }
        let lvt: [u32; 6] = std::array::from_fn(|entry| page[index(LVT) + entry]);
        let timer = self.timer_of(now, lvt[TIMER], page);
        let before = self.save();
        let state = LapicState {
            apic_base,
            id: (get(ID) >> 24) as u8,
            task_priority: get(TASK_PRIORITY) as u8,
            spurious_vector: get(SPURIOUS_VECTOR),
            logical_destination: (get(LOGICAL_DESTINATION) >> 24) as u8,
            destination_format: (get(DESTINATION_FORMAT) >> 28) as u8,
            isr: words(ISR),
            tmr: words(TMR),
            irr: words(IRR),
            lvt,
            esr: get(ERROR_STATUS),
            icr: [get(ICR_LOW) & ICR_LOW_BITS, get(ICR_HIGH) & ICR_HIGH_BITS],
            divide: timer.divide,
            initial_count: timer.initial,
            initial_count_load_time: timer.started,
            timer_armed: timer.next.is_some(),
            timer_next: timer.next.unwrap_or(0),
            arbitration_id: before.arbitration_id,
            errors: before.errors,
            lint: before.lint,
        };
        self.restore(&state)
    }

    /// Takes only the interrupts that a page shows as requested: those that came to the accelerator
    /// while everything else stood still.
    pub fn take_requests(&mut self, page: &[u32; LAPIC_REGISTERS]) {
        for (word, (irr, tmr)) in self.irr.0.iter_mut().zip(&mut self.tmr.0).enumerate() {
            *irr = page[index(IRR) + word];
            *tmr = page[index(TMR) + word];
        }
    }

    /// Takes the interrupts that a page shows, beside those of the own timer that it may not show
    /// yet. The page is of this local APIC, a little later.
    pub fn add_requests(&mut self, page: &[u32; LAPIC_REGISTERS]) {
        let Self { isr, tmr, irr, .. } = self;
        for word in 0..irr.0.len() {
            irr.0[word] |= page[index(IRR) + word];
            isr.0[word] = page[index(ISR) + word];
            tmr.0[word] = page[index(TMR) + word];
        }
    }

    /// Stops the timer, so that an accelerator to which the page is given lets none run.
    pub fn stop_timer(&mut self) {
        self.timer = Timer { divide: self.timer.divide, ..Timer::default() };
    }

    /// The timer that stands at the page's count.
    fn timer_of(&self, now: u64, entry: u32, page: &[u32; LAPIC_REGISTERS]) -> Timer {
        let periodic = entry & LVT_PERIODIC != 0;
        let initial = page[index(INITIAL_COUNT)];
        let current = page[index(CURRENT_COUNT)].min(initial);
        let divide = page[index(DIVIDE)] as u8 & 0xb;
        let same = self.timer.initial == initial
            && self.timer.divide == divide
            && self.periodic() == periodic;
        if same && self.timer.stands_at(now, self.bus_hz, periodic, current, TIMER_TOLERANCE_NS) {
            return self.timer;
        }
        Timer::standing_at(now, self.bus_hz, periodic, initial, current, divide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A local APIC with something in every register.
    fn busy() -> Lapic {
        let mut lapic = Lapic::new(0, 1_000_000_000);
        let mut put = |register, value: u32| lapic.write(0, register, &value.to_le_bytes());
        put(SPURIOUS_VECTOR, 0x1ff);
        put(DIVIDE, 0x3);
        put(LVT, LVT_PERIODIC | 0x30);
        put(INITIAL_COUNT, 1_000);
        put(LOGICAL_DESTINATION, 0x0100_0000);
        put(TASK_PRIORITY, 0x23);
        put(ICR_HIGH, 0x0200_0000);
        lapic.accept(0x41, true);
        lapic.accept(0x91, false);
        lapic.acknowledge();
        lapic
    }

    #[test]
    fn a_page_gives_the_same_local_apic_again() {
        let mut lapic = busy();
        let now = 12_345;
        lapic.advance(now);
        let state = lapic.save();
        // Read a little later than said, it is still the same timer.
        let page = lapic.page(now + 64);
        lapic.take_page(now, state.apic_base, &page).unwrap();
        assert_eq!(lapic.save(), state);
    }

    #[test]
    fn a_page_with_another_count_moves_the_timer() {
        let mut lapic = busy();
        let mut page = lapic.page(1_000_000);
        page[0x38] = 100_000;
        page[0x39] = 40_000;
        lapic.take_page(1_000_000, lapic.apic_base(), &page).unwrap();
        // Divided by 16: a tick is 16 ns.
        assert_eq!(lapic.deadline(), Some(1_000_000 + 40_000 * 16));
        assert_eq!(lapic.page(1_000_000), page);
        // A one-shot count that has ended stays so.
        page[0x32] &= !LVT_PERIODIC;
        page[0x39] = 0;
        lapic.take_page(2_000_000, lapic.apic_base(), &page).unwrap();
        assert_eq!(lapic.deadline(), None);
        assert_eq!(lapic.page(9_000_000), page);
    }

    #[test]
    fn a_page_that_no_local_apic_shows_is_refused() {
        let mut lapic = busy();
        let state = lapic.save();
        let mut page = lapic.page(0);
        page[3] = 0x15;
        assert!(lapic.take_page(0, state.apic_base, &page).is_err());
        let mut page = lapic.page(0);
        page[0x33] |= 1 << 20;
        assert!(lapic.take_page(0, state.apic_base, &page).is_err());
        assert_eq!(lapic.save(), state);
    }
}
