//! MC146818 real-time clock with 128 bytes of memory (ports 0x70 and 0x71, interrupt 8).
//!
//! The clock's time is a base plus the virtual time: it is brought up to date whenever somebody
//! looks, and a deadline exists only while an interrupt that is enabled is to come. An update takes
//! no time; the update-in-progress bit announces it for 244 µs, as on the chip.

mod calendar;
mod registers;
mod state;
#[cfg(test)]
mod tests;

use crate::RestoreError;
use crate::ticks::{span_of, ticks_in};
use registers::*;
pub use state::RtcState;

/// Number of ports, beginning at 0x70.
pub const RTC_PORTS: u64 = 2;

const NANOSECONDS: i128 = 1_000_000_000;
/// The clock's crystal, in hertz.
const CLOCK_HZ: u64 = 32_768;
/// How long before an update the update-in-progress bit is set: 8 cycles of the crystal.
const UPDATE_NOTICE_NS: i128 = 244_140;
/// The first update after the divider chain's reset comes half a second later.
const RESET_PHASE_NS: i128 = 500_000_000;

/// The real-time clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    cmos: Cmos,
    index: u8,
    nmi_masked: bool,
    /// The clock's time at virtual time 0, in nanoseconds since 1970.
    base: i128,
    second: i64,
    periodic_origin: u64,
    periodic_count: u64,
    irq_coalesced: u32,
    /// When an enabled interrupt is to come.
    due: Option<u64>,
}

/// When the periodic interrupt after the first `count` comes.
fn periodic_instant(origin: u64, count: u64, ticks: u64) -> Option<u64> {
    let elapsed = count.checked_add(1)?.checked_mul(ticks)?;
    let at = origin.checked_add(span_of(elapsed, CLOCK_HZ))?;
    (at <= i64::MAX as u64).then_some(at)
}

impl Rtc {
    /// A clock that shows this wall-clock time (nanoseconds since 1970) at virtual time 0: BCD,
    /// 24 hours, no interrupt enabled.
    pub fn new(wall_clock_at_zero_ns: i64) -> Self {
        let mut cmos = [0; CMOS_SIZE];
        cmos[REGISTER_A] = 0x26;
        cmos[REGISTER_B] = B_24_HOURS;
        cmos[REGISTER_D] = D_VALID;
        let second = wall_clock_at_zero_ns.div_euclid(NANOSECONDS as i64);
        show_time(&mut cmos, second);
        Self {
            cmos,
            index: 0,
            nmi_masked: false,
            base: wall_clock_at_zero_ns.into(),
            second,
            periodic_origin: 0,
            periodic_count: 0,
            irq_coalesced: 0,
            due: None,
        }
    }

