//! 8254 programmable interval timer (Intel 231244-006) and the PC's port 0x61.
//!
//! Channel 0 drives interrupt line 0, channel 1 is the refresh timer of old, channel 2 has its gate
//! and its output at port 0x61. A count starts at the write that completes it.

mod channel;
mod state;
#[cfg(test)]
mod tests;

use crate::RestoreError;
use crate::ticks::ticks_in;
use channel::{CLOCK_HZ, Channel};
pub use state::{I8254State, PitChannelState, PitPhase};

/// Number of ports, beginning at 0x40.
pub const PIT_PORTS: u64 = 4;
/// Half a period of the refresh signal in ticks: channel 1 as a PC's firmware programs it.
const REFRESH_TICKS: u64 = 18;

const CONTROL: u64 = 3;
const PORT61_GATE: u8 = 1 << 0;
const PORT61_SPEAKER: u8 = 1 << 1;
const PORT61_REFRESH: u8 = 1 << 4;
const PORT61_OUT: u8 = 1 << 5;

/// The timer.
#[derive(Clone, Debug)]
pub struct I8254 {
    channels: [Channel; 3],
    speaker: bool,
    shown_until: u64,
    /// Output of channel 0 at `shown_until`.
    output: bool,
    /// When there is more to show.
    due: Option<u64>,
}

impl Default for I8254 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8254 {
    /// A timer at power-up: every channel in mode 3 with the longest count, channel 2 held by its
    /// gate.
    pub fn new() -> Self {
        Self::assembled([Channel::new(true), Channel::new(true), Channel::new(false)], false, 0)
    }

    fn assembled(channels: [Channel; 3], speaker: bool, shown_until: u64) -> Self {
        let mut pit = Self { channels, speaker, shown_until, output: false, due: None };
        pit.show(shown_until);
        pit
    }

    /// Reads ports; `offset` is the port less 0x40. The control word reads as 0.
    pub fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            *byte = match port {
                0..CONTROL => self.channels[port as usize].read(now),
                _ => 0,
            };
        }
    }

    /// Writes ports; `offset` is the port less 0x40.
    pub fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        for (port, value) in (offset..).zip(data) {
            match port {
                0 => {
                    self.settle(now);
                    self.channels[0].write(now, *value);
                    self.show(now);
                }
                1 | 2 => self.channels[port as usize].write(now, *value),
                CONTROL => self.write_control_word(now, *value),
                _ => (),
            }
        }
    }

    fn write_control_word(&mut self, now: u64, word: u8) {
        match word >> 6 {
            3 => {
                for (index, channel) in self.channels.iter_mut().enumerate() {
                    if word >> (index + 1) & 1 != 0 {
                        if word & 0x10 == 0 {
                            channel.latch_status(now);
                        }
                        if word & 0x20 == 0 {
                            channel.latch_count(now);
                        }
                    }
                }
            }
            select => {
                let channel = &mut self.channels[usize::from(select)];
                if word & 0x30 == 0 {
                    channel.latch_count(now);
                    return;
                }
                channel.control(word);
                if select == 0 {
                    self.show(now);
                }
            }
        }
    }

    /// Reads port 0x61: gate and speaker as written, the refresh signal, and channel 2's output.
    pub fn read_control(&mut self, now: u64, data: &mut [u8]) {
        data.fill(0);
        let channel = self.channels[2].settled(now);
        if let Some(byte) = data.first_mut() {
            let refresh = !(ticks_in(now, CLOCK_HZ) / REFRESH_TICKS).is_multiple_of(2);
            let bits = [
                (channel.gate(), PORT61_GATE),
                (self.speaker, PORT61_SPEAKER),
                (refresh, PORT61_REFRESH),
                (channel.out(now), PORT61_OUT),
            ];
            *byte = bits.iter().filter(|(set, _)| *set).fold(0, |byte, (_, bit)| byte | bit);
        }
    }

    /// Writes port 0x61: bit 0 is channel 2's gate, bit 1 switches the speaker.
    pub fn write_control(&mut self, now: u64, data: &[u8]) {
        if let Some(value) = data.first() {
            self.speaker = value & PORT61_SPEAKER != 0;
            self.channels[2].set_gate(now, value & PORT61_GATE != 0);
        }
    }

    /// Channel 0's output: interrupt line 0. (While the HPET replaces it, the board does not look.)
    pub fn irq_level(&self) -> bool {
        self.output
    }

    /// The next change of channel 0's output. After a late [`Self::advance`] it may be in the
    /// past: call again until it is not.
    pub fn deadline(&self) -> Option<u64> {
        self.due
    }

    /// Brings channel 0's output up to `now`, or to its next change if there are several: whoever
    /// calls late sees a last whole pulse, and the pulses before it coalesce into that one.
    pub fn advance(&mut self, now: u64) {
        let channel = &mut self.channels[0];
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let end = channel.transfer_at().map_or(now, |at| at.min(now));
        let reached = channel.catch_up(self.shown_until, end);
        channel.settle(reached);
        self.show(reached);
    }

    /// Leaves nothing to show before `now`: the count is about to be another. (Only a board that
    /// calls late loses an edge here; every other access leaves channel 0's output alone.)
    fn settle(&mut self, now: u64) {
        while self.due.is_some_and(|due| due <= now) {
            self.advance(now);
        }
    }

    fn show(&mut self, now: u64) {
        let timer = &self.channels[0];
        self.shown_until = now;
        self.output = timer.out(now);
        self.due = timer.next_transition(now).into_iter().chain(timer.transfer_at()).min();
    }

    /// The state to be sent.
    pub fn save(&self) -> I8254State {
        // The output and the deadline follow from the rest.
        let Self { channels, speaker, shown_until, output: _, due: _ } = self;
        I8254State {
            channels: channels.each_ref().map(Channel::save),
            speaker: *speaker,
            shown_until: *shown_until,
        }
    }

    /// Becomes the timer that was saved.
    ///
    /// # Errors
    /// If the state is one that no timer reaches; the timer is then unchanged.
    pub fn restore(&mut self, state: &I8254State) -> Result<(), RestoreError> {
        state.check().map_err(|reason| RestoreError::new("i8254", reason))?;
        let I8254State { channels, speaker, shown_until } = state;
        *self = Self::assembled(channels.each_ref().map(Channel::restored), *speaker, *shown_until);
        Ok(())
    }
}
