//! The board: every device but the vCPUs, at the addresses of the machine type, with the interrupt
//! wiring between them. It is passive: the machine tells it the time and which vCPU speaks.

use cpu::{Bus, GeneralProtection, Signal};
use devices::acpi_ged::{AcpiGed, Power};
use devices::exit_device::ExitDevice;
use devices::firmware::Firmware;
use devices::fw_cfg::{FwCfg, FwCfgContents, FwCfgError};
use devices::serial::Serial16550;
use devices::virtio::{EmptySlot, Interface};
use devices::{Hpet, I8254, Rtc};
use machine::{MachineConfig, VirtioInterface, board as map};
use memory::GuestRam;

use crate::clock::Clock;
use crate::interrupts::Interrupts;
use crate::slots::{BackendError, Slot, SlotDevice};

/// What the guest asked of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A write to the exit device.
    Exit(u8),
    /// Power off, by ACPI.
    PowerOff,
    /// Reset, by ACPI.
    Reset,
}

/// The firmware configuration device of a machine, with the files that its firmware brought.
pub(crate) fn fw_cfg(
    config: &MachineConfig,
    files: Vec<(String, Vec<u8>)>,
    ram: &GuestRam,
) -> Result<FwCfg, FwCfgError> {
    let contents = FwCfgContents {
        cpus: config.cpus.count as u16,
        ram_size: config.memory_bytes,
        files,
        foreign: config.machine_type.has_firmware(),
    };
    FwCfg::new(contents, ram.clone())
}

/// All devices of a machine.
pub struct Board {
    pub(crate) clock: Clock,
    pub(crate) interrupts: Interrupts,
    pub(crate) pit: I8254,
    pub(crate) hpet: Option<Hpet>,
    pub(crate) rtc: Rtc,
    pub(crate) serial: Serial16550,
    pub(crate) exit: Option<ExitDevice>,
    pub(crate) ged: AcpiGed,
    pub(crate) fw_cfg: FwCfg,
    pub(crate) firmware: Option<Firmware>,
    /// In the order of the configuration: slots descending.
    pub(crate) slots: Vec<Slot>,
    /// What the slots without a device show.
    empty_slots: Interface,
    /// The vCPU that runs.
    pub(crate) current: usize,
    /// Virtual time at which the current run is planned to end at the latest.
    pub(crate) horizon: u64,
    attention: bool,
    request: Option<Request>,
}

impl Board {
    /// A board after power-up.
    ///
    /// # Errors
    /// If a disk's back end is not what the configuration promises.
    pub fn new(
        config: &MachineConfig,
        ram: &GuestRam,
        slots: Vec<Slot>,
    ) -> Result<Self, BackendError> {
        let clock = Clock::new(config);
        let fw_cfg = fw_cfg(config, Vec::new(), ram).map_err(BackendError::FwCfg)?;
        let mut board = Self {
            interrupts: Interrupts::new(config.cpus.count),
            pit: I8254::new(),
            hpet: config.hpet.then(Hpet::new),
            rtc: Rtc::new(clock.epoch_ns()),
            serial: Serial16550::new(),
            exit: config.machine_type.has_exit_port().then(ExitDevice::new),
            ged: AcpiGed::new(),
            fw_cfg,
            firmware: config
                .machine_type
                .has_firmware()
                .then(|| Firmware::new(ram.clone(), map::FIRMWARE.base)),
            slots,
            empty_slots: match config.virtio_interface {
                VirtioInterface::Legacy => Interface::Legacy,
                VirtioInterface::Modern => Interface::Modern,
            },
            current: 0,
            horizon: 0,
            attention: false,
            request: None,
            clock,
        };
        // Lines that are up from the start, the 8254's for one, are told before a guest can unmask
        // them: they are no edges.
        board.advance_to(0);
        Ok(board)
    }

    /// What the guest asked for since the last call.
    pub fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Takes what the last run asked for attention about.
    pub(crate) fn clear_attention(&mut self) {
        self.attention = false;
    }

