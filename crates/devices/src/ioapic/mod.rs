//! 82093AA I/O APIC (Intel 290566-001), version 0x20: with the EOI register of its successors.
//!
//! An edge on a masked pin is lost, neither delivered nor held pending, as the datasheet says of
//! the mask bit; a level that is still up when its pin is unmasked is delivered then. The polarity
//! bit is kept and has no effect: lines are told to the device as asserted or not.

mod state;
#[cfg(test)]
mod tests;

use crate::RestoreError;
use crate::message::DeliveryMode;
pub use state::IoApicState;

/// Pins of an I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// Bytes of an I/O APIC's region.
pub const IOAPIC_SIZE: u64 = 0x1000;

const PINS: usize = IOAPIC_PINS as usize;
/// Version 0x20, highest entry 23.
const VERSION: u32 = 0x17_0020;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const ENTRY_LOGICAL: u64 = 1 << 11;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;
/// Bits that the guest writes: vector, modes, polarity, trigger, mask, destination.
const ENTRY_BITS: u64 = 0xff00_0000_0001_afff;

fn level_triggered(entry: u64) -> bool {
    entry & ENTRY_LEVEL != 0
}

/// The pins whose entries have a property, one bit each.
fn pins_where(entries: &[u64; PINS], property: impl Fn(&u64) -> bool) -> u32 {
    entries
        .iter()
        .enumerate()
        .fold(0, |pins, (pin, entry)| pins | u32::from(property(entry)) << pin)
}

/// An interrupt message on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicMessage {
    /// Destination: an APIC ID or a set of logical destinations.
    pub destination: u8,
    /// The destination is logical.
    pub logical: bool,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Vector.
    pub vector: u8,
    /// The interrupt is level-triggered.
    pub level: bool,
}

/// The message of a redirection entry; none if its delivery mode is reserved.
fn message_of(entry: u64) -> Option<IoApicMessage> {
    Some(IoApicMessage {
        destination: (entry >> 56) as u8,
        logical: entry & ENTRY_LOGICAL != 0,
        mode: DeliveryMode::from_bits((entry >> 8) as u32)?,
        vector: entry as u8,
        level: level_triggered(entry),
    })
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    gsi_base: u32,
    id: u8,
    select: u8,
    lines: u32,
    irr: u32,
    redirection: [u64; PINS],
    /// Pins that can send, were they asked: unmasked, and not waiting for an EOI.
    open: u32,
}

impl IoApic {
    /// An I/O APIC at power-up: every pin masked. `id` is what firmware would write as the APIC
    /// ID; pin `n` is global system interrupt `gsi_base + n`.
    pub fn new(id: u8, gsi_base: u32) -> Self {
        Self {
            gsi_base,
            id: id & 0xf,
            select: 0,
            lines: 0,
            irr: 0,
            redirection: [ENTRY_MASKED; PINS],
            open: 0,
        }
    }

    /// The global system interrupt of pin 0.
    pub fn gsi_base(&self) -> u32 {
        self.gsi_base
    }

    /// Reads a register; `offset` is in the region. The select register can be read in any width,
    /// the window only in 32 bits.
    pub fn read(&mut self, _now: u64, offset: u64, data: &mut [u8]) {
        let value = match (offset, data.len()) {
            (SELECT, _) => u32::from(self.select),
            (WINDOW, 4) => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// Writes a register.
    pub fn write(&mut self, _now: u64, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, [select, ..]) => self.select = *select,
            (WINDOW, &[a, b, c, d]) => self.write_register(u32::from_le_bytes([a, b, c, d])),
            (EOI, [vector, ..]) => self.eoi(*vector),
            _ => (),
        }
    }

    fn entry(&self) -> Option<(usize, u32)> {
        let index = usize::from(self.select.checked_sub(0x10)?);
        (index < 2 * PINS).then_some((index / 2, 32 * (index as u32 & 1)))
    }