    /// Reads ports; `offset` is the port less 0x70. The index reads as 0xff.
    pub fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            *byte = if port == 1 { self.read_data(now) } else { 0xff };
        }
    }

    fn read_data(&mut self, now: u64) -> u8 {
        self.update(now);
        let index = usize::from(self.index);
        match index {
            REGISTER_A if self.update_is_near(now) => self.cmos[REGISTER_A] | A_UPDATING,
            REGISTER_C => {
                let request = if self.irq_level() { C_REQUEST } else { 0 };
                let flags = std::mem::take(&mut self.cmos[REGISTER_C]);
                self.arm();
                flags | request
            }
            _ => self.cmos[index],
        }
    }

    /// Writes ports; `offset` is the port less 0x70.
    pub fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        for (port, value) in (offset..).zip(data) {
            match port {
                0 => {
                    self.index = value & 0x7f;
                    self.nmi_masked = value & 0x80 != 0;
                }
                1 => self.write_data(now, *value),
                _ => (),
            }
        }
    }

    fn write_data(&mut self, now: u64, value: u8) {
        self.update(now);
        match usize::from(self.index) {
            REGISTER_A => self.write_a(now, value & !A_UPDATING),
            REGISTER_B => self.write_b(now, value),
            REGISTER_C | REGISTER_D => (),
            index => {
                self.cmos[index] = value;
                if is_time(index) && clock_runs(&self.cmos) {
                    self.run(now);
                }
            }
        }
        self.arm();
    }

    fn write_a(&mut self, now: u64, value: u8) {
        let old_ticks = periodic_ticks(&self.cmos);
        let chain_ran = chain_runs(&self.cmos);
        self.cmos[REGISTER_A] = value;
        let ticks = periodic_ticks(&self.cmos);
        if ticks != old_ticks {
            self.periodic_origin = if ticks.is_some() { now } else { 0 };
            self.periodic_count = 0;
            self.irq_coalesced = 0;
        }
        match (chain_ran, chain_runs(&self.cmos)) {
            (false, true) => {
                self.base = RESET_PHASE_NS - i128::from(now);
                if clock_runs(&self.cmos) {
                    self.run(now);
                }
            }
            (true, false) => self.second = 0,
            _ => (),
        }
    }

    fn write_b(&mut self, now: u64, value: u8) {
        let ran = clock_runs(&self.cmos);
        // Setting the clock ends the interest in its updates.
        let ignored = if value & B_SET != 0 { B_UPDATE_ENDED } else { 0 };
        self.cmos[REGISTER_B] = value & !ignored;
        if value & PERIODIC == 0 {
            self.irq_coalesced = 0;
        }
        match (ran, clock_runs(&self.cmos)) {
            (false, true) => self.run(now),
            (true, false) => self.second = 0,
            // The notation may have changed.
            (true, true) => show_time(&mut self.cmos, self.second),
            (false, false) => (),
        }
    }

    /// The place within the second.
    fn phase(&self, now: u64) -> i128 {
        (self.base + i128::from(now)).rem_euclid(NANOSECONDS)
    }

    /// Lets the clock go on from the time that the registers show.
    fn run(&mut self, now: u64) {
        let phase = self.phase(now);
        self.second = shown_time(&self.cmos);
        self.base = i128::from(self.second) * NANOSECONDS + phase - i128::from(now);
        show_time(&mut self.cmos, self.second);
    }

    fn update_is_near(&self, now: u64) -> bool {
        clock_runs(&self.cmos) && self.phase(now) >= NANOSECONDS - UPDATE_NOTICE_NS
    }

    /// Brings registers and flags up to `now`.
    fn update(&mut self, now: u64) {
        let before = (self.second, self.periodic_count);
        if clock_runs(&self.cmos) {
            let second = (self.base + i128::from(now)).div_euclid(NANOSECONDS) as i64;
            if second > self.second {
                let alarm = if second == self.second + 1 {
                    alarm_at(&self.cmos, second)
                } else {
                    next_alarm(&self.cmos, self.second).is_some_and(|alarm| alarm <= second)
                };
                self.cmos[REGISTER_C] |= UPDATE_ENDED | if alarm { ALARM } else { 0 };
                self.second = second;
                show_time(&mut self.cmos, second);
            }
        }
        if let Some(ticks) = periodic_ticks(&self.cmos) {
            let elapsed = ticks_in(now.saturating_sub(self.periodic_origin), CLOCK_HZ);
            let count = elapsed / ticks;
            if count > self.periodic_count {
                let pending = self.cmos[REGISTER_C] & PERIODIC != 0;
                let lost = count - self.periodic_count - u64::from(!pending);
                if self.cmos[REGISTER_B] & PERIODIC != 0 {
                    let lost = u32::try_from(lost).unwrap_or(u32::MAX);
                    self.irq_coalesced = self.irq_coalesced.saturating_add(lost);
                }
                self.cmos[REGISTER_C] |= PERIODIC;
                self.periodic_count = count;
            }
        }
        if before != (self.second, self.periodic_count) {
            self.arm();
        }
    }

    /// Computes when the next enabled interrupt that is not pending comes.
    fn arm(&mut self) {
        let awaited = self.cmos[REGISTER_B] & !self.cmos[REGISTER_C] & FLAGS;
        if awaited == 0 {
            self.due = None;
            return;
        }
        let awaits = |flag: u8| awaited & flag != 0;
        let running = clock_runs(&self.cmos);
        let update = (awaits(UPDATE_ENDED) && running).then_some(self.second + 1);
        let alarm =
            if awaits(ALARM) && running { next_alarm(&self.cmos, self.second) } else { None };
        let second = update.into_iter().chain(alarm).min().and_then(|second| {
            let at = i128::from(second) * NANOSECONDS - self.base;
            u64::try_from(at).ok().filter(|at| *at <= i64::MAX as u64)
        });
        let ticks = if awaits(PERIODIC) { periodic_ticks(&self.cmos) } else { None };
        let periodic = ticks
            .and_then(|ticks| periodic_instant(self.periodic_origin, self.periodic_count, ticks));
        self.due = second.into_iter().chain(periodic).min();
    }

    /// Level of interrupt line 8: up while an enabled flag is set, until register C is read.
    pub fn irq_level(&self) -> bool {
        self.cmos[REGISTER_B] & self.cmos[REGISTER_C] & FLAGS != 0
    }

    /// Whether the index port masks non-maskable interrupts.
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    /// When the next enabled interrupt comes.
    pub fn deadline(&self) -> Option<u64> {
        self.due
    }

    /// Brings the clock up to `now`. Periodic interrupts that were missed are counted and
    /// coalesce.
    pub fn advance(&mut self, now: u64) {
        if self.due.is_some_and(|due| due <= now) {
            self.update(now);
        }
    }

    /// The state to be sent.
    pub fn save(&self) -> RtcState {
        let Self {
            cmos,
            index,
            nmi_masked,
            base,
            second,
            periodic_origin,
            periodic_count,
            irq_coalesced,
            // Follows from the rest.
            due: _,
        } = self;
        RtcState {
            cmos: *cmos,
            index: *index,
            nmi_masked: *nmi_masked,
            base_seconds: base.div_euclid(NANOSECONDS) as i64,
            base_nanoseconds: base.rem_euclid(NANOSECONDS) as u32,
            second: *second,
            periodic_origin: *periodic_origin,
            periodic_count: *periodic_count,
            irq_coalesced: *irq_coalesced,
        }
    }

    /// Becomes the clock that was saved.
    ///
    /// # Errors
    /// If the state is one that no clock reaches; this one is then unchanged.
    pub fn restore(&mut self, state: &RtcState) -> Result<(), RestoreError> {
        state.check().map_err(|reason| RestoreError::new("mc146818rtc", reason))?;
        let base = state.base();
        let RtcState {
            cmos,
            index,
            nmi_masked,
            base_seconds: _,
            base_nanoseconds: _,
            second,
            periodic_origin,
            periodic_count,
            irq_coalesced,
        } = *state;
        *self = Self {
            cmos,
            index,
            nmi_masked,
            base,
            second,
            periodic_origin,
            periodic_count,
            irq_coalesced,
            due: None,
        };
        self.arm();
        Ok(())
    }
}
