//! Firmware that came with a machine from QEMU: an image in RAM below 1 MiB that shows once more
//! below 4 GiB, and the tables that it was given by the firmware configuration device.
//!
//! The image is memory like any other (QEMU's microvm does not protect it), and travels as such;
//! the tables are state. Nothing here runs it.

use memory::GuestRam;
use vmstate::VmState;

use crate::RestoreError;

/// Saved state of firmware: the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "firmware", version = 1)]
pub struct FirmwareState {
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
    /// The files that the firmware configuration device has of it.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let Self { acpi_tables, table_loader, acpi_rsdp } = self;
        [
            ("etc/acpi/tables", acpi_tables),
            ("etc/table-loader", table_loader),
            ("etc/acpi/rsdp", acpi_rsdp),
        ]
        .map(|(name, data)| (name.to_owned(), data.clone()))
        .into()
    }
}

/// The second place of the image, and the tables.
#[derive(Debug)]
pub struct Firmware {
    ram: GuestRam,
    base: u64,
    tables: FirmwareState,
}

impl Firmware {
    /// With its image in this memory, at this address.
    pub fn new(ram: GuestRam, base: u64) -> Self {
        Self { ram, base, tables: FirmwareState::default() }
    }

    /// Reads the image; `offset` is the address less that of the place.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if self.ram.read(self.base + offset, data).is_err() {
            data.fill(0xff);
        }
    }

    /// Writes to the image.
    pub fn write(&self, offset: u64, data: &[u8]) {
        // There is RAM at the image's first place, on every machine that has one.
        let _ = self.ram.write(self.base + offset, data);
    }

    /// The state to be sent.
    pub fn save(&self) -> FirmwareState {
        let Self { ram: _, base: _, tables } = self;
        tables.clone()
    }

    /// Takes the tables that were saved.
    ///
    /// # Errors
    /// None: any tables will do.
    pub fn restore(&mut self, state: &FirmwareState) -> Result<(), RestoreError> {
        let Self { ram: _, base: _, tables } = self;
        tables.clone_from(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_show_the_same_memory() {
        let ram = GuestRam::new(2 << 20).unwrap();
        let firmware = Firmware::new(ram.clone(), 0xf_0000);
        ram.write(0xf_fff0, &[1, 2, 3]).unwrap();
        let mut bytes = [0; 4];
        firmware.read(0xfff0, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 0]);
        ram.harvest();
        firmware.write(0xfff1, &[9]);
        let mut bytes = [0; 3];
        ram.read(0xf_fff0, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 9, 3]);
        assert_eq!(ram.harvest().iter().collect::<Vec<_>>(), [0xff], "it is logged");
    }

    #[test]
    fn the_tables_are_state() {
        let mut firmware = Firmware::new(GuestRam::new(2 << 20).unwrap(), 0xf_0000);
        let state = FirmwareState { acpi_tables: vec![1; 4096], ..FirmwareState::default() };
        firmware.restore(&state).unwrap();
        assert_eq!(firmware.save(), state);
        assert_eq!(state.files()[0], ("etc/acpi/tables".to_owned(), vec![1; 4096]));
        let saved = vmstate::SavedSection::encode("firmware", 0, &state);
        assert_eq!(saved.decode::<FirmwareState>().unwrap(), state);
    }
}
