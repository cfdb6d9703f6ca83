//! The registers of the legacy interface (virtio 1.2, section 4.2.4), from before virtio 1, as QEMU
//! 7.2 has them. A queue is one piece of memory, which the driver gives by the number of its first
//! page; features are written once and not agreed on; the status is what the driver has written.

use memory::GuestRam;
use vmstate::VmState;

use super::mmio::VirtioMmio;
use super::queue::{QueueError, QueueState};
use super::registers::*;
use super::state::VirtioMmioState;
use super::{Transport, VirtioDevice};

/// Alignment of a used ring for which the driver chooses none.
const ALIGNMENT: u32 = 4096;
/// Queues that there can be in a slot: what is above is no number of a queue.
const QUEUE_NUMBERS: u32 = 1024;
const DESCRIPTOR_BYTES: u64 = 16;
/// Flags and index of the available ring, and an entry of it.
const AVAILABLE_HEAD_BYTES: u64 = 4;
const AVAILABLE_ENTRY_BYTES: u64 = 2;

/// Saved state of a slot that has the legacy interface, besides that of every slot.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-legacy", version = 1)]
pub struct VirtioLegacyState {
    /// Size of the pages that the driver counts in, as a power of two: 0 to 31.
    pub page_shift: u32,
    /// The driver has broken a rule, and the device does nothing until it is reset. This interface
    /// has no status that says so.
    pub broken: bool,
    /// The driver uses the device: it has said so in the status, or has notified it before that.
    pub started: bool,
    /// Alignment of each queue's used ring in bytes, not 0.
    #[vmstate(max = 64)]
    pub alignments: Vec<u32>,
}

/// A device type that can have the legacy interface.
pub trait LegacyDevice: VirtioDevice {
    /// Size of a queue for which the driver chooses none.
    const QUEUE_SIZE: u16;

    /// All features that are offered, those of the transport too.
    fn legacy_features(&self) -> u64 {
        self.features() | Transport::LEGACY.features
    }

    /// Puts what the interface has into a state of the slot.
    fn put_legacy(state: &mut Self::State, legacy: VirtioLegacyState);
}

/// What a slot with the legacy interface has besides.
#[derive(Debug)]
pub(super) struct Legacy<S> {
    pub(super) state: VirtioLegacyState,
    /// [`LegacyDevice::QUEUE_SIZE`].
    pub(super) queue_size: u16,
    /// [`LegacyDevice::put_legacy`].
    pub(super) put: fn(&mut S, VirtioLegacyState),
}

impl<D: LegacyDevice> VirtioMmio<D> {
    /// Plugs `device` into the slot at guest-physical address `base`, which has the legacy
    /// interface.
    pub fn new_legacy(base: u64, device: D, ram: GuestRam) -> Self {
        let legacy = Legacy {
            state: VirtioLegacyState {
                page_shift: 0,
                broken: false,
                started: false,
                alignments: vec![ALIGNMENT; D::QUEUES],
            },
            queue_size: D::QUEUE_SIZE,
            put: D::put_legacy,
        };
        let offered = device.legacy_features();
        Self::plugged(base, Transport::LEGACY, offered, Some(legacy), device, ram)
    }
}

/// The rings of a queue of `size` descriptors whose memory begins at `start`: that of available
/// descriptors and that of used ones (section 2.7.2, legacy interface). QEMU, and so every driver
/// that it runs, leaves no room for `used_event` before it aligns the used ring, which is another
/// place only for alignments below 8.
pub fn legacy_rings(start: u64, size: u16, alignment: u32) -> Option<(u64, u64)> {
    let available = start.checked_add(DESCRIPTOR_BYTES * u64::from(size))?;
    let end =
        available.checked_add(AVAILABLE_HEAD_BYTES + AVAILABLE_ENTRY_BYTES * u64::from(size))?;
    Some((available, end.checked_next_multiple_of(alignment.into())?))
}

/// Whether a state is one of the legacy interface.
pub(super) fn check(state: &VirtioMmioState, legacy: &VirtioLegacyState) -> Result<(), String> {
    let VirtioMmioState {
        device_features,
        device_features_select,
        driver_features,
        driver_features_select,
        queue_select,
        // What the driver has written, whatever that was.
        status,
        interrupt_status: _,
        config_generation,
        config: _,
        queues,
    } = state;
    let VirtioLegacyState { page_shift, broken, started, alignments } = legacy;
    if driver_features & !device_features != 0 {
        return Err(format!("features {driver_features:#x} were not all offered"));
    }
    if *device_features_select > 1 || *driver_features_select > 1 || *config_generation != 0 {
        return Err("a register is beyond what it can hold".to_owned());
    }
    if *queue_select >= QUEUE_NUMBERS {
        return Err(format!("queue {queue_select} cannot be selected"));
    }
    if *page_shift >= u32::BITS {
        return Err(format!("page shift {page_shift} is not 0 to 31"));
    }
    if status & DRIVER_OK != 0 && !started {
        return Err("driver runs, and the device is not in use".to_owned());
    }
    if alignments.len() != queues.len() || alignments.contains(&0) {
        return Err("a queue has no alignment".to_owned());
    }
    for (index, (queue, alignment)) in queues.iter().zip(alignments).enumerate() {
        check_queue(queue, *alignment, *broken)
            .map_err(|reason| format!("queue {index} {reason}"))?;
    }
    Ok(())
}

