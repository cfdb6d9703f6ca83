//! The saved state of an I/O APIC.

use vmstate::{Invalid, VmState};

use super::{ENTRY_BITS, ENTRY_REMOTE_IRR, IOAPIC_PINS, level_triggered, pins_where};

/// Saved state of an I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "ioapic", version = 1, validate = "check")]
pub struct IoApicState {
    /// APIC ID, 4 bits.
    pub id: u8,
    /// Register select.
    pub select: u8,
    /// Levels of the pins, one bit each; 1 is asserted, whatever the polarity.
    pub lines: u32,
    /// Requests of the pins: the line, if level-triggered; an edge that is not yet sent, if not.
    pub irr: u32,
    /// Redirection table.
    pub redirection: [u64; 24],
}

fn check(state: &IoApicState) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl IoApicState {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.id > 0xf {
            return Err("id has more than 4 bits".into());
        }
        if (self.lines | self.irr) >> IOAPIC_PINS != 0 {
            return Err("lines or irr has a pin that does not exist".into());
        }
        for (pin, entry) in self.redirection.iter().enumerate() {
            if entry & !(ENTRY_BITS | ENTRY_REMOTE_IRR) != 0 {
                return Err(format!("redirection[{pin}] has bits that do not exist"));
            }
            if entry & ENTRY_REMOTE_IRR != 0 && !level_triggered(*entry) {
                return Err(format!("redirection[{pin}] has a remote irr and is edge-triggered"));
            }
        }
        let level = pins_where(&self.redirection, |entry| level_triggered(*entry));
        if self.irr & level != self.lines & level {
            return Err("irr is not the level-triggered lines".into());
        }
        Ok(())
    }
}
