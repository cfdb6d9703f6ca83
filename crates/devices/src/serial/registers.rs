//! Bits of the 16550A's registers (National PC16550D data sheet, section 8).

/// Interrupt enable: data in the receiver, or the receive time-out.
pub(super) const IER_RECEIVE: u8 = 0x01;
/// Interrupt enable: transmitter holding register empty.
pub(super) const IER_TRANSMIT: u8 = 0x02;
/// Interrupt enable: receiver line status.
pub(super) const IER_LINE: u8 = 0x04;
/// Interrupt enable: modem status.
pub(super) const IER_MODEM: u8 = 0x08;
/// The bits of the interrupt enable register that exist.
pub(super) const IER_MASK: u8 = 0x0f;

/// Interrupt identification: modem status, the lowest priority.
pub(super) const IIR_MODEM: u8 = 0x00;
/// Interrupt identification: none pending.
pub(super) const IIR_NONE: u8 = 0x01;
/// Interrupt identification: transmitter holding register empty.
pub(super) const IIR_TRANSMIT: u8 = 0x02;
/// Interrupt identification: data in the receiver.
pub(super) const IIR_RECEIVE: u8 = 0x04;
/// Interrupt identification: receiver line status, the highest priority.
pub(super) const IIR_LINE: u8 = 0x06;
/// Interrupt identification: receive time-out.
pub(super) const IIR_TIMEOUT: u8 = 0x0c;
/// The FIFOs are on.
pub(super) const IIR_FIFO: u8 = 0xc0;

/// FIFO control: FIFOs on.
pub(super) const FCR_ENABLE: u8 = 0x01;
/// FIFO control: empty the receive FIFO (does not stay set).
pub(super) const FCR_CLEAR_RECEIVE: u8 = 0x02;
/// FIFO control: empty the transmit FIFO (does not stay set).
pub(super) const FCR_CLEAR_TRANSMIT: u8 = 0x04;
/// The bits of the FIFO control register that stay: enable, DMA mode, trigger level.
pub(super) const FCR_MASK: u8 = 0xc9;

/// Line control: two stop bits (one and a half with five data bits).
pub(super) const LCR_STOP: u8 = 0x04;
/// Line control: parity bit.
pub(super) const LCR_PARITY: u8 = 0x08;
/// Line control: hold the transmitter in the break condition.
pub(super) const LCR_BREAK: u8 = 0x40;
/// Line control: registers 0 and 1 are the divisor latch.
pub(super) const LCR_DIVISOR: u8 = 0x80;

/// Modem control: data terminal ready.
pub(super) const MCR_DTR: u8 = 0x01;
/// Modem control: request to send.
pub(super) const MCR_RTS: u8 = 0x02;
/// Modem control: general output 1.
pub(super) const MCR_OUT1: u8 = 0x04;
/// Modem control: general output 2.
pub(super) const MCR_OUT2: u8 = 0x08;
/// Modem control: loopback.
pub(super) const MCR_LOOP: u8 = 0x10;
/// The bits of the modem control register that exist.
pub(super) const MCR_MASK: u8 = 0x1f;

/// Line status: data ready.
pub(super) const LSR_DATA: u8 = 0x01;
/// Line status: overrun.
pub(super) const LSR_OVERRUN: u8 = 0x02;
/// Line status: break received.
pub(super) const LSR_BREAK: u8 = 0x10;
/// Line status: the errors that raise the line status interrupt.
pub(super) const LSR_ERRORS: u8 = 0x1e;
/// Line status: transmitter holding register (or FIFO) empty.
pub(super) const LSR_HOLDING_EMPTY: u8 = 0x20;
/// Line status: transmitter wholly empty.
pub(super) const LSR_EMPTY: u8 = 0x40;

/// Modem status: clear to send has changed.
pub(super) const MSR_DELTA_CTS: u8 = 0x01;
/// Modem status: data set ready has changed.
pub(super) const MSR_DELTA_DSR: u8 = 0x02;
/// Modem status: ring indicator has ended.
pub(super) const MSR_TRAILING_RI: u8 = 0x04;
/// Modem status: carrier detect has changed.
pub(super) const MSR_DELTA_DCD: u8 = 0x08;
/// Modem status: any of the changes.
pub(super) const MSR_DELTAS: u8 = 0x0f;
/// Modem status: clear to send.
pub(super) const MSR_CTS: u8 = 0x10;
/// Modem status: data set ready.
pub(super) const MSR_DSR: u8 = 0x20;
/// Modem status: ring indicator.
pub(super) const MSR_RI: u8 = 0x40;
/// Modem status: carrier detect.
pub(super) const MSR_DCD: u8 = 0x80;
