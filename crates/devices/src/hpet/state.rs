//! The saved state of the HPET.

use vmstate::{Invalid, VmState};

use super::registers::*;

/// Saved state of one timer of the HPET. A 32-bit timer's coming wrap-around is its `due`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "hpet-timer", version = 1)]
pub struct HpetTimerState {
    /// Configuration register, the bits that the guest writes.
    pub config: u64,
    /// Comparator; advanced by the period at every match in periodic mode.
    pub comparator: u64,
    /// Period in ticks: the value that was written to the comparator last in periodic mode.
    pub period: u64,
    /// A match is to come while the machine's clock lasts.
    pub armed: bool,
    /// Virtual nanoseconds of that match; 0 if there is none.
    pub due: u64,
    /// An edge-triggered interrupt's pulse is on the line.
    pub pulsing: bool,
    /// Virtual nanoseconds at which the pulse ends; 0 if there is none.
    pub pulse_until: u64,
}

/// Saved state of the HPET.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "hpet", version = 1, validate = "check")]
pub struct HpetState {
    /// General configuration register.
    pub config: u64,
    /// General interrupt status register.
    pub isr: u64,
    /// Main counter at `counter_time`.
    pub counter: u64,
    /// Virtual nanoseconds at which the counter was started; 0 while it is halted.
    pub counter_time: u64,
    /// The timers.
    #[vmstate(max = 32)]
    pub timers: Vec<HpetTimerState>,
}

fn check(state: &HpetState) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl HpetState {
    pub(super) fn check(&self) -> Result<(), String> {
        let enabled = self.config & CONFIG_ENABLED != 0;
        let latest = i64::MAX as u64;
        let rules = [
            (self.config & !CONFIG_BITS == 0, "config has reserved bits"),
            (self.isr & !ISR_BITS == 0, "isr has reserved bits"),
            (enabled || self.counter_time == 0, "counter_time while halted"),
            (self.counter_time <= latest, "counter_time is out of range"),
            (self.timers.len() == TIMERS, "timers are not three"),
        ];
        if let Some((_, broken)) = rules.iter().find(|(holds, _)| !holds) {
            return Err((*broken).into());
        }
        for (index, timer) in self.timers.iter().enumerate() {
            let HpetTimerState { config, comparator, period, armed, due, pulsing, pulse_until } =
                *timer;
            let mask = width_mask(config);
            let rules = [
                (config & !TIMER_BITS == 0, "config has reserved bits"),
                (valid_route(config), "config routes to a pin that is not offered"),
                (period & !mask == 0, "period is wider than the timer"),
                (comparator & !mask == 0, "comparator is wider than the timer"),
                (armed || due == 0, "due without being armed"),
                (!armed || enabled, "armed while the counter is halted"),
                (armed || !enabled || mask == u64::MAX, "a 32-bit timer runs and is not armed"),
                (due <= latest && pulse_until <= latest, "an instant is out of range"),
                (pulsing || pulse_until == 0, "pulse_until without a pulse"),
                (!pulsing || (enabled && config & TIMER_LEVEL == 0), "a pulse that cannot be"),
                (self.isr >> index & 1 == 0 || config & TIMER_LEVEL != 0, "isr of an edge"),
            ];
            if let Some((_, broken)) = rules.iter().find(|(holds, _)| !holds) {
                return Err(format!("timers[{index}]: {broken}"));
            }
            if armed {
                let ran = due.checked_sub(self.counter_time);
                let at_due = ran
                    .filter(|ran| ran % PERIOD_NS == 0)
                    .map(|ran| self.counter.wrapping_add(ran / PERIOD_NS) & mask);
                if at_due != Some(comparator) {
                    return Err(format!("timers[{index}]: due is not where the counter matches"));
                }
            }
        }
        Ok(())
    }
}
