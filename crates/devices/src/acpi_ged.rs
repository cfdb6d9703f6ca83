//! ACPI generic event device (ACPI 6.4, section 5.6.9) and the registers of a hardware-reduced
//! machine (section 4.8.3.7): how the guest is told of the power button, and how it switches the
//! machine off or resets it.
//!
//! Two small regions: the event selector (0xfea00000 on the board), from which the `_EVT` method
//! reads which events have happened, and the register block (0xfea00200) with sleep control, sleep
//! status and reset, as the FADT names them. IRQ 9.

use vmstate::VmState;

use crate::RestoreError;

/// Bytes of the event selector's region.
pub const GED_SELECTOR_SIZE: u64 = 4;
/// Bytes of the register block's region.
pub const GED_REGISTERS_SIZE: u64 = 3;
/// Event: the power button was pressed.
pub const GED_EVENT_POWER_BUTTON: u32 = 0x2;
/// Value that resets the machine when written to the reset register (FADT `RESET_VALUE`).
pub const GED_RESET_VALUE: u8 = 0x42;
/// `SLP_TYP` of S5, soft off: what the DSDT's `_S5` object must say.
pub const GED_SLEEP_TYPE_S5: u8 = 5;

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest asks to be done with the machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Switch the machine off.
    Off,
    /// Reset the machine.
    Reset,
}

/// Saved state of the ACPI generic event device.
///
/// The board has no memory hot-plug, so there is no selector of a memory slot.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "acpi-ged", version = 1, validate = "check")]
pub struct AcpiGedState {
    /// Events that have happened and the guest has not read: bit 1 is the power button.
    pub pending: u32,
    /// The guest has asked for power off, and it has not been done.
    pub off_requested: bool,
    /// The guest has asked for a reset, and it has not been done.
    pub reset_requested: bool,
}

fn check(state: &AcpiGedState) -> Result<(), vmstate::Invalid> {
    if state.pending & !GED_EVENT_POWER_BUTTON != 0 {
        return Err(vmstate::Invalid::new("pending events that the board does not have"));
    }
    if state.off_requested && state.reset_requested {
        return Err(vmstate::Invalid::new("power off and reset are both requested"));
    }
    Ok(())
}

/// The generic event device with its register block.
#[derive(Debug, Default)]
pub struct AcpiGed {
    pending: u32,
    request: Option<Power>,
}

impl AcpiGed {
    /// A device with no event pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the event selector: the pending events, which the read clears. Only a read of the
    /// whole register counts.
    pub fn read(&mut self, _now: u64, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&std::mem::take(&mut self.pending).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    /// The event selector is read only.
    pub fn write(&mut self, _now: u64, _offset: u64, _data: &[u8]) {}

    /// Reads the register block: zero, as the machine never sleeps in a state it could wake from.
    pub fn read_registers(&mut self, _now: u64, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// Writes the register block. The first request for off or reset stands.
    pub fn write_registers(&mut self, _now: u64, offset: u64, data: &[u8]) {
        for (register, value) in (offset..).zip(data) {
            let request = match register {
                SLEEP_CONTROL
                    if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == GED_SLEEP_TYPE_S5 =>
                {
                    Power::Off
                }
                RESET if *value == GED_RESET_VALUE => Power::Reset,
                _ => continue,
            };
            self.request.get_or_insert(request);
        }
    }

    /// Level of the interrupt line: high from an event until the guest has read it.
    pub fn irq_level(&self) -> bool {
        self.pending != 0
    }

    /// The user presses the power button: the guest is asked to shut down.
    pub fn press_power_button(&mut self) {
        self.pending |= GED_EVENT_POWER_BUTTON;
    }

    /// Takes what the guest has asked for.
    pub fn take_power(&mut self) -> Option<Power> {
        self.request.take()
    }

    /// The state to be sent.
    pub fn save(&self) -> AcpiGedState {
        let Self { pending, request } = self;
        AcpiGedState {
            pending: *pending,
            off_requested: *request == Some(Power::Off),
            reset_requested: *request == Some(Power::Reset),
        }
    }

    /// Becomes the device that was saved.
    ///
    /// # Errors
    /// If an event is pending that the board does not have, or off and reset are both requested;
    /// the device is then unchanged.
    pub fn restore(&mut self, state: &AcpiGedState) -> Result<(), RestoreError> {
        check(state).map_err(|reason| RestoreError::new("acpi-ged", reason.to_string()))?;
        let AcpiGedState { pending, off_requested, reset_requested } = state;
        let request = match (off_requested, reset_requested) {
            (true, _) => Some(Power::Off),
            (false, true) => Some(Power::Reset),
            (false, false) => None,
        };
        *self = Self { pending: *pending, request };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_the_selector_tells_and_clears_the_events() {
        let mut ged = AcpiGed::new();
        assert!(!ged.irq_level());
        ged.press_power_button();
        ged.press_power_button();
        assert!(ged.irq_level());
        let mut part = [0xff; 1];
        ged.read(0, 0, &mut part);
        assert_eq!(part, [0]);
        assert!(ged.irq_level(), "a read of a part has no effect");
        let mut events = [0xff; 4];
        ged.read(0, 0, &mut events);
        assert_eq!(events, [2, 0, 0, 0]);
        assert!(!ged.irq_level());
        ged.read(0, 0, &mut events);
        assert_eq!(events, [0; 4]);
    }

    #[test]
    fn sleep_control_and_reset_ask_for_power() {
        let mut ged = AcpiGed::new();
        ged.write_registers(0, 0, &[GED_SLEEP_TYPE_S5 << 2]);
        ged.write_registers(0, 0, &[3 << 2 | SLEEP_ENABLE]);
        ged.write_registers(0, 1, &[0x80]);
        ged.write_registers(0, 2, &[0x41]);
        assert_eq!(ged.take_power(), None);
        ged.write_registers(0, 0, &[GED_SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE]);
        assert_eq!(ged.take_power(), Some(Power::Off));
        ged.write_registers(0, 2, &[GED_RESET_VALUE]);
        assert_eq!(ged.take_power(), Some(Power::Reset));
        let mut registers = [0xff; 3];
        ged.read_registers(0, 0, &mut registers);
        assert_eq!(registers, [0; 3]);
    }

    #[test]
    fn events_and_requests_travel() {
        let mut source = AcpiGed::new();
        source.press_power_button();
        source.write_registers(0, 2, &[GED_RESET_VALUE]);
        let state = source.save();
        let mut destination = AcpiGed::new();
        let section = vmstate::SavedSection::encode("acpi-ged", 0, &state);
        assert_eq!(section.data, [0, 0, 0, 2, 0, 1]);
        destination.restore(&section.decode().unwrap()).unwrap();
        assert_eq!(destination.save(), state);
        assert!(destination.irq_level());
        for odd in [
            AcpiGedState { pending: 1, ..state.clone() },
            AcpiGedState { off_requested: true, ..state.clone() },
        ] {
            assert!(destination.restore(&odd).is_err());
            assert_eq!(destination.save(), state);
        }
    }
}