    /// Signals for vCPUs, each with its vCPU's number.
    pub(crate) fn take_signals(&mut self) -> Vec<(usize, Signal)> {
        self.interrupts.take_signals()
    }

    /// The next instant at which [`Self::advance`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let slots = self.slots.iter().filter_map(|slot| slot.device.deadline());
        [
            self.interrupts.deadline(),
            self.pit.deadline(),
            self.hpet.as_ref().and_then(Hpet::deadline),
            self.rtc.deadline(),
            self.serial.deadline(),
        ]
        .into_iter()
        .flatten()
        .chain(slots)
        .min()
    }

    /// Brings every timer up to `now`.
    pub fn advance(&mut self, now: u64) {
        // Deadlines are met one after the other, in their order, so that each edge is seen.
        while let Some(deadline) = self.deadline().filter(|deadline| *deadline <= now) {
            // A device that is late by much catches up in one step.
            let step = if now - deadline > 1_000_000 { now } else { deadline.max(1) };
            self.advance_to(step);
            if step == now && self.deadline().is_some_and(|next| next <= now) {
                self.advance_to(now);
                break;
            }
        }
        self.advance_to(now);
    }

    fn advance_to(&mut self, now: u64) {
        self.interrupts.advance(now);
        self.pit.advance(now);
        self.pit_line();
        if self.hpet.is_some() {
            if let Some(hpet) = &mut self.hpet {
                hpet.advance(now);
            }
            self.hpet_lines();
        }
        self.rtc.advance(now);
        self.rtc_line();
        self.serial.advance(now);
        self.serial_line();
        for index in 0..self.slots.len() {
            if self.slots[index].device.deadline().is_some() {
                self.slots[index].device.advance(now);
                self.slot_line(index);
            }
        }
    }

    fn pit_line(&mut self) {
        let replaced = self.hpet.as_ref().is_some_and(Hpet::legacy_mode);
        if !replaced {
            self.interrupts.set_isa(map::PIT_IRQ, self.pit.irq_level());
        }
    }

    fn rtc_line(&mut self) {
        let replaced = self.hpet.as_ref().is_some_and(Hpet::legacy_mode);
        if !replaced {
            self.interrupts.set_isa(map::RTC_IRQ, self.rtc.irq_level());
        }
    }

    fn hpet_lines(&mut self) {
        let Some(hpet) = &self.hpet else { return };
        for (pin, level) in hpet.lines() {
            self.interrupts.set_gsi(pin, level);
        }
    }

    pub(crate) fn serial_line(&mut self) {
        self.interrupts.set_isa(map::SERIAL_IRQ, self.serial.irq_level());
    }

    pub(crate) fn ged_line(&mut self) {
        self.interrupts.set_isa(map::GED_IRQ, self.ged.irq_level());
    }

    pub(crate) fn slot_line(&mut self, index: usize) {
        let slot = &self.slots[index];
        self.interrupts.set_gsi(map::virtio_gsi(slot.number), slot.device.irq_level());
    }

    /// True if a device has written something that nobody has taken.
    pub(crate) fn has_output(&self) -> bool {
        let waits = |slot: &Slot| match &slot.device {
            SlotDevice::Console(console) => console.has_output(),
            SlotDevice::Block(_) | SlotDevice::Rng(_) | SlotDevice::Net(_) => false,
        };
        self.serial.has_output() || self.slots.iter().any(waits)
    }

    /// How many queues the device in a slot has.
    pub(crate) fn queues_of(&self, slot: u8) -> u32 {
        let device = self.slots.iter().find(|candidate| candidate.number == slot);
        device.map_or(0, |slot| slot.device.queues())
    }

    /// True if a guest asked for something and nobody has taken it.
    pub(crate) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// After an access: does a deadline or somebody else concern the machine before the run ends?
    fn look_around(&mut self) {
        self.attention |= self.request.is_some()
            || self.interrupts.has_signals()
            || self.deadline().is_some_and(|deadline| deadline < self.horizon);
    }

    fn port_read(&mut self, now: u64, port: u64, data: &mut [u8]) {
        let offset = |region: map::Region| region.contains(port).then(|| port - region.base);
        if let Some(offset) = offset(map::SERIAL) {
            self.serial.read(now, offset, data);
            self.serial_line();
        } else if let Some(offset) = offset(map::PIT) {
            self.pit.read(now, offset, data);
            self.pit_line();
        } else if map::PIT_CONTROL.contains(port) {
            self.pit.read_control(now, data);
        } else if let Some(offset) = offset(map::RTC) {
            self.rtc.read(now, offset, data);
            self.rtc_line();
        } else if is_pic(port) {
            self.interrupts.pic_read(now, port, data);
        } else if let Some(offset) = offset(map::FW_CFG) {
            self.fw_cfg.read(now, offset, data);
        } else if let (Some(offset), Some(exit)) = (offset(map::EXIT), &mut self.exit) {
            exit.read(now, offset, data);
        } else {
            data.fill(0xff);
        }
    }

    fn port_write(&mut self, now: u64, port: u64, data: &[u8]) {
        let offset = |region: map::Region| region.contains(port).then(|| port - region.base);
        if let Some(offset) = offset(map::SERIAL) {
            self.serial.write(now, offset, data);
            self.serial_line();
        } else if let Some(offset) = offset(map::PIT) {
            self.pit.write(now, offset, data);
            self.pit_line();
        } else if map::PIT_CONTROL.contains(port) {
            self.pit.write_control(now, data);
            self.pit_line();
        } else if let Some(offset) = offset(map::RTC) {
            self.rtc.write(now, offset, data);
            self.rtc_line();
        } else if is_pic(port) {
            self.interrupts.pic_write(now, port, data);
        } else if let Some(offset) = offset(map::FW_CFG) {
            self.fw_cfg.write(now, offset, data);
        } else if let (Some(offset), Some(exit)) = (offset(map::EXIT), &mut self.exit) {
            exit.write(now, offset, data);
            if let Some(code) = exit.take_exit() {
                self.request = Some(Request::Exit(code));
            }
        }
    }

    fn memory_read(&mut self, now: u64, address: u64, data: &mut [u8]) {
        let offset = |region: map::Region| region.contains(address).then(|| address - region.base);
        if let Some(offset) = offset(map::LAPIC) {
            self.interrupts.lapic_read(self.current, now, offset, data);
        } else if let Some(index) = self.slot_at(address) {
            let base = map::virtio_region(self.slots[index].number).base;
            self.slots[index].device.read(now, address - base, data);
            self.slot_line(index);
        } else if let Some(offset) = offset(map::IOAPIC_0) {
            self.interrupts.ioapic_read(0, now, offset, data);
        } else if let Some(offset) = offset(map::IOAPIC_1) {
            self.interrupts.ioapic_read(1, now, offset, data);
        } else if let (Some(offset), Some(hpet)) = (offset(map::HPET), &mut self.hpet) {
            hpet.read(now, offset, data);
        } else if let Some(offset) = offset(map::GED_EVENTS) {
            self.ged.read(now, offset, data);
            self.ged_line();
        } else if let Some(offset) = offset(map::GED_REGISTERS) {
            self.ged.read_registers(now, offset, data);
        } else if let (Some(offset), Some(firmware)) = (offset(map::FIRMWARE_HIGH), &self.firmware)
        {
            firmware.read(offset, data);
        } else if in_slots(address) {
            let offset = (address - map::VIRTIO_BASE) % map::VIRTIO_SLOT_BYTES;
            EmptySlot::read(self.empty_slots, offset, data);
        } else {
            data.fill(0xff);
        }
    }

    fn memory_write(&mut self, now: u64, address: u64, data: &[u8]) {
        let offset = |region: map::Region| region.contains(address).then(|| address - region.base);
        if let Some(offset) = offset(map::LAPIC) {
            self.interrupts.lapic_write(self.current, now, offset, data);
        } else if let Some(index) = self.slot_at(address) {
            let base = map::virtio_region(self.slots[index].number).base;
            self.slots[index].device.write(now, address - base, data);
            self.slot_line(index);
        } else if let Some(offset) = offset(map::IOAPIC_0) {
            self.interrupts.ioapic_write(0, now, offset, data);
        } else if let Some(offset) = offset(map::IOAPIC_1) {
            self.interrupts.ioapic_write(1, now, offset, data);
        } else if let Some(offset) = offset(map::HPET).filter(|_| self.hpet.is_some()) {
            if let Some(hpet) = &mut self.hpet {
                hpet.write(now, offset, data);
            }
            self.hpet_lines();
            self.pit_line();
            self.rtc_line();
        } else if let Some(offset) = offset(map::GED_EVENTS) {
            self.ged.write(now, offset, data);
            self.ged_line();
        } else if let Some(offset) = offset(map::GED_REGISTERS) {
            self.ged.write_registers(now, offset, data);
            match self.ged.take_power() {
                Some(Power::Off) => self.request = Some(Request::PowerOff),
                Some(Power::Reset) => self.request = Some(Request::Reset),
                None => {}
            }
        } else if let (Some(offset), Some(firmware)) = (offset(map::FIRMWARE_HIGH), &self.firmware)
        {
            firmware.write(offset, data);
        }
    }

    fn slot_at(&self, address: u64) -> Option<usize> {
        if !in_slots(address) {
            return None;
        }
        let number = ((address - map::VIRTIO_BASE) / map::VIRTIO_SLOT_BYTES) as u8;
        self.slots.iter().position(|slot| slot.number == number)
    }
}

