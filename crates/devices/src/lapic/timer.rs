//! The local APIC's timer (Intel SDM volume 3, section 10.5.4), one-shot and periodic.

use crate::ticks::{span_of, ticks_in};

/// The count is a function of these fields and the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timer {
    /// Initial-count register.
    pub(super) initial: u32,
    /// Virtual nanoseconds at which the count began; before zero if the divider was raised since.
    pub(super) started: i64,
    /// When the count reaches zero next; `None` if the timer stands at zero.
    pub(super) next: Option<u64>,
    /// Divide configuration register.
    pub(super) divide: u8,
}

impl Timer {
    fn divisor(&self) -> u64 {
        match (self.divide & 3) | (self.divide >> 1 & 4) {
            7 => 1,
            shift => 2 << shift,
        }
    }

    fn ticks(&self, now: u64, hz: u64) -> u64 {
        let elapsed = i128::from(now) - i128::from(self.started);
        ticks_in(u64::try_from(elapsed).unwrap_or(0), hz) / self.divisor()
    }

    fn span(&self, ticks: u64, hz: u64) -> u64 {
        span_of(ticks.saturating_mul(self.divisor()), hz)
    }

    fn instant(&self, ticks: u64, hz: u64) -> u64 {
        self.started.saturating_add_unsigned(self.span(ticks, hz)).max(0) as u64
    }

    /// Current-count register.
    pub(super) fn current(&self, now: u64, hz: u64, periodic: bool) -> u32 {
        if self.next.is_none() {
            return 0;
        }
        let ticks = self.ticks(now, hz);
        let initial = u64::from(self.initial);
        let left = if periodic { initial - ticks % initial } else { initial.saturating_sub(ticks) };
        left as u32
    }

    /// A write to the initial-count register: starts the timer, or stops it with 0.
    pub(super) fn start(&mut self, now: u64, hz: u64, initial: u32) {
        self.initial = initial;
        self.started = now as i64;
        self.next = (initial != 0).then(|| self.instant(initial.into(), hz));
        if initial == 0 {
            self.started = 0;
        }
    }

    /// Whether the count has reached zero; periods that were missed coalesce.
    pub(super) fn advance(&mut self, now: u64, hz: u64, periodic: bool) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        let initial = u64::from(self.initial);
        self.next = periodic.then(|| {
            let periods = self.ticks(now, hz) / initial + 1;
            self.instant(periods * initial, hz)
        });
        true
    }

    /// A write to the divide configuration register: the count goes on from where it is, at the
    /// new speed. Nothing may be due at `now`.
    pub(super) fn set_divide(&mut self, now: u64, hz: u64, divide: u8, periodic: bool) {
        let left = self.current(now, hz, periodic);
        self.divide = divide & 0xb;
        if self.next.is_some() {
            let gone = self.span((self.initial - left).into(), hz);
            self.started = (now as i64).saturating_sub_unsigned(gone);
            self.next = Some(self.instant(self.initial.into(), hz));
        }
    }

    /// From periodic to one-shot: the period that runs is the last. Nothing may be due at `now`.
    pub(super) fn make_one_shot(&mut self, now: u64, hz: u64) {
        if self.next.is_some() {
            let initial = u64::from(self.initial);
            let periods = self.ticks(now, hz) / initial;
            self.started = self.started.saturating_add_unsigned(self.span(periods * initial, hz));
            self.next = Some(self.instant(initial, hz));
        }
    }

    /// Whether the count is this one at `now`, give or take some nanoseconds.
    pub(super) fn stands_at(
        &self,
        now: u64,
        hz: u64,
        periodic: bool,
        count: u32,
        tolerance_ns: u64,
    ) -> bool {
        let own = self.current(now, hz, periodic);
        if self.next.is_none() || (count == 0 && !periodic) {
            return self.next.is_none() && count == 0;
        }
        let apart = u64::from(own.abs_diff(count));
        // A periodic count that has just begun anew is near to one that is about to.
        let apart = if periodic { apart.min(u64::from(self.initial) - apart) } else { apart };
        self.span(apart, hz) <= tolerance_ns
    }

    /// A timer whose count is `count` at `now`.
    pub(super) fn standing_at(
        now: u64,
        hz: u64,
        periodic: bool,
        initial: u32,
        count: u32,
        divide: u8,
    ) -> Self {
        let mut timer = Self { initial, started: 0, next: None, divide };
        if initial != 0 {
            let gone = timer.span((initial - count).into(), hz);
            timer.started = (now as i64).saturating_sub_unsigned(gone);
            let runs = periodic || count != 0;
            timer.next = runs.then(|| timer.instant(initial.into(), hz));
        }
        timer
    }

    pub(super) fn check(&self, hz: u64, periodic: bool) -> Result<(), &'static str> {
        if self.divide & !0xb != 0 {
            return Err("divide has bits that do not exist");
        }
        let Some(next) = self.next else { return Ok(()) };
        if self.initial == 0 {
            return Err("the timer runs from an initial_count of 0");
        }
        if next > i64::MAX as u64 {
            return Err("timer_next is out of range");
        }
        let ticks = self.ticks(next, hz);
        let initial = u64::from(self.initial);
        let whole =
            if periodic { ticks != 0 && ticks.is_multiple_of(initial) } else { ticks == initial };
        if !whole || self.instant(ticks, hz) != next {
            return Err("timer_next is not an end of the count");
        }
        Ok(())
    }
}
