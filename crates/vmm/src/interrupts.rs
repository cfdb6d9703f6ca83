//! The interrupt controllers and the wires between them.
//!
//! Legacy line *n* goes to input *n* of the 8259A pair and to pin *n* of I/O APIC 0, but line 0 to
//! its pin 2. The pair's output goes to LINT0 of the bootstrap processor's local APIC.

use cpu::Signal;
use devices::{DeliveryMode, IoApic, IoApicMessage, Ipi, Lapic, PicPair, Shorthand};
use machine::board as map;

/// All interrupt controllers of a machine.
pub struct Interrupts {
    pub(crate) lapics: Vec<Lapic>,
    pub(crate) ioapics: [IoApic; 2],
    pub(crate) pics: PicPair,
    /// Signals on their way to vCPUs. They are taken before the next instruction of any vCPU.
    signals: Vec<(usize, Signal)>,
}

impl Interrupts {
    /// The controllers of a machine with this many vCPUs, after power-up.
    pub fn new(vcpus: u32) -> Self {
        Self {
            lapics: (0..vcpus).map(|id| Lapic::new(id as u8, map::LAPIC_HZ.into())).collect(),
            ioapics: [IoApic::new(vcpus as u8, 0), IoApic::new(vcpus as u8 + 1, map::IOAPIC_1_GSI)],
            pics: PicPair::new(),
            signals: Vec::new(),
        }
    }

