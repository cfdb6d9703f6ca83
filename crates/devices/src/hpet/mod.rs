//! HPET (IA-PC HPET specification 1.0a): a 64-bit counter of 10 ns and three timers.
//!
//! A timer's interrupt is level-triggered, or a pulse that lasts one tick. With legacy replacement
//! timer 0 takes the place of the 8254 (pin 2) and timer 1 that of the real-time clock (pin 8).
//! There are no FSB (message) interrupts.

mod registers;
mod state;
#[cfg(test)]
mod tests;

use crate::RestoreError;
use registers::*;
pub use state::{HpetState, HpetTimerState};

/// Bytes of the HPET's region.
pub const HPET_SIZE: u64 = 0x400;

/// A timer.
#[derive(Clone, Copy, Debug)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    due: Option<u64>,
    pulse_until: Option<u64>,
}

impl Timer {
    const RESET: Self =
        Self { config: 0, comparator: u64::MAX, period: 0, due: None, pulse_until: None };

    fn periodic(&self) -> bool {
        self.config & TIMER_PERIODIC != 0
    }

    fn level(&self) -> bool {
        self.config & TIMER_LEVEL != 0
    }
}

/// The HPET.
#[derive(Clone, Debug)]
pub struct Hpet {
    config: u64,
    isr: u64,
    counter: u64,
    counter_time: u64,
    timers: [Timer; TIMERS],
}

impl Default for Hpet {
    fn default() -> Self {
        Self::new()
    }
}

impl Hpet {
    /// An HPET at power-up: halted, no legacy replacement.
    pub fn new() -> Self {
        Self { config: 0, isr: 0, counter: 0, counter_time: 0, timers: [Timer::RESET; TIMERS] }
    }

    fn enabled(&self) -> bool {
        self.config & CONFIG_ENABLED != 0
    }

    /// The main counter.
    fn counter(&self, now: u64) -> u64 {
        if !self.enabled() {
            return self.counter;
        }
        self.counter.wrapping_add(now.saturating_sub(self.counter_time) / PERIOD_NS)
    }

