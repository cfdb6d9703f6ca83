//! Firmware that came with a machine from QEMU: a read-only image in memory, and the tables that it
//! was given by the firmware configuration device.
//!
//! Its content is state: it came with the guest, and goes on with it. Nothing here runs it.

use vmstate::{Invalid, VmState};

use crate::RestoreError;

/// Bytes of the image: what a `microvm` has room for.
pub const FIRMWARE_SIZE: usize = 64 << 10;

/// Saved state of firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "firmware", version = 1, validate = "FirmwareState::check")]
pub struct FirmwareState {
    /// The image, [`FIRMWARE_SIZE`] bytes.
    #[vmstate(max = 65536)]
    pub image: Vec<u8>,
    /// ACPI tables, as the guest reads them: file `etc/acpi/tables`.
    #[vmstate(max = 2097152)]
    pub acpi_tables: Vec<u8>,
    /// File `etc/table-loader`.
    #[vmstate(max = 65536)]
    pub table_loader: Vec<u8>,
    /// File `etc/acpi/rsdp`.
    #[vmstate(max = 65536)]
    pub acpi_rsdp: Vec<u8>,
}

impl FirmwareState {
    fn check(&self) -> Result<(), Invalid> {
        if self.image.len() != FIRMWARE_SIZE {
            return Err(Invalid::new(format!("the image has {} bytes", self.image.len())));
        }
        Ok(())
    }

    /// The files that the firmware configuration device has of it.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let Self { image: _, acpi_tables, table_loader, acpi_rsdp } = self;
        [
            ("etc/acpi/tables", acpi_tables),
            ("etc/table-loader", table_loader),
            ("etc/acpi/rsdp", acpi_rsdp),
        ]
        .map(|(name, data)| (name.to_owned(), data.clone()))
        .into()
    }
}

/// Read-only memory with firmware in it. Stores to it are lost.
#[derive(Debug)]
pub struct Firmware {
    state: FirmwareState,
}

impl Default for Firmware {
    fn default() -> Self {
        Self { state: FirmwareState { image: vec![0xff; FIRMWARE_SIZE], ..Default::default() } }
    }
}

impl Firmware {
    /// Reads the image; `offset` is the address less the base.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.state.image.get(at as usize).copied().unwrap_or(0xff);
        }
    }

    /// The state to be sent.
    pub fn save(&self) -> FirmwareState {
        let Self { state } = self;
        state.clone()
    }

    /// Becomes the firmware that was saved.
    ///
    /// # Errors
    /// If the image has another size; this firmware is then unchanged.
    pub fn restore(&mut self, state: &FirmwareState) -> Result<(), RestoreError> {
        state.check().map_err(|error| RestoreError::new("firmware", error.to_string()))?;
        self.state = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_restored_is_read_and_saved_again() {
        let mut firmware = Firmware::default();
        let mut byte = [0];
        firmware.read(9, &mut byte);
        assert_eq!(byte, [0xff]);
        let mut state = FirmwareState {
            image: (0..FIRMWARE_SIZE).map(|at| at as u8).collect(),
            acpi_tables: vec![1; 4096],
            ..FirmwareState::default()
        };
        firmware.restore(&state).unwrap();
        let mut bytes = [0; 4];
        firmware.read(FIRMWARE_SIZE as u64 - 2, &mut bytes);
        assert_eq!(bytes, [0xfe, 0xff, 0xff, 0xff], "there is nothing behind it");
        assert_eq!(firmware.save(), state);
        assert_eq!(state.files()[0], ("etc/acpi/tables".to_owned(), vec![1; 4096]));
        let saved = vmstate::SavedSection::encode("firmware", 0, &state);
        assert_eq!(saved.decode::<FirmwareState>().unwrap(), state);
        state.image.pop();
        assert!(firmware.restore(&state).is_err());
        assert!(
            vmstate::SavedSection::encode("firmware", 0, &state).decode::<FirmwareState>().is_err()
        );
    }
}