    fn read_register(&self) -> u32 {
        match self.select {
            // The arbitration ID is loaded with the ID.
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION,
            _ => self.entry().map_or(0, |(pin, shift)| (self.redirection[pin] >> shift) as u32),
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == 0 {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let Some((pin, shift)) = self.entry() else { return };
        let half = 0xffff_ffff << shift & ENTRY_BITS;
        let was_level = level_triggered(self.redirection[pin]);
        let entry = &mut self.redirection[pin];
        *entry = *entry & !half | u64::from(value) << shift & half;
        if !level_triggered(*entry) {
            *entry &= !ENTRY_REMOTE_IRR;
        }
        let bit = 1 << pin;
        if level_triggered(*entry) {
            self.irr = self.irr & !bit | self.lines & bit;
        } else if was_level || *entry & ENTRY_MASKED != 0 {
            self.irr &= !bit;
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        self.open =
            pins_where(&self.redirection, |entry| entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) == 0);
    }

    /// Sets the level of a pin, 0 to 23; other pins do not exist.
    pub fn set_pin(&mut self, pin: u32, level: bool) {
        if pin >= IOAPIC_PINS {
            return;
        }
        let bit = 1 << pin;
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if level_triggered(self.redirection[pin as usize]) {
            self.irr = self.irr & !bit | self.lines & bit;
        } else if rising && self.open & bit != 0 {
            self.irr |= bit;
        }
    }

    /// Takes the message of the lowest pin that has one to send. The board calls until there is
    /// none, after every access and every change of a pin. A level-triggered pin then waits for
    /// its EOI. An entry with a reserved delivery mode sends nothing.
    pub fn take_message(&mut self) -> Option<IoApicMessage> {
        loop {
            let asking = self.irr & self.open;
            if asking == 0 {
                return None;
            }
            let pin = asking.trailing_zeros();
            let entry = &mut self.redirection[pin as usize];
            let level = level_triggered(*entry);
            if level {
                *entry |= ENTRY_REMOTE_IRR;
                self.open &= !(1 << pin);
            } else {
                self.irr &= !(1 << pin);
            }
            let entry = *entry;
            if let Some(message) = message_of(entry) {
                return Some(message);
            }
        }
    }

    /// What each pin would send, masked or not, for an accelerator that has to know whose end it
    /// reports. Pins that cannot send are left out.
    pub fn messages(&self) -> impl Iterator<Item = (u32, IoApicMessage)> {
        (0..).zip(&self.redirection).filter_map(|(pin, entry)| Some((pin, message_of(*entry)?)))
    }

    /// The end of a level-triggered interrupt, broadcast by a local APIC or written to the EOI
    /// register: pins with this vector may ask again.
    pub fn eoi(&mut self, vector: u8) {
        for entry in &mut self.redirection {
            if *entry as u8 == vector && level_triggered(*entry) {
                *entry &= !ENTRY_REMOTE_IRR;
            }
        }
        self.reopen();
    }

    /// The state to be sent.
    pub fn save(&self) -> IoApicState {
        // The base is the board's; which pins are open follows from the redirection table.
        let Self { gsi_base: _, id, select, lines, irr, redirection, open: _ } = self;
        IoApicState {
            id: *id,
            select: *select,
            lines: *lines,
            irr: *irr,
            redirection: *redirection,
        }
    }

    /// Becomes the I/O APIC that was saved.
    ///
    /// # Errors
    /// If the state is one that no I/O APIC reaches; this one is then unchanged.
    pub fn restore(&mut self, state: &IoApicState) -> Result<(), RestoreError> {
        state.check().map_err(|reason| {
            RestoreError::new("ioapic", format!("gsi {}: {reason}", self.gsi_base))
        })?;
        let IoApicState { id, select, lines, irr, redirection } = state;
        self.id = *id;
        self.select = *select;
        self.lines = *lines;
        self.irr = *irr;
        self.redirection = *redirection;
        self.reopen();
        Ok(())
    }
}
