//! The saved state of the 8254.

use vmstate::{Invalid, VmState};

/// What the counting element of a channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VmState)]
#[repr(u8)]
pub enum PitPhase {
    /// A control word was written, and no count since.
    Waiting = 0,
    /// Modes 1 and 5: a count was written, and the gate has not risen since the control word.
    Ready = 1,
    /// It counts.
    Counting = 2,
    /// The gate stops it.
    Held = 3,
}

/// Saved state of one channel of the 8254. The instant of its next transition follows from it.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "i8254-channel", version = 1)]
pub struct PitChannelState {
    /// Mode, 0 to 5.
    pub mode: u8,
    /// The channel counts in BCD.
    pub bcd: bool,
    /// Read/write bits of the control word: 1 low byte, 2 high byte, 3 low byte then high byte.
    pub access: u8,
    /// Count register: the count that was written last, 1 to 0x10000 (BCD: 10000).
    pub reload: u32,
    /// The count that the counting element started from.
    pub count: u32,
    /// The count register has not gone into the counting element yet.
    pub null_count: bool,
    /// Modes 2 and 3: the count register goes into the counting element at `transfer_at`.
    pub transfer_pending: bool,
    /// Virtual nanoseconds; 0 if no transfer is pending.
    pub transfer_at: u64,
    /// Level of the GATE pin.
    pub gate: bool,
    /// What the counting element does.
    pub phase: PitPhase,
    /// Virtual nanoseconds at which counting started; 0 unless it counts.
    pub count_load_time: u64,
    /// Ticks counted before the gate stopped it; 0 unless it is held.
    pub held_ticks: u64,
    /// The next read gives the high byte.
    pub read_high: bool,
    /// The next write is the high byte.
    pub write_high: bool,
    /// The low byte that was written; 0 unless the high byte is awaited.
    pub write_low: u8,
    /// A count is latched.
    pub count_latched: bool,
    /// The latched count, as the guest reads it; 0 if there is none.
    pub latched_count: u16,
    /// A status is latched.
    pub status_latched: bool,
    /// The latched status; 0 if there is none.
    pub latched_status: u8,
}

/// Saved state of the 8254 and of port 0x61.
///
/// Whether channel 0's interrupt is replaced by the HPET's follows from the HPET's state.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "i8254", version = 1, validate = "check")]
pub struct I8254State {
    /// The three channels.
    pub channels: [PitChannelState; 3],
    /// Port 0x61 bit 1: channel 2 drives the speaker.
    pub speaker: bool,
    /// Virtual nanoseconds up to which the output of channel 0 has been shown to the board.
    pub shown_until: u64,
}

impl PitChannelState {
    fn check(&self) -> Result<(), &'static str> {
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let counts = 1..=modulus;
        let rules = [
            (self.mode <= 5, "mode is not 0 to 5"),
            ((1..=3).contains(&self.access), "access is not 1 to 3"),
            (counts.contains(&self.reload), "reload is out of range"),
            (counts.contains(&self.count), "count is out of range"),
            (self.transfer_pending || self.transfer_at == 0, "transfer_at without a transfer"),
            (
                !self.transfer_pending
                    || (matches!(self.mode, 2 | 3)
                        && self.phase == PitPhase::Counting
                        && self.null_count
                        && self.transfer_at > self.count_load_time),
                "a transfer is pending and cannot be",
            ),
            (
                self.phase != PitPhase::Ready || matches!(self.mode, 1 | 5),
                "phase is ready in a mode without a trigger",
            ),
            (
                self.phase != PitPhase::Held || (!self.gate && !matches!(self.mode, 1 | 5)),
                "phase is held and the gate does not hold it",
            ),
            (
                self.phase != PitPhase::Counting || self.gate || matches!(self.mode, 1 | 5),
                "phase is counting and the gate is low",
            ),
            (
                self.phase == PitPhase::Counting || self.count_load_time == 0,
                "count_load_time without counting",
            ),
            (self.count_load_time <= i64::MAX as u64, "count_load_time is out of range"),
            (self.transfer_at <= i64::MAX as u64, "transfer_at is out of range"),
            (self.phase == PitPhase::Held || self.held_ticks == 0, "held_ticks without a hold"),
            (self.held_ticks <= u64::MAX >> 8, "held_ticks is out of range"),
            (
                self.access == 3 || !(self.read_high || self.write_high),
                "a high byte is due in an access of one byte",
            ),
            (self.write_high || self.write_low == 0, "write_low without a byte written"),
            (self.count_latched || self.latched_count == 0, "latched_count without a latch"),
            (self.status_latched || self.latched_status == 0, "latched_status without a latch"),
        ];
        first_broken(&rules)
    }
}

fn first_broken(rules: &[(bool, &'static str)]) -> Result<(), &'static str> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, broken)) => Err(broken),
        None => Ok(()),
    }
}

fn check(state: &I8254State) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl I8254State {
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, channel) in self.channels.iter().enumerate() {
            channel.check().map_err(|broken| format!("channels[{index}]: {broken}"))?;
        }
        let [timer, refresh, _] = &self.channels;
        if !timer.gate || !refresh.gate {
            return Err("the gate of channels 0 and 1 is tied high".into());
        }
        if self.shown_until > i64::MAX as u64 {
            return Err("shown_until is out of range".into());
        }
        if timer.phase == PitPhase::Counting && self.shown_until < timer.count_load_time {
            return Err("shown_until is before channel 0's count was loaded".into());
        }
        if timer.transfer_pending && self.shown_until >= timer.transfer_at {
            return Err("channels[0]: a transfer is pending and past".into());
        }
        Ok(())
    }
}