fn in_slots(address: u64) -> bool {
    let length = map::VIRTIO_SLOT_BYTES * u64::from(map::VIRTIO_SLOTS);
    (map::VIRTIO_BASE..map::VIRTIO_BASE + length).contains(&address)
}

fn is_pic(port: u64) -> bool {
    [map::PIC_MASTER, map::PIC_SLAVE, map::PIC_ELCR].into_iter().any(|region| region.contains(port))
}

impl Bus for Board {
    fn port_in(&mut self, at: u64, port: u16, size: u8) -> u32 {
        let now = self.clock.now(at);
        let mut data = [0; 4];
        self.port_read(now, port.into(), &mut data[..usize::from(size)]);
        self.look_around();
        u32::from_le_bytes(data)
    }

    fn port_out(&mut self, at: u64, port: u16, size: u8, value: u32) {
        let now = self.clock.now(at);
        self.port_write(now, port.into(), &value.to_le_bytes()[..usize::from(size)]);
        self.look_around();
    }

    fn mmio_read(&mut self, at: u64, address: u64, data: &mut [u8]) {
        let now = self.clock.now(at);
        self.memory_read(now, address, data);
        self.look_around();
    }

    fn mmio_write(&mut self, at: u64, address: u64, data: &[u8]) {
        let now = self.clock.now(at);
        self.memory_write(now, address, data);
        self.look_around();
    }

    fn tsc(&mut self, at: u64) -> u64 {
        self.clock.tsc(self.clock.now(at))
    }

    fn apic_base(&mut self) -> u64 {
        self.interrupts.apic_base(self.current)
    }

    fn set_apic_base(&mut self, at: u64, value: u64) -> Result<(), GeneralProtection> {
        let now = self.clock.now(at);
        self.interrupts.set_apic_base(self.current, now, value).map_err(|()| GeneralProtection)
    }

    fn task_priority(&mut self) -> u8 {
        self.interrupts.task_priority(self.current)
    }

    fn set_task_priority(&mut self, _: u64, value: u8) {
        self.interrupts.set_task_priority(self.current, value);
        self.look_around();
    }

    fn interrupt_pending(&mut self) -> bool {
        self.interrupts.is_pending(self.current)
    }

    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        self.interrupts.acknowledge(self.current)
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.interrupts.end_of_interrupt(vector);
        self.look_around();
    }

    fn attention(&mut self) -> bool {
        self.attention
    }
}
