//! 16550A serial port (National PC16550D; 8 registers, at 0x3f8 with IRQ 4 on the board).
//!
//! The line has no speed: a byte that the guest writes goes out at once, and bytes come in as fast
//! as the guest takes them. Only the receive time-out (four character times) follows the divisor.
//! Output is kept here until the board takes it, input is held by the board until there is room,
//! so that no byte depends on how fast a host reads or types.

mod registers;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::RestoreError;
use registers::*;
pub use state::{SerialState, SerialTimer};

/// Bytes in each of the two FIFOs.
pub const FIFO_SIZE: usize = 16;
/// Number of ports that the device takes.
pub const SERIAL_PORTS: u64 = 8;
/// Baud rate at divisor 1: the 1.8432 MHz crystal divided by 16.
const BASE_BAUD: u64 = 115_200;

/// The lines that a modem drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModemLines {
    /// Clear to send.
    pub cts: bool,
    /// Data set ready.
    pub dsr: bool,
    /// Ring indicator.
    pub ri: bool,
    /// Carrier detect.
    pub dcd: bool,
}

/// A 16550A.
#[derive(Debug)]
pub struct Serial16550 {
    divisor: u16,
    receive_buffer: u8,
    transmit_holding: u8,
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    line_status: u8,
    modem_status: u8,
    scratch: u8,
    transmit_interrupt: bool,
    timeout_interrupt: bool,
    receive_fifo: VecDeque<u8>,
    transmit_fifo: VecDeque<u8>,
    shift: Option<u8>,
    transmit_at: Option<u64>,
    timeout_at: Option<u64>,
    /// What has gone out and the board has not taken: the host's, hence no part of the state.
    output: Vec<u8>,
}

impl Default for Serial16550 {
    fn default() -> Self {
        Self::new()
    }
}

/// The interrupt identification register: the pending cause of the highest priority (PC16550D,
/// table IV).
fn identify(
    enable: u8,
    line_status: u8,
    modem_status: u8,
    fifo_control: u8,
    received: usize,
    transmit_interrupt: bool,
    timeout_interrupt: bool,
) -> u8 {
    let fifos = fifo_control & FCR_ENABLE != 0;
    let receive = enable & IER_RECEIVE != 0;
    let triggered =
        line_status & LSR_DATA != 0 && (!fifos || received >= trigger_level(fifo_control));
    let cause = if enable & IER_LINE != 0 && line_status & LSR_ERRORS != 0 {
        IIR_LINE
    } else if receive && timeout_interrupt {
        IIR_TIMEOUT
    } else if receive && triggered {
        IIR_RECEIVE
    } else if enable & IER_TRANSMIT != 0 && transmit_interrupt {
        IIR_TRANSMIT
    } else if enable & IER_MODEM != 0 && modem_status & MSR_DELTAS != 0 {
        IIR_MODEM
    } else {
        IIR_NONE
    };
    if fifos { cause | IIR_FIFO } else { cause }
}

/// Bytes in the receive FIFO at which the data interrupt is raised.
fn trigger_level(fifo_control: u8) -> usize {
    match fifo_control >> 6 {
        0 => 1,
        1 => 4,
        2 => 8,
        _ => 14,
    }
}

impl Serial16550 {
    /// A port as it is after a reset: 9600 baud, FIFOs off, the modem's lines asserted.
    pub fn new() -> Self {
        Self {
            divisor: 12,
            receive_buffer: 0,
            transmit_holding: 0,
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: MCR_OUT2,
            line_status: LSR_HOLDING_EMPTY | LSR_EMPTY,
            modem_status: MSR_CTS | MSR_DSR | MSR_DCD,
            scratch: 0,
            transmit_interrupt: false,
            timeout_interrupt: false,
            receive_fifo: VecDeque::new(),
            transmit_fifo: VecDeque::new(),
            shift: None,
            transmit_at: None,
            timeout_at: None,
            output: Vec::new(),
        }
    }

