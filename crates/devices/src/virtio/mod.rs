//! virtio devices (virtio 1.2, OASIS committee specification 01) behind the MMIO transport.
//!
//! A device is a [`VirtioDevice`]: it has a type, features, a configuration space and a way to
//! serve its queues. [`VirtioMmio`] is everything between it and the guest's registers, and is the
//! same for every device. What a guest sees of a device (features, configuration space, sizes of
//! queues) follows from the machine configuration alone, never from what backs it on this host.

mod block;
mod console;
mod disk;
mod legacy;
mod mmio;
mod net;
mod net_backend;
mod queue;
mod registers;
mod rng;
mod state;
mod tap;
#[cfg(test)]
mod tests;

use memory::GuestMemory;
use vmstate::VmState;

pub use block::{BlockConfig, BlockError, BlockKind, VirtioBlock, VirtioBlockState};
pub use console::{VirtioConsole, VirtioConsoleState};
pub use disk::{BlockBackend, FileDisk, SECTOR_SIZE};
pub use legacy::{LegacyDevice, VirtioLegacyState, legacy_rings};
pub use mmio::{EmptySlot, VIRTIO_MMIO_SIZE, VirtioMmio, VirtioSlot, virtio_section_name};
pub use net::{FRAME_MAX, VirtioNet, VirtioNetState};
pub use net_backend::{NetBackend, NullNet};
pub use queue::{Chain, QueueError, QueueState, Virtqueue};
pub use rng::{RngKind, RngSource, VirtioRng, VirtioRngState};
pub use state::VirtioMmioState;
pub use tap::Tap;

/// Which registers a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Version 1 of the MMIO transport, from before virtio 1 (virtio 1.2, section 4.2.4).
    Legacy,
    /// Version 2, that of virtio 1 (section 4.2.2).
    Modern,
}

/// What the transport of a machine type shows of every device in its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Largest size of every queue.
    pub queue_size: u16,
    /// Features that are offered besides the device's own.
    pub features: u64,
    /// What is read past the end of the configuration space, or across it: ones, not zeroes.
    pub ones_past_config: bool,
}

impl Transport {
    /// That of `ferry-1`.
    pub const FERRY_1: Self = Self {
        queue_size: 256,
        features: registers::VERSION_1 | registers::EVENT_INDEX | registers::INDIRECT,
        ones_past_config: false,
    };
    /// That of QEMU 7.2's `microvm` with `virtio-mmio.force-legacy=false`. It offers to reset single
    /// queues, for which this transport has no register: no driver asks for it here.
    pub const MICROVM: Self = Self {
        queue_size: 1024,
        features: Self::FERRY_1.features | registers::RING_RESET,
        ones_past_config: true,
    };
    /// That of QEMU 7.2's `microvm` as it is by default, with the legacy interface.
    const LEGACY: Self = Self {
        queue_size: 1024,
        features: registers::NOTIFY_ON_EMPTY
            | registers::ANY_LAYOUT
            | registers::EVENT_INDEX
            | registers::INDIRECT,
        ones_past_config: true,
    };
}

/// A device type behind the transport.
pub trait VirtioDevice: Send {
    /// The saved state of a whole slot: the transport's and the device's own.
    type State: VmState;
    /// The last part of the section's name, e.g. `virtio-blk`.
    const NAME: &'static str;
    /// Device type number (virtio 1.2, section 5).
    const DEVICE_ID: u32;
    /// Number of queues.
    const QUEUES: usize;

    /// Features of the device type that are offered; the transport adds its own.
    fn features(&self) -> u64;

    /// The configuration space.
    fn config(&self) -> &[u8];

    /// Whether a saved configuration space is one that this device can have.
    fn takes_config(&self, saved: &[u8]) -> bool {
        saved == self.config()
    }

    /// The driver writes the configuration space. Most devices have nothing there to be written.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver has made requests available in the queue of this index. All that are taken from
    /// a queue are given back before this returns.
    ///
    /// # Errors
    /// If the driver broke a rule: the device then needs a reset.
    fn process(
        &mut self,
        index: usize,
        queues: &mut [Virtqueue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError>;

    /// The driver, which has taken these features, says that it runs.
    fn driver_runs(&mut self, features: u64) {
        let _ = features;
    }

    /// The driver resets the device.
    fn reset(&mut self);

    /// The state of the slot, from the transport's and the device's own.
    fn save(&self, transport: VirtioMmioState) -> Self::State;

    /// The transport's part of a state.
    fn transport(state: &Self::State) -> &VirtioMmioState;

    /// What a state has of a slot with the legacy interface; `None` if it is not of one.
    fn legacy(state: &Self::State) -> Option<&VirtioLegacyState> {
        let _ = state;
        None
    }

    /// Whether this device can become the one that was saved.
    ///
    /// # Errors
    /// Why it cannot.
    fn check(&self, state: &Self::State) -> Result<(), String>;

    /// Becomes the device that was saved; `state` has been checked.
    fn restore(&mut self, state: &Self::State);
}
