//! The MMIO transport (virtio 1.2, section 4.2.2): what both of its interfaces have, and the
//! registers of virtio 1. Those of the legacy interface are in a file of their own.

use memory::GuestRam;
use vmstate::SavedSection;

use super::legacy::{self, Legacy};
use super::queue::{QueueError, Virtqueue};
use super::registers::*;
use super::{Interface, Transport, VirtioDevice};
use crate::RestoreError;

/// Bytes of a slot's region.
pub const VIRTIO_MMIO_SIZE: u64 = 0x200;

/// The name of the section that holds a slot's state.
pub fn virtio_section_name(base: u64, device: &str) -> String {
    format!("virtio-mmio@{base:016x}/{device}")
}

/// A slot with a device in it, whatever the device is.
pub trait VirtioSlot: Send {
    /// Name of the slot's section in the stream.
    fn section_name(&self) -> String;
    /// Reads registers; `offset` is the address less the slot's base.
    fn read(&mut self, now: u64, offset: u64, data: &mut [u8]);
    /// Writes registers; `offset` is the address less the slot's base.
    fn write(&mut self, now: u64, offset: u64, data: &[u8]);
    /// How many queues there are.
    fn queues(&self) -> u32;
    /// Level of the interrupt line.
    fn irq_level(&self) -> bool;
    /// The next instant at which [`Self::advance`] has something to do; 0 means at once.
    fn deadline(&self) -> Option<u64>;
    /// Goes on with what a notification has left undone.
    fn advance(&mut self, now: u64);
    /// The section to be sent.
    fn save_section(&self) -> SavedSection;
    /// Becomes the slot that was saved.
    ///
    /// # Errors
    /// If the section does not decode, or this slot cannot be what it says; the slot is then
    /// unchanged.
    fn restore_section(&mut self, section: &SavedSection) -> Result<(), RestoreError>;
}

/// A slot without a device: the driver sees device type 0 and leaves it alone (section 4.2.3.1.1).
#[derive(Debug)]
pub struct EmptySlot;

impl EmptySlot {
    /// Reads registers; `offset` is the address less the slot's base.
    pub fn read(interface: Interface, offset: u64, data: &mut [u8]) {
        let value = match offset {
            REG_MAGIC => MAGIC,
            REG_VERSION => match interface {
                Interface::Legacy => VERSION_LEGACY,
                Interface::Modern => VERSION,
            },
            REG_VENDOR_ID => VENDOR,
            _ => 0,
        };
        if data.len() == 4 {
            data.copy_from_slice(&value.to_le_bytes());
        } else {
            data.fill(0);
        }
    }
}

/// A virtio device in a slot of the board.
#[derive(Debug)]
pub struct VirtioMmio<D: VirtioDevice> {
    pub(super) base: u64,
    pub(super) transport: Transport,
    /// All features that are offered.
    pub(super) offered: u64,
    /// There if the slot has the legacy interface.
    pub(super) legacy: Option<Legacy<D::State>>,
    pub(super) device: D,
    pub(super) ram: GuestRam,
    pub(super) device_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
    pub(super) status: u8,
    pub(super) interrupt_status: u8,
    pub(super) config_generation: u32,
    pub(super) queues: Vec<Virtqueue>,
    /// Why the device needs a reset, for the operator.
    pub(super) fault: Option<QueueError>,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Plugs `device` into the slot at guest-physical address `base`, which has the interface of
    /// virtio 1.
    pub fn new(base: u64, transport: Transport, device: D, ram: GuestRam) -> Self {
        let offered = device.features() | transport.features;
        Self::plugged(base, transport, offered, None, device, ram)
    }