fn check_queue(queue: &QueueState, alignment: u32, broken: bool) -> Result<(), &'static str> {
    let QueueState {
        size,
        ready,
        descriptor_table: start,
        available_ring,
        used_ring,
        next_available: _,
        next_used: _,
        unfinished,
    } = *queue;
    if !(1..=Transport::LEGACY.queue_size).contains(&size) {
        return Err("has a size that it cannot have");
    }
    if unfinished && (!ready || broken) {
        return Err("is idle and has work left");
    }
    match (ready, start) {
        (true, 0) => Err("is in use and has no place"),
        (true, _) if legacy_rings(start, size, alignment) != Some((available_ring, used_ring)) => {
            Err("has its rings where they cannot be")
        }
        (false, 1..) if !broken => Err("has a place and is not in use"),
        _ => Ok(()),
    }
}

/// True if this write resets the device: a status of 0, or a page of 0 of any queue.
pub(super) fn resets(register: u64, value: u32) -> bool {
    match register {
        REG_STATUS => value as u8 == 0,
        REG_QUEUE_PAGE => value == 0,
        _ => false,
    }
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Reads a register that only the legacy interface has or that is another there.
    pub(super) fn read_legacy_register(&self, legacy: &VirtioLegacyState, register: u64) -> u32 {
        match register {
            REG_VERSION => VERSION_LEGACY,
            REG_DEVICE_FEATURES if self.device_features_select == 0 => self.offered as u32,
            REG_QUEUE_PAGE => self
                .selected()
                .map_or(0, |queue| (queue.setup().descriptor_table >> legacy.page_shift) as u32),
            _ if REG_SHARED_MEMORY_LENGTH.contains(&register) => u32::MAX,
            _ => 0,
        }
    }

    /// Writes a register that only the legacy interface has or that is another there, and does not
    /// reset the device.
    pub(super) fn write_legacy_register(&mut self, register: u64, value: u32) {
        let Some(Legacy { state: legacy, .. }) = &mut self.legacy else { return };
        match register {
            REG_DEVICE_FEATURES_SELECT => self.device_features_select = u32::from(value != 0),
            REG_DRIVER_FEATURES_SELECT => self.driver_features_select = u32::from(value != 0),
            // There is no agreement, but a driver may set its bit.
            REG_DRIVER_FEATURES
                if self.driver_features_select == 0 && self.status & FEATURES_OK == 0 =>
            {
                self.driver_features = u64::from(value) & self.offered;
                self.spread_event_index();
            }
            REG_PAGE_SIZE => legacy.page_shift = value.trailing_zeros() % u32::BITS,
            REG_QUEUE_SELECT if value < QUEUE_NUMBERS => self.queue_select = value,
            REG_QUEUE_SIZE if (1..=u32::from(self.transport.queue_size)).contains(&value) => {
                self.lay_out(|setup| setup.size = value as u16);
            }
            REG_QUEUE_ALIGN if value != 0 => {
                if let Some(alignment) = legacy.alignments.get_mut(self.queue_select as usize) {
                    *alignment = value;
                    self.lay_out(|_| ());
                }
            }
            REG_QUEUE_PAGE => {
                let start = u64::from(value) << legacy.page_shift;
                self.lay_out(|setup| setup.descriptor_table = start);
            }
            REG_STATUS => {
                let status = value as u8;
                if (self.status ^ status) & DRIVER_OK != 0 {
                    legacy.started = status & DRIVER_OK != 0;
                }
                self.status = status;
                if status & DRIVER_OK != 0 {
                    self.device.driver_runs(self.driver_features);
                }
            }
            _ => (),
        }
    }

    /// The driver changes what it has said of the selected queue. Once that has a place the device
    /// has it, too.
    fn lay_out(&mut self, change: impl FnOnce(&mut QueueState)) {
        let index = self.queue_select as usize;
        let event_index = self.event_index();
        let Some(queue) = self.queues.get_mut(index) else { return };
        let Some(Legacy { state: legacy, .. }) = &mut self.legacy else { return };
        let mut setup = queue.setup().clone();
        change(&mut setup);
        if setup.descriptor_table == 0 {
            if let Some(own) = queue.setup_mut() {
                *own = setup;
            }
            return;
        }
        let laid_out =
            match legacy_rings(setup.descriptor_table, setup.size, legacy.alignments[index]) {
                Some((available_ring, used_ring)) => {
                    let setup = QueueState { ready: true, available_ring, used_ring, ..setup };
                    queue.lay_out(setup, self.ram.mmap())
                }
                None => Err(QueueError::Outside),
            };
        match laid_out {
            Ok(()) => queue.set_event_index(event_index),
            Err(error) => {
                legacy.broken = true;
                self.fault.get_or_insert(error);
            }
        }
    }
}
