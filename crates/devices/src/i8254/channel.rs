//! One counter of the 8254 (Intel 231244-006, "Operational description").

use super::state::{PitChannelState, PitPhase};
use crate::ticks::{span_of, ticks_in};

/// Input clock of the counters, in hertz.
pub(super) const CLOCK_HZ: u64 = 1_193_182;

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A control word was written, and no count since.
    Waiting,
    /// Modes 1 and 5: a count was written, and the gate has not risen since the control word.
    Ready,
    /// Counting since this instant.
    Counting { since: u64 },
    /// Stopped by the gate after so many ticks.
    Held { ticks: u64 },
}

/// A counter. Its position is a function of these fields and the time.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: u8,
    reload: u32,
    count: u32,
    null_count: bool,
    transfer_at: Option<u64>,
    gate: bool,
    phase: Phase,
    read_high: bool,
    write_high: bool,
    write_low: u8,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |sum, digit| sum * 10 + u32::from(value >> (4 * digit) & 0xf))
}

fn to_bcd(value: u64) -> u16 {
    (0..4).fold((value, 0), |(rest, bcd), digit| (rest / 10, bcd | (rest % 10) << (4 * digit))).1
        as u16
}

impl Channel {
    /// A counter as the board's firmware leaves it: mode 3, the longest count, running from time
    /// zero if its gate is high.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: 3,
            reload: 0x1_0000,
            count: 0x1_0000,
            null_count: false,
            transfer_at: None,
            gate,
            phase: if gate { Phase::Counting { since: 0 } } else { Phase::Held { ticks: 0 } },
            read_high: false,
            write_high: false,
            write_low: 0,
            latched_count: None,
            latched_status: None,
        }
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// When a count that was written while another runs takes its place.
    pub(super) fn transfer_at(&self) -> Option<u64> {
        self.transfer_at
    }

    /// Counts in a full turn of the counting element.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// First tick of a cycle's low half in modes 2 and 3.
    fn low_from(&self) -> u64 {
        match self.mode {
            2 => u64::from(self.count) - 1,
            _ => u64::from(self.count).div_ceil(2),
        }
    }

    fn elapsed(&self, now: u64) -> u64 {
        match self.phase {
            Phase::Waiting | Phase::Ready => 0,
            Phase::Counting { since } => ticks_in(now.saturating_sub(since), CLOCK_HZ),
            Phase::Held { ticks } => ticks,
        }
    }

    /// The channel as it is at `now`: a look, which moves nothing.
    pub(super) fn settled(&self, now: u64) -> Self {
        let mut settled = self.clone();
        settled.settle(now);
        settled
    }

    /// Lets a waiting count take its place if its time has come. To be called before any other
    /// question about `now`.
    pub(super) fn settle(&mut self, now: u64) {
        if let Some(at) = self.transfer_at.filter(|at| *at <= now) {
            self.load();
            self.phase = Phase::Counting { since: at };
        }
    }

    /// The count register goes into the counting element.
    fn load(&mut self) {
        self.count = self.reload;
        self.null_count = false;
        self.transfer_at = None;
    }

    /// The OUT pin.
    pub(super) fn out(&self, now: u64) -> bool {
        let elapsed = self.elapsed(now);
        let count = u64::from(self.count);
        match (self.mode, self.phase) {
            (mode, Phase::Waiting | Phase::Ready) => mode != 0,
            (2 | 3, Phase::Held { .. }) => true,
            (0 | 1, _) => elapsed >= count,
            (2 | 3, _) => elapsed % count < self.low_from(),
            _ => elapsed != count,
        }
    }

    /// The next instant after `after` at which OUT changes, leaving [`Self::transfer_at`] aside.
    pub(super) fn next_transition(&self, after: u64) -> Option<u64> {
        let Phase::Counting { since } = self.phase else { return None };
        let elapsed = self.elapsed(after);
        let count = u64::from(self.count);
        let tick = match self.mode {
            0 | 1 => Some(count).filter(|tick| *tick > elapsed),
            2 | 3 => {
                let cycle = elapsed - elapsed % count;
                let ticks = [cycle + self.low_from(), cycle + count];
                // A count of 1 is not legal in these modes: OUT never changes.
                ticks.into_iter().find(|tick| *tick > elapsed && count > 1)
            }
            _ => [count, count + 1].into_iter().find(|tick| *tick > elapsed),
        };
        tick.map(|tick| since.saturating_add(span_of(tick, CLOCK_HZ)))
    }

    /// The latest instant up to `to` such that OUT has changed at most once since `from`, and
    /// such that, if whole cycles had to be left out, a last full pulse is still to come.
    pub(super) fn catch_up(&self, from: u64, to: u64) -> u64 {
        let Some(first) = self.next_transition(from).filter(|first| *first <= to) else {
            return to;
        };
        if self.next_transition(first).is_none_or(|second| second > to) {
            return to;
        }
        let (2 | 3, Phase::Counting { since }) = (self.mode, self.phase) else { return first };
        let elapsed = self.elapsed(to);
        let count = u64::from(self.count);
        let cycle = elapsed - elapsed % count;
        let tick = if self.out(from) {
            (cycle + self.low_from()).saturating_sub(count)
        } else if elapsed - cycle >= self.low_from() {
            cycle
        } else {
            cycle.saturating_sub(count)
        };
        first.max(since.saturating_add(span_of(tick, CLOCK_HZ)))
    }

    /// The counting element, as a read of it shows it.
    fn value(&self, now: u64) -> u16 {
        let elapsed = self.elapsed(now);
        let count = u64::from(self.count);
        let modulus = u64::from(self.modulus());
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => {
                // Counts down by two, twice in a cycle; an odd count's high half is a tick longer.
                let tick = elapsed % count;
                let half = self.low_from();
                (count & !1) - 2 * if tick < half { tick } else { tick - half }
            }
            _ => count + modulus - elapsed % modulus,
        } % modulus;
        if self.bcd { to_bcd(value) } else { value as u16 }
    }

    fn status(&self, now: u64) -> u8 {
        u8::from(self.out(now)) << 7
            | u8::from(self.null_count) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    /// A control word that programs this counter. Counting stops until a count is written.
    pub(super) fn control(&mut self, word: u8) {
        self.mode = match word >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        self.bcd = word & 1 != 0;
        self.access = word >> 4 & 3;
        self.reload = self.modulus();
        self.count = self.reload;
        self.null_count = true;
        self.transfer_at = None;
        self.phase = Phase::Waiting;
        self.read_high = false;
        self.write_high = false;
        self.write_low = 0;
        self.latched_count = None;
        self.latched_status = None;
    }

    /// Counter latch command; a latched count stands until it is read.
    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.settled(now).value(now));
        }
    }

    /// Read-back of the status; a latched status stands until it is read.
    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.settled(now).status(now));
        }
    }

    /// A read of the counter's port.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.settled(now).value(now));
        let high = match self.access {
            1 => false,
            2 => true,
            _ => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if !self.read_high {
            self.latched_count = None;
        }
        if high { (value >> 8) as u8 } else { value as u8 }
    }

    /// A write to the counter's port.
    pub(super) fn write(&mut self, now: u64, value: u8) {
        self.settle(now);
        match self.access {
            1 => self.set_count(now, u16::from(value)),
            2 => self.set_count(now, u16::from(value) << 8),
            _ if self.write_high => {
                self.write_high = false;
                let low = std::mem::take(&mut self.write_low);
                self.set_count(now, u16::from_le_bytes([low, value]));
            }
            _ => {
                self.write_high = true;
                self.write_low = value;
                if self.mode == 0 {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.phase = Phase::Waiting;
                    self.null_count = true;
                }
            }
        }
    }

    fn set_count(&mut self, now: u64, raw: u16) {
        let modulus = self.modulus();
        let count = if self.bcd { from_bcd(raw) % modulus } else { u32::from(raw) };
        self.reload = if count == 0 { modulus } else { count };
        let start =
            if self.gate { Phase::Counting { since: now } } else { Phase::Held { ticks: 0 } };
        match (self.mode, self.phase) {
            (0 | 4, _) | (2 | 3, Phase::Waiting) => {
                self.load();
                self.phase = start;
            }
            (2 | 3, Phase::Counting { since }) => {
                // The cycle that runs is finished first. (In mode 3 the datasheet lets the new
                // count in after the half that runs; here it is after the whole.)
                let count = u64::from(self.count);
                let end = (self.elapsed(now) / count + 1) * count;
                self.null_count = true;
                self.transfer_at = Some(since.saturating_add(span_of(end, CLOCK_HZ)));
            }
            (1 | 5, Phase::Waiting) => self.phase = Phase::Ready,
            _ => self.null_count = true,
        }
    }

    /// Sets the GATE pin.
    pub(super) fn set_gate(&mut self, now: u64, gate: bool) {
        self.settle(now);
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, self.phase, gate) {
            (0 | 4, Phase::Held { ticks }, true) => {
                let since = now.saturating_sub(span_of(ticks, CLOCK_HZ));
                self.phase = Phase::Counting { since };
            }
            (0 | 2 | 3 | 4, Phase::Counting { .. }, false) => {
                self.transfer_at = None;
                self.phase = Phase::Held { ticks: self.elapsed(now) };
            }
            (2 | 3, Phase::Held { .. }, true)
            | (1 | 5, Phase::Ready | Phase::Counting { .. }, true) => {
                self.load();
                self.phase = Phase::Counting { since: now };
            }
            _ => (),
        }
    }

    pub(super) fn save(&self) -> PitChannelState {
        let Self {
            mode,
            bcd,
            access,
            reload,
            count,
            null_count,
            transfer_at,
            gate,
            phase,
            read_high,
            write_high,
            write_low,
            latched_count,
            latched_status,
        } = self;
        let (phase, since, held_ticks) = match *phase {
            Phase::Waiting => (PitPhase::Waiting, 0, 0),
            Phase::Ready => (PitPhase::Ready, 0, 0),
            Phase::Counting { since } => (PitPhase::Counting, since, 0),
            Phase::Held { ticks } => (PitPhase::Held, 0, ticks),
        };
        PitChannelState {
            mode: *mode,
            bcd: *bcd,
            access: *access,
            reload: *reload,
            count: *count,
            null_count: *null_count,
            transfer_pending: transfer_at.is_some(),
            transfer_at: transfer_at.unwrap_or(0),
            gate: *gate,
            phase,
            count_load_time: since,
            held_ticks,
            read_high: *read_high,
            write_high: *write_high,
            write_low: *write_low,
            count_latched: latched_count.is_some(),
            latched_count: latched_count.unwrap_or(0),
            status_latched: latched_status.is_some(),
            latched_status: latched_status.unwrap_or(0),
        }
    }

    /// The channel of a state that has been checked.
    pub(super) fn restored(state: &PitChannelState) -> Self {
        let PitChannelState {
            mode,
            bcd,
            access,
            reload,
            count,
            null_count,
            transfer_pending,
            transfer_at,
            gate,
            phase,
            count_load_time,
            held_ticks,
            read_high,
            write_high,
            write_low,
            count_latched,
            latched_count,
            status_latched,
            latched_status,
        } = *state;
        Self {
            mode,
            bcd,
            access,
            reload,
            count,
            null_count,
            transfer_at: transfer_pending.then_some(transfer_at),
            gate,
            phase: match phase {
                PitPhase::Waiting => Phase::Waiting,
                PitPhase::Ready => Phase::Ready,
                PitPhase::Counting => Phase::Counting { since: count_load_time },
                PitPhase::Held => Phase::Held { ticks: held_ticks },
            },
            read_high,
            write_high,
            write_low,
            latched_count: count_latched.then_some(latched_count),
            latched_status: status_latched.then_some(latched_status),
        }
    }
}