    pub(super) fn plugged(
        base: u64,
        transport: Transport,
        offered: u64,
        legacy: Option<Legacy<D::State>>,
        device: D,
        ram: GuestRam,
    ) -> Self {
        let mut slot = Self {
            base,
            transport,
            offered,
            legacy,
            device,
            ram,
            device_features_select: 0,
            driver_features: 0,
            driver_features_select: 0,
            queue_select: 0,
            status: 0,
            interrupt_status: 0,
            config_generation: 0,
            queues: Vec::new(),
            fault: None,
        };
        slot.queues = slot.fresh_queues();
        slot
    }

    fn fresh_queues(&self) -> Vec<Virtqueue> {
        let max = self.transport.queue_size;
        let size = self.legacy.as_ref().map_or(max, |legacy| legacy.queue_size);
        (0..D::QUEUES).map(|_| Virtqueue::new(max, size)).collect()
    }

    /// Name of the slot's section in the stream.
    pub fn section_name(&self) -> String {
        virtio_section_name(self.base, D::NAME)
    }

    /// The device in the slot.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device in the slot, to reach what backs it.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Why the device has come to need a reset, if it has since it was last reset or restored.
    pub fn fault(&self) -> Option<&QueueError> {
        self.fault.as_ref()
    }

    /// Level of the interrupt line.
    pub fn irq_level(&self) -> bool {
        self.interrupt_status != 0
    }

    /// The next instant at which [`Self::advance`] has something to do; 0 means at once.
    pub fn deadline(&self) -> Option<u64> {
        let work = self.runs() && self.queues.iter().any(Virtqueue::is_unfinished);
        work.then_some(0)
    }

    /// Goes on with what a notification has left undone.
    pub fn advance(&mut self, _now: u64) {
        for index in 0..self.queues.len() {
            if self.queues[index].is_unfinished() {
                self.notify(index);
            }
        }
    }

    /// True while the driver may expect its requests to be served. Drivers of the legacy interface
    /// use a device before they say that they do (section 3.1.2).
    fn runs(&self) -> bool {
        !self.stopped() && (self.legacy.is_some() || self.status & DRIVER_OK != 0)
    }

    /// True if the driver runs and has agreed on all of these features.
    pub(super) fn driver_agreed(&self, features: u64) -> bool {
        self.runs() && self.driver_features & features == features
    }

