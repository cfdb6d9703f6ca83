//! Exit device: one port (0xf4 on the board) through which a guest ends its machine with a code.
//!
//! It is the machine's own device, like QEMU's `isa-debug-exit` in place and width; the code is
//! the byte that was written, with nothing done to it.

use vmstate::VmState;

use crate::RestoreError;

/// Number of ports that the device takes.
pub const EXIT_PORTS: u64 = 1;

/// Saved state of the exit device.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "exit-device", version = 1, validate = "check")]
pub struct ExitState {
    /// The guest has asked to exit and the machine has not ended yet.
    pub requested: bool,
    /// The code it asked for; 0 if it has not asked.
    pub code: u8,
}

fn check(state: &ExitState) -> Result<(), vmstate::Invalid> {
    if !state.requested && state.code != 0 {
        return Err(vmstate::Invalid::new("an exit code without a request"));
    }
    Ok(())
}

/// The exit device.
#[derive(Debug, Default)]
pub struct ExitDevice {
    requested: Option<u8>,
}

impl ExitDevice {
    /// An exit device that nobody has written to.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads as zero.
    pub fn read(&mut self, _now: u64, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// The first byte written to the port asks for the exit; the first request stands.
    pub fn write(&mut self, _now: u64, offset: u64, data: &[u8]) {
        if let (0, Some(code), None) = (offset, data.first(), self.requested) {
            self.requested = Some(*code);
        }
    }

    /// The device has no interrupt line.
    pub fn irq_level(&self) -> bool {
        false
    }

    /// Takes the code that the guest asked to exit with.
    pub fn take_exit(&mut self) -> Option<u8> {
        self.requested.take()
    }

    /// The state to be sent.
    pub fn save(&self) -> ExitState {
        let Self { requested } = self;
        ExitState { requested: requested.is_some(), code: requested.unwrap_or(0) }
    }

    /// Becomes the device that was saved.
    ///
    /// # Errors
    /// If the state holds a code and no request; the device is then unchanged.
    pub fn restore(&mut self, state: &ExitState) -> Result<(), RestoreError> {
        check(state).map_err(|reason| RestoreError::new("exit-device", reason.to_string()))?;
        let ExitState { requested, code } = state;
        *self = Self { requested: requested.then_some(*code) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_written_is_the_code() {
        let mut device = ExitDevice::new();
        assert_eq!(device.take_exit(), None);
        device.write(0, 1, &[9]);
        assert_eq!(device.take_exit(), None);
        device.write(0, 0, &[3, 4, 0, 0]);
        device.write(0, 0, &[5]);
        assert_eq!(device.take_exit(), Some(3));
        assert_eq!(device.take_exit(), None);
    }

    #[test]
    fn a_request_travels() {
        let mut source = ExitDevice::new();
        source.write(0, 0, &[0]);
        let mut destination = ExitDevice::new();
        let section = vmstate::SavedSection::encode("exit-device", 0, &source.save());
        assert_eq!(section.data, [1, 0]);
        destination.restore(&section.decode().unwrap()).unwrap();
        assert_eq!(destination.take_exit(), Some(0));
        let odd = ExitState { requested: false, code: 1 };
        assert!(destination.restore(&odd).is_err());
        assert_eq!(destination.save(), ExitDevice::new().save());
    }
}
