//! The saved state of a slot, and how a slot becomes one that was saved.

use vmstate::VmState;

use super::VirtioDevice;
use super::legacy::{self, Legacy};
use super::mmio::VirtioMmio;
use super::queue::{QueueState, Virtqueue};
use super::registers::*;
use crate::RestoreError;

/// Saved state of a virtio device's MMIO transport.
///
/// It holds what QEMU's stream holds for the modern interface. A device that QEMU calls broken has
/// "needs reset" in its status here; requests in flight do not occur. A slot with the legacy
/// interface has a [`super::VirtioLegacyState`] besides; its queues are ready once they have a
/// place, and where their rings are follows from that.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-mmio", version = 1)]
pub struct VirtioMmioState {
    /// Features that the device offers; the destination must offer the same.
    pub device_features: u64,
    /// Which word of the offered features is read.
    pub device_features_select: u32,
    /// Features that the driver has asked for.
    pub driver_features: u64,
    /// Which word of the driver's features is written.
    pub driver_features_select: u32,
    /// Which queue the queue registers speak of.
    pub queue_select: u32,
    /// Device status.
    pub status: u8,
    /// Interrupt status: bit 0 used buffers, bit 1 configuration change.
    pub interrupt_status: u8,
    /// Generation of the configuration space.
    pub config_generation: u32,
    /// Configuration space; the destination must have the same, but for what the device changes.
    #[vmstate(max = 256)]
    pub config: Vec<u8>,
    /// The queues.
    #[vmstate(max = 64)]
    pub queues: Vec<QueueState>,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// The state to be sent.
    pub fn save(&self) -> D::State {
        let Self {
            base: _,
            transport: _,
            offered,
            legacy,
            device,
            ram: _,
            device_features_select,
            driver_features,
            driver_features_select,
            queue_select,
            status,
            interrupt_status,
            config_generation,
            queues,
            fault: _,
        } = self;
        let transport = VirtioMmioState {
            device_features: *offered,
            device_features_select: *device_features_select,
            driver_features: *driver_features,
            driver_features_select: *driver_features_select,
            queue_select: *queue_select,
            status: *status,
            interrupt_status: *interrupt_status,
            config_generation: *config_generation,
            config: device.config().to_vec(),
            queues: queues.iter().map(Virtqueue::save).collect(),
        };
        // The destination checks the same and refuses, so that a release build loses no request.
        debug_assert!(self.stopped() || in_flight(&transport).is_none(), "a request is in flight");
        let mut state = device.save(transport);
        if let Some(Legacy { state: legacy, queue_size: _, put }) = legacy {
            put(&mut state, legacy.clone());
        }
        state
    }

    pub(super) fn refusal(&self, reason: impl Into<String>) -> RestoreError {
        RestoreError::new(D::NAME, format!("{}: {}", self.section_name(), reason.into()))
    }

    /// Becomes the slot that was saved. Guest memory must have its size by now, its contents are
    /// not looked at.
    ///
    /// # Errors
    /// If the state is none that this slot can be in; the slot is then unchanged.
    pub fn restore(&mut self, state: &D::State) -> Result<(), RestoreError> {
        let VirtioMmioState {
            device_features,
            device_features_select,
            driver_features,
            driver_features_select,
            queue_select,
            status,
            interrupt_status,
            config_generation,
            config,
            queues,
        } = D::transport(state);
        let legacy = D::legacy(state);
        if legacy.is_some() != self.legacy.is_some() {
            let (had, has) =
                if legacy.is_some() { ("legacy", "modern") } else { ("modern", "legacy") };
            let reason = format!("it had the {had} interface, here it has the {has} one");
            return Err(self.refusal(reason));
        }
        let offered = self.offered;
        if *device_features != offered {
            return Err(self.refusal(format!(
                "features {device_features:#x} were offered, here they are {offered:#x}"
            )));
        }
        if !self.device.takes_config(config) {
            return Err(self.refusal("configuration space differs"));
        }
        if *interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return Err(self.refusal("interrupt status has bits that do not exist"));
        }
        if queues.len() != D::QUEUES {
            let count = queues.len();
            return Err(self.refusal(format!("{count} queues, here there are {}", D::QUEUES)));
        }
        let checked = match legacy {
            Some(legacy) => legacy::check(D::transport(state), legacy),
            None => check_modern(D::transport(state)),
        };
        checked.map_err(|reason| self.refusal(reason))?;
        let stopped = match legacy {
            Some(legacy) => legacy.broken,
            None => *status & NEEDS_RESET != 0,
        };
        if let (false, Some(index)) = (stopped, in_flight(D::transport(state))) {
            return Err(self.refusal(format!("queue {index} has requests in flight")));
        }
        let agreed = legacy.is_some() || *status & FEATURES_OK != 0;
        let event_index = agreed && driver_features & EVENT_INDEX != 0;
        let mut restored = Vec::with_capacity(queues.len());
        for (index, queue) in queues.iter().enumerate() {
            let mut queue = Virtqueue::restored(queue, self.transport.queue_size, self.ram.mmap())
                .map_err(|error| self.refusal(format!("queue {index}: {error}")))?;
            queue.set_event_index(event_index);
            restored.push(queue);
        }
        self.device.check(state).map_err(|reason| self.refusal(reason))?;

        if let (Some(own), Some(legacy)) = (&mut self.legacy, legacy) {
            own.state.clone_from(legacy);
        }
        self.device.restore(state);
        self.device_features_select = *device_features_select;
        self.driver_features = *driver_features;
        self.driver_features_select = *driver_features_select;
        self.queue_select = *queue_select;
        self.status = *status;
        self.interrupt_status = *interrupt_status;
        self.config_generation = *config_generation;
        self.queues = restored;
        self.fault = None;
        Ok(())
    }
}

/// Whether a state is one of the modern interface.
fn check_modern(state: &VirtioMmioState) -> Result<(), String> {
    let VirtioMmioState { device_features, driver_features, status, queues, .. } = state;
    if *status & !(DRIVER_BITS | NEEDS_RESET) != 0 {
        return Err(format!("status {status:#x} has bits that do not exist"));
    }
    let acceptable = driver_features & !device_features == 0 && driver_features & VERSION_1 != 0;
    if *status & FEATURES_OK != 0 && !acceptable {
        return Err(format!("features {driver_features:#x} cannot have been agreed on"));
    }
    if *status & DRIVER_OK != 0 && *status & FEATURES_OK == 0 {
        return Err("driver runs without agreed features".to_owned());
    }
    let idle = |queue: &QueueState| !queue.ready || *status & DRIVER_OK == 0;
    match queues.iter().position(|queue| queue.unfinished && idle(queue)) {
        Some(index) => Err(format!("queue {index} is idle and has work left")),
        None => Ok(()),
    }
}

/// The first queue that has a request taken and not given back. A device that has stopped may have
/// one: the chain that was malformed, which the driver gives up with the reset.
fn in_flight(state: &VirtioMmioState) -> Option<usize> {
    state.queues.iter().position(|queue| queue.next_available != queue.next_used)
}
