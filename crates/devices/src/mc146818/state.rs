//! The saved state of the real-time clock.

use vmstate::{Invalid, VmState};

use super::registers::*;
use super::{NANOSECONDS, periodic_instant};

/// Saved state of the MC146818. When its interrupts are due follows from it.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "mc146818rtc", version = 1, validate = "check")]
pub struct RtcState {
    /// The memory: time, alarm, registers A to D (C without its request bit), and the rest. The
    /// time is that of `second`, or what the guest has set while the clock stands.
    pub cmos: [u8; 128],
    /// Index register: the byte that the data port gives, 0 to 127.
    pub index: u8,
    /// Bit 7 of the index port: non-maskable interrupts are masked.
    pub nmi_masked: bool,
    /// The clock's time at virtual time 0: seconds since 1970. While the clock stands only the
    /// place within the second counts.
    pub base_seconds: i64,
    /// The clock's time at virtual time 0: nanoseconds within that second.
    pub base_nanoseconds: u32,
    /// The last second that the registers have been updated to; 0 while the clock stands.
    pub second: i64,
    /// Virtual nanoseconds since which periodic interrupts are counted; 0 if there are none.
    pub periodic_origin: u64,
    /// Periodic interrupts since then.
    pub periodic_count: u64,
    /// Periodic interrupts that came while one was pending, since they were enabled.
    pub irq_coalesced: u32,
}

fn check(state: &RtcState) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl RtcState {
    /// Whether the time of day goes on.
    pub fn runs(&self) -> bool {
        clock_runs(&self.cmos)
    }

    /// Makes the time registers show this second since 1970, as those of a clock that runs do.
    pub fn show(&mut self, second: i64) {
        self.second = second;
        show_time(&mut self.cmos, second);
    }

    /// The first second after this one at which the alarm goes off, if it ever does.
    pub fn next_alarm(&self, after: i64) -> Option<i64> {
        next_alarm(&self.cmos, after)
    }

    /// Ticks of 32,768 Hz between periodic interrupts, if the registers ask for them.
    pub fn periodic_ticks(&self) -> Option<u64> {
        periodic_ticks(&self.cmos)
    }

    pub(super) fn base(&self) -> i128 {
        i128::from(self.base_seconds) * NANOSECONDS + i128::from(self.base_nanoseconds)
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let cmos = &self.cmos;
        let range = -(1 << 40)..=1 << 40;
        let running = clock_runs(cmos);
        let set = cmos[REGISTER_B] & B_SET != 0;
        let rules = [
            (usize::from(self.index) < CMOS_SIZE, "index is not of a byte"),
            (cmos[REGISTER_A] & A_UPDATING == 0, "register A has its update bit"),
            (!set || cmos[REGISTER_B] & B_UPDATE_ENDED == 0, "register B has SET and UIE"),
            (cmos[REGISTER_C] & !FLAGS == 0, "register C has bits that are not flags"),
            (cmos[REGISTER_D] == D_VALID, "register D is not 0x80"),
            (range.contains(&self.base_seconds), "base_seconds is out of range"),
            (i128::from(self.base_nanoseconds) < NANOSECONDS, "base_nanoseconds is out of range"),
            (range.contains(&self.second), "second is out of range"),
            (running || self.second == 0, "second while the clock stands"),
            (!running || self.second >= self.base_seconds, "second is before base_seconds"),
        ];
        if let Some((_, broken)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(broken);
        }
        if running {
            let mut shown = *cmos;
            show_time(&mut shown, self.second);
            if shown != *cmos {
                return Err("the time registers do not show second");
            }
        }
        match periodic_ticks(cmos) {
            None if self.periodic_origin != 0 || self.periodic_count != 0 => {
                Err("periodic_origin or periodic_count without a rate")
            }
            Some(ticks)
                if periodic_instant(self.periodic_origin, self.periodic_count, ticks).is_none() =>
            {
                Err("periodic_origin or periodic_count is out of range")
            }
            _ if cmos[REGISTER_B] & PERIODIC == 0 && self.irq_coalesced != 0 => {
                Err("irq_coalesced while periodic interrupts are disabled")
            }
            _ => Ok(()),
        }
    }
}