    /// Tells the driver that the configuration space has changed (section 2.5).
    pub(super) fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        self.interrupt_status |= INTERRUPT_CONFIG;
    }

    /// The device does nothing until it is reset.
    pub(super) fn stopped(&self) -> bool {
        match &self.legacy {
            Some(legacy) => legacy.state.broken,
            None => self.status & NEEDS_RESET != 0,
        }
    }

    pub(super) fn selected(&self) -> Option<&Virtqueue> {
        self.queues.get(self.queue_select as usize)
    }

    /// Reads registers; `offset` is the address less the slot's base. Registers are 32 bits wide
    /// and are not read in parts.
    pub fn read(&mut self, _now: u64, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG_SPACE {
            let rest = self.device.config().get((offset - CONFIG_SPACE) as usize..).unwrap_or(&[]);
            let length = rest.len().min(data.len());
            if length < data.len() && self.transport.ones_past_config {
                data.fill(0xff);
                return;
            }
            data[..length].copy_from_slice(&rest[..length]);
            data[length..].fill(0);
        } else if data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    fn read_register(&self, register: u64) -> u32 {
        match register {
            REG_MAGIC => MAGIC,
            REG_DEVICE_ID => D::DEVICE_ID,
            REG_VENDOR_ID => VENDOR,
            REG_QUEUE_SIZE_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            REG_INTERRUPT_STATUS => self.interrupt_status.into(),
            REG_STATUS => self.status.into(),
            _ => match &self.legacy {
                Some(legacy) => self.read_legacy_register(&legacy.state, register),
                None => self.read_modern_register(register),
            },
        }
    }

    fn read_modern_register(&self, register: u64) -> u32 {
        match register {
            REG_VERSION => VERSION,
            REG_DEVICE_FEATURES => match self.device_features_select {
                0 => self.offered as u32,
                1 => (self.offered >> 32) as u32,
                _ => 0,
            },
            REG_QUEUE_READY => self.selected().map_or(0, |queue| queue.is_ready().into()),
            REG_CONFIG_GENERATION => self.config_generation,
            _ if REG_SHARED_MEMORY.contains(&register) => u32::MAX,
            _ => 0,
        }
    }

    /// Writes registers; `offset` is the address less the slot's base.
    pub fn write(&mut self, _now: u64, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.device.write_config(offset, data);
        } else if let Ok(bytes) = data.try_into() {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }

    fn write_register(&mut self, register: u64, value: u32) {
        match register {
            REG_QUEUE_NOTIFY => self.notify(value as usize),
            REG_INTERRUPT_ACKNOWLEDGE => self.interrupt_status &= !(value as u8),
            _ if self.legacy.is_none() => self.write_modern_register(register, value),
            _ if legacy::resets(register, value) => self.reset(),
            _ => self.write_legacy_register(register, value),
        }
    }

    fn write_modern_register(&mut self, register: u64, value: u32) {
        match register {
            REG_DEVICE_FEATURES_SELECT => self.device_features_select = value,
            REG_DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            // Once they are agreed on, features stay.
            REG_DRIVER_FEATURES if self.status & FEATURES_OK == 0 => {
                match self.driver_features_select {
                    0 => set_low(&mut self.driver_features, value),
                    1 => set_high(&mut self.driver_features, value),
                    _ => (),
                }
            }
            REG_QUEUE_SELECT => self.queue_select = value,
            REG_QUEUE_READY => self.write_queue_ready(value),
            REG_STATUS => self.write_status(value as u8),
            _ => self.write_queue_setup(register, value),
        }
    }

    fn write_queue_setup(&mut self, register: u64, value: u32) {
        let queue = self.queues.get_mut(self.queue_select as usize);
        let Some(setup) = queue.and_then(Virtqueue::setup_mut) else { return };
        match register {
            // What does not fit is kept as a size that no queue can have.
            REG_QUEUE_SIZE => setup.size = u16::try_from(value).unwrap_or(0),
            REG_DESCRIPTORS_LOW => set_low(&mut setup.descriptor_table, value),
            REG_DESCRIPTORS_HIGH => set_high(&mut setup.descriptor_table, value),
            REG_AVAILABLE_LOW => set_low(&mut setup.available_ring, value),
            REG_AVAILABLE_HIGH => set_high(&mut setup.available_ring, value),
            REG_USED_LOW => set_low(&mut setup.used_ring, value),
            REG_USED_HIGH => set_high(&mut setup.used_ring, value),
            _ => (),
        }
    }

    fn write_queue_ready(&mut self, value: u32) {
        let event_index = self.event_index();
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        let ready = value & 1 != 0;
        if ready == queue.is_ready() {
            return;
        }
        match queue.set_ready(ready, self.ram.mmap()) {
            Ok(()) => queue.set_event_index(event_index),
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn event_index(&self) -> bool {
        let agreed = self.legacy.is_some() || self.status & FEATURES_OK != 0;
        agreed && self.driver_features & EVENT_INDEX != 0
    }

    pub(super) fn spread_event_index(&mut self) {
        let event_index = self.event_index();
        for queue in &mut self.queues {
            queue.set_event_index(event_index);
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        // A driver takes no bit back but by a reset (section 2.1.1).
        let mut set = value & DRIVER_BITS & !self.status;
        let acceptable =
            self.driver_features & !self.offered == 0 && self.driver_features & VERSION_1 != 0;
        if !acceptable {
            set &= !FEATURES_OK;
        }
        if (self.status | set) & FEATURES_OK == 0 {
            set &= !DRIVER_OK;
        }
        self.status |= set;
        if self.status & value & DRIVER_OK != 0 {
            self.device.driver_runs(self.driver_features);
        }
        if set & FEATURES_OK != 0 {
            self.spread_event_index();
        }
    }

    fn reset(&mut self) {
        let fresh = self.fresh_queues();
        let Self {
            base: _,
            transport: _,
            offered: _,
            legacy,
            device,
            ram: _,
            device_features_select,
            driver_features,
            driver_features_select,
            queue_select,
            status,
            interrupt_status,
            config_generation: _,
            queues,
            fault,
        } = self;
        device.reset();
        match legacy {
            // What the driver has said of pages stays, as does which words it looks at.
            Some(Legacy { state, queue_size: _, put: _ }) => {
                (state.broken, state.started) = (false, false);
            }
            None => (*device_features_select, *driver_features_select) = (0, 0),
        }
        *driver_features = 0;
        *queue_select = 0;
        *status = 0;
        *interrupt_status = 0;
        *queues = fresh;
        *fault = None;
    }

    /// The driver broke a rule: the device stops and, where the interface has a way to, says so
    /// (section 2.1.2).
    fn fail(&mut self, error: QueueError) {
        match &mut self.legacy {
            Some(legacy) => legacy.state.broken = true,
            None => {
                self.status |= NEEDS_RESET;
                if self.status & DRIVER_OK != 0 {
                    self.interrupt_status |= INTERRUPT_CONFIG;
                }
            }
        }
        self.fault.get_or_insert(error);
    }

    fn notify(&mut self, index: usize) {
        let Some(queue) = self.queues.get(index) else { return };
        if let Some(legacy) = &mut self.legacy {
            if legacy.state.broken || !queue.is_ready() {
                return;
            }
            legacy.state.started = true;
        }
        self.run(|device, queues, ram| device.process(index, queues, ram.mmap()));
    }

    /// Lets the device work on its queues, if the driver has started it, and raises the interrupt
    /// that this calls for.
    pub(super) fn run<T: Default>(
        &mut self,
        work: impl FnOnce(&mut D, &mut [Virtqueue], &GuestRam) -> Result<T, QueueError>,
    ) -> T {
        if !self.runs() {
            return T::default();
        }
        let outcome = work(&mut self.device, &mut self.queues, &self.ram);
        let on_empty = self.driver_features & NOTIFY_ON_EMPTY != 0;
        for index in 0..self.queues.len() {
            match self.queues[index].take_interrupt(self.ram.mmap(), on_empty) {
                Ok(true) => self.interrupt_status |= INTERRUPT_USED,
                Ok(false) => (),
                Err(error) => self.fail(error),
            }
        }
        outcome.unwrap_or_else(|error| {
            self.fail(error);
            T::default()
        })
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & u64::from(u32::MAX) | u64::from(value) << 32;
}

impl<D: VirtioDevice> VirtioSlot for VirtioMmio<D> {
    fn section_name(&self) -> String {
        self.section_name()
    }

    fn read(&mut self, now: u64, offset: u64, data: &mut [u8]) {
        self.read(now, offset, data);
    }

    fn write(&mut self, now: u64, offset: u64, data: &[u8]) {
        self.write(now, offset, data);
    }

    fn queues(&self) -> u32 {
        D::QUEUES as u32
    }

    fn irq_level(&self) -> bool {
        self.irq_level()
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline()
    }

    fn advance(&mut self, now: u64) {
        self.advance(now);
    }

    fn save_section(&self) -> SavedSection {
        SavedSection::encode(self.section_name(), 0, &self.save())
    }

    fn restore_section(&mut self, section: &SavedSection) -> Result<(), RestoreError> {
        if section.name != self.section_name() || section.instance != 0 {
            let reason =
                format!("section {:?} instance {} is another's", section.name, section.instance);
            return Err(self.refusal(reason));
        }
        let state = section.decode().map_err(|error| self.refusal(error.to_string()))?;
        self.restore(&state)
    }
}