    pub(crate) fn take_signals(&mut self) -> Vec<(usize, Signal)> {
        std::mem::take(&mut self.signals)
    }

    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.lapics.iter().filter_map(Lapic::deadline).min()
    }

    pub(crate) fn advance(&mut self, now: u64) {
        for lapic in &mut self.lapics {
            lapic.advance(now);
        }
    }

    /// Sets a legacy line.
    pub(crate) fn set_isa(&mut self, line: u32, level: bool) {
        self.pics.set_irq(line, level);
        let pin = if line == map::PIT_IRQ { map::PIT_IOAPIC_PIN } else { line };
        self.set_gsi(pin, level);
    }

    /// Sets a global system interrupt: a pin of one of the I/O APICs.
    pub(crate) fn set_gsi(&mut self, gsi: u32, level: bool) {
        let (ioapic, pin) =
            if gsi < map::IOAPIC_1_GSI { (0, gsi) } else { (1, gsi - map::IOAPIC_1_GSI) };
        self.ioapics[ioapic].set_pin(pin, level);
        self.route();
    }

    /// Delivers what the I/O APICs have to send.
    fn route(&mut self) {
        for index in 0..self.ioapics.len() {
            while let Some(message) = self.ioapics[index].take_message() {
                self.deliver(&message);
            }
        }
    }

    fn deliver(&mut self, message: &IoApicMessage) {
        let targets = self.destinations(message.destination, message.logical);
        self.send(message.mode, message.vector, message.level, &targets);
    }

    fn destinations(&self, destination: u8, logical: bool) -> Vec<usize> {
        (0..self.lapics.len())
            .filter(|index| self.lapics[*index].matches_destination(destination, logical))
            .collect()
    }

    fn send(&mut self, mode: DeliveryMode, vector: u8, level: bool, targets: &[usize]) {
        match mode {
            DeliveryMode::Fixed => {
                for target in targets {
                    self.lapics[*target].accept(vector, level);
                }
            }
            DeliveryMode::LowestPriority => {
                let lowest = targets
                    .iter()
                    .min_by_key(|target| self.lapics[**target].arbitration_priority())
                    .copied();
                if let Some(target) = lowest {
                    self.lapics[target].accept(vector, level);
                }
            }
            DeliveryMode::Nmi => {
                self.signals.extend(targets.iter().map(|target| (*target, Signal::Nmi)));
            }
            DeliveryMode::Init => {
                for target in targets {
                    self.lapics[*target].reset(true);
                    self.signals.push((*target, Signal::Init));
                }
            }
            DeliveryMode::Startup => {
                self.signals
                    .extend(targets.iter().map(|target| (*target, Signal::Startup(vector))));
            }
            // There is no system management mode, and external interrupts come by LINT0.
            DeliveryMode::Smi | DeliveryMode::ExtInt => {}
        }
    }

    fn after_lapic(&mut self, vcpu: usize) {
        while let Some(ipi) = self.lapics[vcpu].take_ipi() {
            self.send_ipi(vcpu, &ipi);
        }
        if self.lapics[vcpu].take_nmi() {
            self.signals.push((vcpu, Signal::Nmi));
        }
        while let Some(vector) = self.lapics[vcpu].take_eoi_broadcast() {
            self.end_of_interrupt(vector);
        }
    }

    /// A local APIC has ended a level-triggered interrupt.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8) {
        for ioapic in &mut self.ioapics {
            ioapic.eoi(vector);
        }
        self.route();
    }

    fn send_ipi(&mut self, from: usize, ipi: &Ipi) {
        let all = 0..self.lapics.len();
        let targets: Vec<usize> = match ipi.shorthand {
            Shorthand::None => self.destinations(ipi.destination, ipi.logical),
            Shorthand::SelfOnly => vec![from],
            Shorthand::AllIncludingSelf => all.collect(),
            Shorthand::AllExcludingSelf => all.filter(|index| *index != from).collect(),
        };
        // The de-assertion of an INIT level is from another age and does nothing.
        if ipi.mode == DeliveryMode::Init && !ipi.assert {
            return;
        }
        self.send(ipi.mode, ipi.vector, false, &targets);
    }

    pub(crate) fn lapic_read(&mut self, vcpu: usize, now: u64, offset: u64, data: &mut [u8]) {
        self.lapics[vcpu].read(now, offset, data);
    }

    pub(crate) fn lapic_write(&mut self, vcpu: usize, now: u64, offset: u64, data: &[u8]) {
        self.lapics[vcpu].write(now, offset, data);
        self.after_lapic(vcpu);
    }

    pub(crate) fn ioapic_read(&mut self, index: usize, now: u64, offset: u64, data: &mut [u8]) {
        self.ioapics[index].read(now, offset, data);
    }

    pub(crate) fn ioapic_write(&mut self, index: usize, now: u64, offset: u64, data: &[u8]) {
        self.ioapics[index].write(now, offset, data);
        self.route();
    }

    pub(crate) fn pic_read(&mut self, now: u64, port: u64, data: &mut [u8]) {
        self.pics.read(now, port, data);
    }

    pub(crate) fn pic_write(&mut self, now: u64, port: u64, data: &[u8]) {
        self.pics.write(now, port, data);
    }

    pub(crate) fn apic_base(&self, vcpu: usize) -> u64 {
        self.lapics[vcpu].apic_base()
    }

    pub(crate) fn set_apic_base(&mut self, vcpu: usize, now: u64, value: u64) -> Result<(), ()> {
        self.lapics[vcpu].set_apic_base(now, value).map_err(|_| ())
    }

    pub(crate) fn task_priority(&self, vcpu: usize) -> u8 {
        self.lapics[vcpu].task_priority()
    }

    pub(crate) fn set_task_priority(&mut self, vcpu: usize, value: u8) {
        self.lapics[vcpu].set_task_priority(value);
    }

    /// True if the 8259A pair's interrupt reaches this vCPU.
    fn takes_pic(&self, vcpu: usize) -> bool {
        vcpu == 0 && self.pics.irq_level() && self.lapics[0].accepts_pic()
    }

    /// True if a maskable interrupt waits for this vCPU.
    pub(crate) fn is_pending(&self, vcpu: usize) -> bool {
        self.lapics[vcpu].pending_vector().is_some() || self.takes_pic(vcpu)
    }

    /// Takes the waiting interrupt. The 8259A pair's comes first, as an external interrupt.
    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        if self.takes_pic(vcpu) {
            return Some(self.pics.acknowledge());
        }
        self.lapics[vcpu].acknowledge()
    }
}