    /// True if something has gone out that the board has not taken.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads registers, one for each byte of `data`; `offset` is the port less the base.
    pub fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        self.advance(now);
        for (register, byte) in (offset..).zip(data) {
            *byte = self.read_register(now, register);
        }
    }

    /// Writes registers, one for each byte of `data`; `offset` is the port less the base.
    pub fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        self.advance(now);
        for (register, byte) in (offset..).zip(data) {
            self.write_register(now, register, *byte);
        }
    }

    /// Level of the interrupt line.
    pub fn irq_level(&self) -> bool {
        self.identification() & IIR_NONE == 0
    }

    /// The next instant at which [`Self::advance`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        match (self.transmit_at, self.timeout_at) {
            (Some(transmit), Some(timeout)) => Some(transmit.min(timeout)),
            (transmit, timeout) => transmit.or(timeout),
        }
    }

    /// Does what is due up to `now`.
    pub fn advance(&mut self, now: u64) {
        while let Some(due) = self.deadline().filter(|due| *due <= now) {
            if self.timeout_at == Some(due) {
                self.timeout_at = None;
                self.timeout_interrupt |= !self.receive_fifo.is_empty();
            } else {
                self.transmit(due);
            }
        }
    }

    /// Takes the bytes that have gone out since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// How many bytes [`Self::receive`] can take now without an overrun. None in loopback, where
    /// the receiver is cut off from the line.
    pub fn receive_space(&self) -> usize {
        if self.modem_control & MCR_LOOP != 0 {
            0
        } else if self.fifos_on() {
            FIFO_SIZE - self.receive_fifo.len()
        } else {
            usize::from(self.line_status & LSR_DATA == 0)
        }
    }

    /// A byte comes in on the line. Without room ([`Self::receive_space`]) it is lost and the guest
    /// is told of an overrun, as on real hardware.
    pub fn receive(&mut self, now: u64, byte: u8) {
        self.advance(now);
        if self.modem_control & MCR_LOOP == 0 {
            self.receive_byte(now, byte);
        }
    }

    /// A break comes in on the line.
    pub fn receive_break(&mut self, now: u64) {
        self.advance(now);
        if self.modem_control & MCR_LOOP == 0 {
            self.receive_byte(now, 0);
            self.line_status |= LSR_BREAK;
        }
    }

    /// True while the guest holds the line in the break condition.
    pub fn sends_break(&self) -> bool {
        self.line_control & LCR_BREAK != 0
    }

    /// The modem's lines have these levels from `now` on.
    pub fn set_modem_lines(&mut self, now: u64, lines: ModemLines) {
        self.advance(now);
        let ModemLines { cts, dsr, ri, dcd } = lines;
        let bit = |level: bool, mask: u8| if level { mask } else { 0 };
        let levels = bit(cts, MSR_CTS) | bit(dsr, MSR_DSR) | bit(ri, MSR_RI) | bit(dcd, MSR_DCD);
        let changed = levels ^ self.modem_status;
        let deltas = bit(changed & MSR_CTS != 0, MSR_DELTA_CTS)
            | bit(changed & MSR_DSR != 0, MSR_DELTA_DSR)
            | bit(changed & MSR_RI != 0 && !ri, MSR_TRAILING_RI)
            | bit(changed & MSR_DCD != 0, MSR_DELTA_DCD);
        self.modem_status = levels | (self.modem_status & MSR_DELTAS) | deltas;
    }

    fn fifos_on(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn identification(&self) -> u8 {
        identify(
            self.interrupt_enable,
            self.line_status,
            self.modem_status,
            self.fifo_control,
            self.receive_fifo.len(),
            self.transmit_interrupt,
            self.timeout_interrupt,
        )
    }

    /// Nanoseconds that one character takes on the line: start bit, data bits, parity, stop bits. A
    /// divisor of 0, for which the data sheet gives no speed, counts as 1.
    fn character_time(&self) -> u64 {
        let data_bits = 5 + u64::from(self.line_control & 3);
        let parity = u64::from(self.line_control & LCR_PARITY != 0);
        let half_stop_bits = match (self.line_control & LCR_STOP != 0, data_bits) {
            (false, _) => 2,
            (true, 5) => 3,
            (true, _) => 4,
        };
        let half_bits = 2 * (1 + data_bits + parity) + half_stop_bits;
        half_bits * 1_000_000_000 * u64::from(self.divisor.max(1)) / (2 * BASE_BAUD)
    }

    fn restart_timeout(&mut self, now: u64) {
        self.timeout_at = Some(now.saturating_add(4 * self.character_time()));
    }

    fn receive_byte(&mut self, now: u64, byte: u8) {
        if self.fifos_on() {
            if self.receive_fifo.len() < FIFO_SIZE {
                self.receive_fifo.push_back(byte);
            } else {
                self.line_status |= LSR_OVERRUN;
            }
            self.restart_timeout(now);
        } else {
            if self.line_status & LSR_DATA != 0 {
                self.line_status |= LSR_OVERRUN;
            }
            self.receive_buffer = byte;
        }
        self.line_status |= LSR_DATA;
    }

    /// Sends all that the transmitter holds.
    fn transmit(&mut self, now: u64) {
        self.transmit_at = None;
        let mut next = self.shift.take();
        loop {
            if let Some(byte) = next {
                if self.modem_control & MCR_LOOP != 0 {
                    self.receive_byte(now, byte);
                } else {
                    self.output.push(byte);
                }
            }
            if self.line_status & LSR_HOLDING_EMPTY != 0 {
                break;
            }
            next = if self.fifos_on() {
                self.transmit_fifo.pop_front()
            } else {
                Some(self.transmit_holding)
            };
            if self.transmit_fifo.is_empty() {
                self.line_status |= LSR_HOLDING_EMPTY;
                self.transmit_interrupt = true;
            }
        }
        self.line_status |= LSR_EMPTY;
    }

    fn write_transmit(&mut self, now: u64, byte: u8) {
        // The line must be seen to fall if the interrupt that this write ends comes back at once:
        // the interrupt controller's input is edge-triggered. The byte then goes out a moment
        // later, at the board's next look at the deadlines or the guest's next access.
        let line_falls = self.transmit_interrupt && self.interrupt_enable & IER_TRANSMIT != 0;
        self.transmit_holding = byte;
        if self.fifos_on() {
            if self.transmit_fifo.len() == FIFO_SIZE {
                self.transmit_fifo.pop_front();
            }
            self.transmit_fifo.push_back(byte);
        }
        self.line_status &= !(LSR_HOLDING_EMPTY | LSR_EMPTY);
        self.transmit_interrupt = false;
        self.transmit_at = Some(now);
        if !line_falls {
            self.transmit(now);
        }
    }

    fn read_receive(&mut self, now: u64) -> u8 {
        if !self.fifos_on() {
            self.line_status &= !LSR_DATA;
            return self.receive_buffer;
        }
        let byte = self.receive_fifo.pop_front().unwrap_or(0);
        if self.receive_fifo.is_empty() {
            self.line_status &= !LSR_DATA;
            self.timeout_at = None;
        } else {
            self.restart_timeout(now);
        }
        self.timeout_interrupt = false;
        byte
    }

    fn read_register(&mut self, now: u64, register: u64) -> u8 {
        let divisor_latch = self.line_control & LCR_DIVISOR != 0;
        let [divisor_high, divisor_low] = self.divisor.to_be_bytes();
        match register {
            0 if divisor_latch => divisor_low,
            1 if divisor_latch => divisor_high,
            0 => self.read_receive(now),
            1 => self.interrupt_enable,
            2 => {
                let identification = self.identification();
                if identification & 0x0f == IIR_TRANSMIT {
                    self.transmit_interrupt = false;
                }
                identification
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let status = self.line_status;
                self.line_status &= !LSR_ERRORS;
                status
            }
            6 if self.modem_control & MCR_LOOP != 0 => {
                [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
                    .iter()
                    .filter(|(control, _)| self.modem_control & control != 0)
                    .fold(0, |status, (_, line)| status | line)
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= !MSR_DELTAS;
                status
            }
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, now: u64, register: u64, value: u8) {
        let divisor_latch = self.line_control & LCR_DIVISOR != 0;
        match register {
            0 if divisor_latch => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if divisor_latch => self.divisor = (self.divisor & 0x00ff) | u16::from(value) << 8,
            0 => self.write_transmit(now, value),
            1 => {
                let changed = (self.interrupt_enable ^ value) & IER_MASK;
                self.interrupt_enable = value & IER_MASK;
                // Enabling raises the interrupt anew even if its cause was read before.
                if changed & IER_TRANSMIT != 0 {
                    self.transmit_interrupt =
                        value & IER_TRANSMIT != 0 && self.line_status & LSR_HOLDING_EMPTY != 0;
                }
            }
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => self.modem_control = value & MCR_MASK,
            7 => self.scratch = value,
            // The status registers are written in factory tests only.
            _ => (),
        }
    }

    fn write_fifo_control(&mut self, mut value: u8) {
        if (value ^ self.fifo_control) & FCR_ENABLE != 0 {
            value |= FCR_CLEAR_RECEIVE | FCR_CLEAR_TRANSMIT;
        }
        if value & FCR_CLEAR_RECEIVE != 0 {
            self.receive_fifo.clear();
            self.line_status &= !(LSR_DATA | LSR_BREAK);
            self.timeout_at = None;
            self.timeout_interrupt = false;
        }
        if value & FCR_CLEAR_TRANSMIT != 0 {
            self.transmit_fifo.clear();
            self.line_status |= LSR_HOLDING_EMPTY;
            self.transmit_interrupt = true;
            if self.shift.is_none() {
                self.line_status |= LSR_EMPTY;
                self.transmit_at = None;
            }
        }
        self.fifo_control = value & FCR_MASK;
    }

    /// The state to be sent. Output must have been taken before.
    pub fn save(&self) -> SerialState {
        let Self {
            divisor,
            receive_buffer,
            transmit_holding,
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            line_status,
            modem_status,
            scratch,
            transmit_interrupt,
            timeout_interrupt,
            receive_fifo,
            transmit_fifo,
            shift,
            transmit_at,
            timeout_at,
            output,
        } = self;
        debug_assert!(output.is_empty(), "serial output was not taken before the save");
        SerialState {
            divisor: *divisor,
            receive_buffer: *receive_buffer,
            transmit_holding: *transmit_holding,
            interrupt_enable: *interrupt_enable,
            fifo_control: *fifo_control,
            line_control: *line_control,
            modem_control: *modem_control,
            line_status: *line_status,
            modem_status: *modem_status,
            scratch: *scratch,
            transmit_interrupt: *transmit_interrupt,
            timeout_interrupt: *timeout_interrupt,
            receive_fifo: receive_fifo.iter().copied().collect(),
            transmit_fifo: transmit_fifo.iter().copied().collect(),
            shift_busy: shift.is_some(),
            shift: shift.unwrap_or(0),
            transmit: SerialTimer::of(*transmit_at),
            receive_timeout: SerialTimer::of(*timeout_at),
        }
    }

    /// Becomes the port that was saved.
    ///
    /// # Errors
    /// If the state is none that a 16550A can be in; the port is then unchanged.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), RestoreError> {
        state.check().map_err(|reason| RestoreError::new("serial", reason))?;
        let SerialState {
            divisor,
            receive_buffer,
            transmit_holding,
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            line_status,
            modem_status,
            scratch,
            transmit_interrupt,
            timeout_interrupt,
            receive_fifo,
            transmit_fifo,
            shift_busy,
            shift,
            transmit,
            receive_timeout,
        } = state;
        *self = Self {
            divisor: *divisor,
            receive_buffer: *receive_buffer,
            transmit_holding: *transmit_holding,
            interrupt_enable: *interrupt_enable,
            fifo_control: *fifo_control,
            line_control: *line_control,
            modem_control: *modem_control,
            line_status: *line_status,
            modem_status: *modem_status,
            scratch: *scratch,
            transmit_interrupt: *transmit_interrupt,
            timeout_interrupt: *timeout_interrupt,
            receive_fifo: receive_fifo.iter().copied().collect(),
            transmit_fifo: transmit_fifo.iter().copied().collect(),
            shift: shift_busy.then_some(*shift),
            transmit_at: transmit.instant(),
            timeout_at: receive_timeout.instant(),
            output: Vec::new(),
        };
        Ok(())
    }
}
