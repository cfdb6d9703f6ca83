//! The saved state of the 16550A.

use vmstate::{Invalid, VmState};

use super::FIFO_SIZE;
use super::registers::*;

/// An instant of the virtual clock at which something is due, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "serial-timer", version = 1)]
pub struct SerialTimer {
    /// True if the timer runs.
    pub armed: bool,
    /// Virtual nanoseconds at which it is due; 0 if it does not run.
    pub at: u64,
}

impl SerialTimer {
    pub(super) fn of(instant: Option<u64>) -> Self {
        Self { armed: instant.is_some(), at: instant.unwrap_or(0) }
    }

    pub(super) fn instant(self) -> Option<u64> {
        self.armed.then_some(self.at)
    }
}

/// Saved state of the 16550A serial port.
///
/// It holds all that QEMU's `serial` section and its subsections hold, in other words: the
/// interrupt identification is [`SerialState::interrupt_identification`], a retry count is the
/// armed [`SerialState::transmit`], and the `poll` subsection (how often a host's modem lines are
/// sampled) has no counterpart, since lines are told to the device when they change.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "serial", version = 1, validate = "check")]
pub struct SerialState {
    /// Divisor latch: 115200 baud divided by this is the speed of the line.
    pub divisor: u16,
    /// Receiver buffer register, in use while the FIFOs are off.
    pub receive_buffer: u8,
    /// Transmitter holding register, in use while the FIFOs are off.
    pub transmit_holding: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// FIFO control register, the bits that stay (0xc9).
    pub fifo_control: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// The transmitter-empty interrupt is pending (cleared by reading it as the cause).
    pub transmit_interrupt: bool,
    /// The receive time-out interrupt is pending.
    pub timeout_interrupt: bool,
    /// Bytes received and not yet read, oldest first, while the FIFOs are on.
    #[vmstate(max = 16)]
    pub receive_fifo: Vec<u8>,
    /// Bytes written and not yet in the shift register, oldest first, while the FIFOs are on.
    #[vmstate(max = 16)]
    pub transmit_fifo: Vec<u8>,
    /// The shift register holds a byte that has not gone out.
    pub shift_busy: bool,
    /// The byte in the shift register; 0 if it holds none.
    pub shift: u8,
    /// When the transmitter sends what it holds.
    pub transmit: SerialTimer,
    /// When the receive time-out is reached.
    pub receive_timeout: SerialTimer,
}

fn check(state: &SerialState) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl SerialState {
    /// The interrupt identification register, which follows from the rest.
    pub fn interrupt_identification(&self) -> u8 {
        super::identify(
            self.interrupt_enable,
            self.line_status,
            self.modem_status,
            self.fifo_control,
            self.receive_fifo.len(),
            self.transmit_interrupt,
            self.timeout_interrupt,
        )
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let fifos = self.fifo_control & FCR_ENABLE != 0;
        let data = self.line_status & LSR_DATA != 0;
        let idle = self.line_status & LSR_EMPTY != 0;
        let holding_empty = self.line_status & LSR_HOLDING_EMPTY != 0;
        let rules = [
            (self.interrupt_enable & !IER_MASK == 0, "interrupt enable has bits that do not exist"),
            (self.fifo_control & !FCR_MASK == 0, "fifo control has bits that do not stay"),
            (self.modem_control & !MCR_MASK == 0, "modem control has bits that do not exist"),
            (self.receive_fifo.len() <= FIFO_SIZE, "receive fifo holds more than 16 bytes"),
            (self.transmit_fifo.len() <= FIFO_SIZE, "transmit fifo holds more than 16 bytes"),
            (fifos || self.receive_fifo.is_empty(), "receive fifo is off and holds bytes"),
            (fifos || self.transmit_fifo.is_empty(), "transmit fifo is off and holds bytes"),
            (
                !fifos || data != self.receive_fifo.is_empty(),
                "data ready bit contradicts the receive fifo",
            ),
            (holding_empty || !idle, "transmitter is empty and its holding register is not"),
            (
                !fifos || holding_empty == self.transmit_fifo.is_empty(),
                "transmitter holding bit contradicts the transmit fifo",
            ),
            (
                !idle || (!self.shift_busy && self.transmit_fifo.is_empty()),
                "transmitter is empty and holds bytes",
            ),
            (idle || !holding_empty || self.shift_busy, "transmitter is busy and holds no byte"),
            (self.shift_busy || self.shift == 0, "shift register is empty and not zero"),
            (self.transmit.armed != idle, "transmit timer contradicts the transmitter empty bit"),
            (self.transmit.armed || self.transmit.at == 0, "transmit timer is off and not zero"),
            (
                self.receive_timeout.armed || self.receive_timeout.at == 0,
                "receive timer is off and not zero",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(broken),
            None => Ok(()),
        }
    }
}
