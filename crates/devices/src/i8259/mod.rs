//! The pair of 8259A interrupt controllers (Intel 231468-003) with the edge/level control registers
//! of EISA and later chipsets: fifteen inputs, the slave behind input 2 of the master.

mod chip;
mod state;
#[cfg(test)]
mod tests;

use crate::RestoreError;
use chip::Chip;
pub use state::I8259State;

/// The slave's place among the master's inputs.
const CASCADE: u8 = 2;
/// Inputs whose trigger mode can be set: not the timer, the keyboard, the cascade (master), nor
/// the real-time clock and the coprocessor (slave).
const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];

/// Master and slave.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// A pair at power-up.
    pub fn new() -> Self {
        Self { master: Chip::new(1 << CASCADE), slave: Chip::new(0) }
    }

    /// Reads ports: 0x20, 0x21, 0xa0, 0xa1, 0x4d0 and 0x4d1, by their numbers on the board.
    pub fn read(&mut self, _now: u64, port: u64, data: &mut [u8]) {
        for (port, byte) in (port..).zip(data) {
            *byte = match port {
                0x20 | 0x21 => self.master.read(port & 1 != 0),
                0xa0 | 0xa1 => self.slave.read(port & 1 != 0),
                0x4d0 => self.master.elcr(),
                0x4d1 => self.slave.elcr(),
                _ => 0xff,
            };
            // A read may be a poll, hence an acknowledge.
            self.cascade();
        }
    }

    /// Writes ports, by their numbers on the board.
    pub fn write(&mut self, _now: u64, port: u64, data: &[u8]) {
        for (port, value) in (port..).zip(data) {
            match port {
                0x20 | 0x21 => self.master.write(port & 1 != 0, *value),
                0xa0 | 0xa1 => self.slave.write(port & 1 != 0, *value),
                0x4d0 => self.master.set_elcr(value & ELCR_MASKS[0]),
                0x4d1 => self.slave.set_elcr(value & ELCR_MASKS[1]),
                _ => (),
            }
            self.cascade();
        }
    }

    /// Sets the level of interrupt line 0 to 15. Line 2 is the cascade and cannot be set.
    pub fn set_irq(&mut self, line: u32, level: bool) {
        match line {
            2 => (),
            0..8 => self.master.set_line(line as u8, level),
            8..16 => {
                self.slave.set_line(line as u8 - 8, level);
                self.cascade();
            }
            _ => (),
        }
    }

    fn cascade(&mut self) {
        self.master.set_line(CASCADE, self.slave.request().is_some());
    }

    /// Level of the master's INT output, to the processor or its local APIC.
    pub fn irq_level(&self) -> bool {
        self.master.request().is_some()
    }

    /// The processor's acknowledge: the vector of the interrupt. If none is asked for any more it
    /// is that of input 7 of the chip that was asked (spurious), and nothing gets into service.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.request() else { return self.master.vector(7) };
        self.master.acknowledge(input);
        if input != CASCADE {
            return self.master.vector(input);
        }
        let Some(input) = self.slave.request() else { return self.slave.vector(7) };
        self.slave.acknowledge(input);
        self.cascade();
        self.slave.vector(input)
    }

    /// The states to be sent: master, slave.
    pub fn save(&self) -> [I8259State; 2] {
        let Self { master, slave } = self;
        [master.save(), slave.save()]
    }

    /// Becomes the pair that was saved.
    ///
    /// # Errors
    /// If a state is one that no chip reaches, or the two disagree about the cascade; the pair is
    /// then unchanged.
    pub fn restore(&mut self, states: &[I8259State; 2]) -> Result<(), RestoreError> {
        for ((state, mask), name) in states.iter().zip(ELCR_MASKS).zip(["master", "slave"]) {
            let refuse = |broken| RestoreError::new("i8259", format!("{name}: {broken}"));
            state.check().map_err(refuse)?;
            if state.elcr & !mask != 0 {
                return Err(refuse("elcr sets inputs that cannot be set"));
            }
        }
        let restored = Self {
            master: Chip::restored(&states[0], 1 << CASCADE),
            slave: Chip::restored(&states[1], 0),
        };
        let asked = u8::from(restored.slave.request().is_some()) << CASCADE;
        let bit = 1 << CASCADE;
        if states[0].lines & bit != asked || states[0].irr & bit != asked {
            let reason = "the master's input 2 is not the slave's output";
            return Err(RestoreError::new("i8259", reason));
        }
        *self = restored;
        Ok(())
    }
}