    /// Reads a register, or a part of one, of 1, 2, 4 or 8 bytes.
    pub fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        // A look at what the timers are now; it is the board's to move them, as it must see their
        // lines after that.
        let mut current = self.clone();
        while current.deadline().is_some_and(|due| due <= now) {
            current.advance(now);
        }
        let bytes = current.read_register(now, offset & !7).to_le_bytes();
        let first = (offset & 7) as usize;
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(&bytes[first..]) {
            *byte = *value;
        }
    }

    fn read_register(&self, now: u64, register: u64) -> u64 {
        match register {
            CAPABILITIES => CAPABILITIES_VALUE,
            CONFIG => self.config,
            INTERRUPT_STATUS => self.isr,
            COUNTER => self.counter(now),
            _ => match self.timer_register(register) {
                Some((index, TIMER_CONFIG)) => {
                    self.timers[index].config & !TIMER_SET_VALUE | TIMER_CAPABILITIES
                }
                Some((index, TIMER_COMPARATOR)) => self.timers[index].comparator,
                _ => 0,
            },
        }
    }

    fn timer_register(&self, register: u64) -> Option<(usize, u64)> {
        let offset = register.checked_sub(TIMER)?;
        let index = (offset / TIMER_SIZE) as usize;
        (index < TIMERS).then_some((index, offset % TIMER_SIZE))
    }

    /// Writes a register or an aligned half of one; other accesses have no effect.
    pub fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        self.advance(now);
        let (value, mask) = match *data {
            [a, b, c, d] if offset.is_multiple_of(4) => {
                let shift = 8 * (offset & 4);
                (u64::from(u32::from_le_bytes([a, b, c, d])) << shift, 0xffff_ffff << shift)
            }
            [a, b, c, d, e, f, g, h] if offset.is_multiple_of(8) => {
                (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::MAX)
            }
            _ => return,
        };
        self.write_register(now, offset & !7, value, mask);
    }

    fn write_register(&mut self, now: u64, register: u64, value: u64, mask: u64) {
        let merged = |old: u64| old & !mask | value & mask;
        match register {
            CONFIG => self.write_config(now, merged(self.config) & CONFIG_BITS),
            INTERRUPT_STATUS => self.isr &= !(value & mask),
            COUNTER => {
                // Meant for a halted counter; one that runs goes on from the new value.
                self.counter = merged(self.counter(now));
                self.counter_time = if self.enabled() { now } else { 0 };
                self.arm_all(now);
            }
            _ => match self.timer_register(register) {
                Some((index, TIMER_CONFIG)) => {
                    let config = merged(self.timers[index].config) & TIMER_BITS;
                    self.write_timer_config(now, index, config);
                }
                Some((index, TIMER_COMPARATOR)) => self.write_comparator(now, index, merged),
                _ => (),
            },
        }
    }

    fn write_config(&mut self, now: u64, config: u64) {
        let counter = self.counter(now);
        let was_enabled = self.enabled();
        self.config = config;
        if self.enabled() == was_enabled {
            return;
        }
        self.counter = counter;
        self.counter_time = if self.enabled() { now } else { 0 };
        for timer in &mut self.timers {
            timer.pulse_until = None;
        }
        self.arm_all(now);
    }

    fn write_timer_config(&mut self, now: u64, index: usize, mut config: u64) {
        let timer = &mut self.timers[index];
        if !valid_route(config) {
            // Software finds out by reading back that a pin is not offered.
            config = config & !TIMER_ROUTE | timer.config & TIMER_ROUTE;
        }
        timer.config = config;
        let width = width_mask(config);
        timer.comparator &= width;
        timer.period &= width;
        if timer.level() {
            timer.pulse_until = None;
        } else {
            self.isr &= !(1 << index);
        }
        self.arm(now, index);
    }

    fn write_comparator(&mut self, now: u64, index: usize, merged: impl Fn(u64) -> u64) {
        let timer = &mut self.timers[index];
        let width = width_mask(timer.config);
        if !timer.periodic() || timer.config & TIMER_SET_VALUE != 0 {
            timer.comparator = merged(timer.comparator) & width;
        }
        if timer.periodic() {
            timer.period = merged(timer.period) & width;
        }
        timer.config &= !TIMER_SET_VALUE;
        self.arm(now, index);
    }

    fn arm_all(&mut self, now: u64) {
        for index in 0..TIMERS {
            self.arm(now, index);
        }
    }

    /// Computes a timer's next match; equality at this very tick is one.
    fn arm(&mut self, now: u64, index: usize) {
        let enabled = self.enabled();
        let counter = self.counter(now);
        let timer = &mut self.timers[index];
        let ahead = timer.comparator.wrapping_sub(counter) & width_mask(timer.config);
        let tick = now.saturating_sub(self.counter_time) / PERIOD_NS;
        timer.due = if enabled { instant(self.counter_time, tick, ahead) } else { None };
    }

    /// Whether legacy replacement is on: the board then cuts the 8254 and the real-time clock off
    /// their interrupt lines.
    pub fn legacy_mode(&self) -> bool {
        self.config & CONFIG_LEGACY != 0
    }

    /// The levels of the pins of I/O APIC 0 that are the HPET's: 16 to 23 and, with legacy
    /// replacement, 2 and 8 (which are then inputs 0 and 8 of the 8259 pair, too).
    pub fn lines(&self) -> impl Iterator<Item = (u32, bool)> {
        let mut up = 0u32;
        for (index, timer) in self.timers.iter().enumerate() {
            let asserted = if timer.level() {
                self.isr >> index & 1 != 0
            } else {
                timer.pulse_until.is_some()
            };
            if asserted && self.enabled() && timer.config & TIMER_ENABLED != 0 {
                up |= 1 << self.pin(index);
            }
        }
        let legacy: &[u32] = if self.legacy_mode() { &[2, 8] } else { &[] };
        legacy.iter().copied().chain(16..24).map(move |pin| (pin, up >> pin & 1 != 0))
    }

    /// The pin of a timer; 0, which is nobody's, if it has none.
    fn pin(&self, index: usize) -> u32 {
        match index {
            0 if self.legacy_mode() => 2,
            1 if self.legacy_mode() => 8,
            _ => route(self.timers[index].config),
        }
    }

    /// The next match of a timer or end of a pulse.
    pub fn deadline(&self) -> Option<u64> {
        self.timers.iter().flat_map(|timer| [timer.due, timer.pulse_until]).flatten().min()
    }

    /// Brings the timers up to `now`. Matches that were missed coalesce into one, whose pulse then
    /// begins at `now`; if the pulse of an earlier one is still on the line it only ends now, and
    /// the deadline is in the past: call again.
    pub fn advance(&mut self, now: u64) {
        for index in 0..TIMERS {
            let timer = &mut self.timers[index];
            if timer.pulse_until.is_some_and(|end| end <= now) {
                timer.pulse_until = None;
            } else if timer.due.is_some_and(|due| due <= now) {
                self.matched(now, index);
            }
        }
    }

    fn matched(&mut self, now: u64, index: usize) {
        let counter = self.counter(now);
        let tick = now.saturating_sub(self.counter_time) / PERIOD_NS;
        let timer = &mut self.timers[index];
        if timer.level() {
            self.isr |= 1 << index;
        } else if timer.config & TIMER_ENABLED != 0 {
            timer.pulse_until = Some(now.saturating_add(PERIOD_NS));
        }
        let width = width_mask(timer.config);
        if timer.periodic() && timer.period != 0 {
            let late = counter.wrapping_sub(timer.comparator) & width;
            let step = (late / timer.period + 1).wrapping_mul(timer.period);
            timer.comparator = timer.comparator.wrapping_add(step) & width;
        }
        let ahead = timer.comparator.wrapping_sub(counter) & width;
        // A match now has been served: the next is a whole turn of the counter away.
        timer.due = match (ahead, width) {
            (0, u64::MAX) => None,
            (0, width) => instant(self.counter_time, tick, width + 1),
            (ahead, _) => instant(self.counter_time, tick, ahead),
        };
    }

    /// The state to be sent.
    pub fn save(&self) -> HpetState {
        let Self { config, isr, counter, counter_time, timers } = self;
        let timers = timers.iter().map(|timer| {
            let Timer { config, comparator, period, due, pulse_until } = *timer;
            HpetTimerState {
                config,
                comparator,
                period,
                armed: due.is_some(),
                due: due.unwrap_or(0),
                pulsing: pulse_until.is_some(),
                pulse_until: pulse_until.unwrap_or(0),
            }
        });
        HpetState {
            config: *config,
            isr: *isr,
            counter: *counter,
            counter_time: *counter_time,
            timers: timers.collect(),
        }
    }

    /// Becomes the HPET that was saved.
    ///
    /// # Errors
    /// If the state is one that no HPET reaches; this one is then unchanged.
    pub fn restore(&mut self, state: &HpetState) -> Result<(), RestoreError> {
        state.check().map_err(|reason| RestoreError::new("hpet", reason))?;
        let HpetState { config, isr, counter, counter_time, timers } = state;
        let mut restored = Self {
            config: *config,
            isr: *isr,
            counter: *counter,
            counter_time: *counter_time,
            timers: [Timer::RESET; TIMERS],
        };
        for (timer, saved) in restored.timers.iter_mut().zip(timers) {
            let HpetTimerState { config, comparator, period, armed, due, pulsing, pulse_until } =
                *saved;
            *timer = Timer {
                config,
                comparator,
                period,
                due: armed.then_some(due),
                pulse_until: pulsing.then_some(pulse_until),
            };
        }
        *self = restored;
        Ok(())
    }
}

/// The instant `ahead` ticks after `tick` of a counter started at `start`; `None` if it is past
/// the range of the clock.
fn instant(start: u64, tick: u64, ahead: u64) -> Option<u64> {
    let ticks = tick.checked_add(ahead)?;
    let at = start.checked_add(ticks.checked_mul(PERIOD_NS)?)?;
    (at <= i64::MAX as u64).then_some(at)
}
