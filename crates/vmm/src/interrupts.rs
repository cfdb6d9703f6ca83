//! The interrupt controllers and the wires between them.
//!
//! Legacy line *n* goes to input *n* of the 8259A pair and to pin *n* of I/O APIC 0, but line 0 to
//! its pin 2. The pair's output goes to LINT0 of the bootstrap processor's local APIC.
//!
//! The local APICs are models of ours, or the accelerator's own ([`AcceleratorLapics`]); then they
//! are told what the I/O APICs send as messages, and inter-processor messages never come here.

use cpu::Signal;
use devices::{DeliveryMode, IoApic, IoApicMessage, Ipi, Lapic, PicPair, Shorthand};
use machine::board as map;

/// Address of interrupt messages: the destination in bits 12 to 19, bit 2 set if it is logical, bit
/// 3 for delivery to the lowest priority (Intel SDM volume 3, section 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// An interrupt message: what a device, or an I/O APIC, writes to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// Local APICs that an accelerator keeps.
pub(crate) trait AcceleratorLapics: Send {
    /// Delivers a message.
    fn send(&self, message: Message);

    /// What each pin of the I/O APICs would send, by global system interrupt: the accelerator has
    /// to report the end of those that are level-triggered.
    fn set_routes(&self, routes: &[(u32, Message)]);

    /// The output of the 8259A pair has changed.
    fn set_external(&self, level: bool);
}

enum Local {
    Modelled(Vec<Lapic>),
    Accelerator(Told),
}

/// The accelerator's local APICs, and what they were told last.
struct Told {
    lapics: Box<dyn AcceleratorLapics>,
    external: bool,
    routes: Vec<(u32, Message)>,
}

/// All interrupt controllers of a machine.
pub struct Interrupts {
    local: Local,
    pub(crate) ioapics: [IoApic; 2],
    pub(crate) pics: PicPair,
    /// Signals on their way to vCPUs. They are taken before the next instruction of any vCPU.
    signals: Vec<(usize, Signal)>,
}

impl Interrupts {
    /// The controllers of a machine with this many vCPUs, after power-up.
    pub fn new(vcpus: u32) -> Self {
        Self {
            local: Local::Modelled((0..vcpus).map(new_lapic).collect()),
            ioapics: [IoApic::new(vcpus as u8, 0), IoApic::new(vcpus as u8 + 1, map::IOAPIC_1_GSI)],
            pics: PicPair::new(),
            signals: Vec::new(),
        }
    }

    /// Hands the local APICs over to the accelerator.
    pub(crate) fn use_lapics(&mut self, lapics: Box<dyn AcceleratorLapics>) {
        self.local = Local::Accelerator(Told { lapics, external: false, routes: Vec::new() });
    }

    /// The models of the local APICs; none if the accelerator keeps them.
    pub(crate) fn modelled(&self) -> &[Lapic] {
        match &self.local {
            Local::Modelled(lapics) => lapics,
            Local::Accelerator(_) => &[],
        }
    }

    /// The same, to change them.
    pub(crate) fn modelled_mut(&mut self) -> &mut [Lapic] {
        match &mut self.local {
            Local::Modelled(lapics) => lapics,
            Local::Accelerator(_) => &mut [],
        }
    }

    /// Tells the accelerator what has changed for its local APICs.
    fn tell_accelerator(&mut self) {
        let level = self.pics.irq_level();
        if let Local::Accelerator(told) = &mut self.local
            && told.external != level
        {
            told.external = level;
            told.lapics.set_external(level);
        }
    }

    fn tell_routes(&mut self) {
        let Local::Accelerator(told) = &mut self.local else { return };
        let mut routes = Vec::new();
        for ioapic in &self.ioapics {
            for (pin, message) in ioapic.messages() {
                routes.push((ioapic.gsi_base() + pin, message_of(&message)));
            }
        }
        if told.routes != routes {
            told.lapics.set_routes(&routes);
            told.routes = routes;
        }
    }

    /// The controllers have taken a state.
    pub(crate) fn restored(&mut self) {
        self.tell_routes();
        self.tell_accelerator();
    }

    pub(crate) fn take_signals(&mut self) -> Vec<(usize, Signal)> {
        std::mem::take(&mut self.signals)
    }

    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.modelled().iter().filter_map(Lapic::deadline).min()
    }

    pub(crate) fn advance(&mut self, now: u64) {
        for lapic in self.modelled_mut() {
            lapic.advance(now);
        }
    }

    /// Sets a legacy line.
    pub(crate) fn set_isa(&mut self, line: u32, level: bool) {
        self.pics.set_irq(line, level);
        self.tell_accelerator();
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
        if let Local::Accelerator(told) = &self.local {
            // External interrupts come by LINT0, and there is no system management mode.
            if !matches!(message.mode, DeliveryMode::ExtInt | DeliveryMode::Smi) {
                told.lapics.send(message_of(message));
            }
            return;
        }
        let targets = self.destinations(message.destination, message.logical);
        self.send(message.mode, message.vector, message.level, &targets);
    }

    fn destinations(&self, destination: u8, logical: bool) -> Vec<usize> {
        let lapics = self.modelled();
        (0..lapics.len())
            .filter(|index| lapics[*index].matches_destination(destination, logical))
            .collect()
    }

    fn send(&mut self, mode: DeliveryMode, vector: u8, level: bool, targets: &[usize]) {
        match mode {
            DeliveryMode::Fixed => {
                for target in targets {
                    self.modelled_mut()[*target].accept(vector, level);
                }
            }
            DeliveryMode::LowestPriority => {
                let lowest = targets
                    .iter()
                    .min_by_key(|target| self.modelled()[**target].arbitration_priority())
                    .copied();
                if let Some(target) = lowest {
                    self.modelled_mut()[target].accept(vector, level);
                }
            }
            DeliveryMode::Nmi => {
                self.signals.extend(targets.iter().map(|target| (*target, Signal::Nmi)));
            }
            DeliveryMode::Init => {
                for target in targets {
                    self.modelled_mut()[*target].reset(true);
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
        while let Some(ipi) = self.modelled_mut()[vcpu].take_ipi() {
            self.send_ipi(vcpu, &ipi);
        }
        if self.modelled_mut()[vcpu].take_nmi() {
            self.signals.push((vcpu, Signal::Nmi));
        }
        while let Some(vector) = self.modelled_mut()[vcpu].take_eoi_broadcast() {
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
        let all = 0..self.modelled().len();
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
        match self.modelled_mut().get_mut(vcpu) {
            Some(lapic) => lapic.read(now, offset, data),
            // The accelerator answers for its own; this is the region of one that is switched off.
            None => data.fill(0xff),
        }
    }

    pub(crate) fn lapic_write(&mut self, vcpu: usize, now: u64, offset: u64, data: &[u8]) {
        if let Some(lapic) = self.modelled_mut().get_mut(vcpu) {
            lapic.write(now, offset, data);
            self.after_lapic(vcpu);
        }
    }

    pub(crate) fn ioapic_read(&mut self, index: usize, now: u64, offset: u64, data: &mut [u8]) {
        self.ioapics[index].read(now, offset, data);
    }

    pub(crate) fn ioapic_write(&mut self, index: usize, now: u64, offset: u64, data: &[u8]) {
        self.ioapics[index].write(now, offset, data);
        self.tell_routes();
        self.route();
    }

    pub(crate) fn pic_read(&mut self, now: u64, port: u64, data: &mut [u8]) {
        self.pics.read(now, port, data);
        self.tell_accelerator();
    }

    pub(crate) fn pic_write(&mut self, now: u64, port: u64, data: &[u8]) {
        self.pics.write(now, port, data);
        self.tell_accelerator();
    }

    pub(crate) fn apic_base(&self, vcpu: usize) -> u64 {
        self.modelled()[vcpu].apic_base()
    }

    pub(crate) fn set_apic_base(&mut self, vcpu: usize, now: u64, value: u64) -> Result<(), ()> {
        self.modelled_mut()[vcpu].set_apic_base(now, value).map_err(|_| ())
    }

    pub(crate) fn task_priority(&self, vcpu: usize) -> u8 {
        self.modelled()[vcpu].task_priority()
    }

    pub(crate) fn set_task_priority(&mut self, vcpu: usize, value: u8) {
        self.modelled_mut()[vcpu].set_task_priority(value);
    }

    /// True if the 8259A pair's interrupt reaches this vCPU. Whether the accelerator's local APIC
    /// lets it through is the accelerator's to know.
    fn takes_pic(&self, vcpu: usize) -> bool {
        let open = match &self.local {
            Local::Modelled(lapics) => lapics[0].accepts_pic(),
            Local::Accelerator(_) => true,
        };
        vcpu == 0 && self.pics.irq_level() && open
    }

    /// True if a maskable interrupt waits for this vCPU, as far as this side knows.
    pub(crate) fn is_pending(&self, vcpu: usize) -> bool {
        let own = self.modelled().get(vcpu).is_some_and(|lapic| lapic.pending_vector().is_some());
        own || self.takes_pic(vcpu)
    }

    /// Takes the waiting interrupt. The 8259A pair's comes first, as an external interrupt.
    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        if self.takes_pic(vcpu) {
            let vector = self.pics.acknowledge();
            self.tell_accelerator();
            return Some(vector);
        }
        self.modelled_mut().get_mut(vcpu)?.acknowledge()
    }
}

/// The local APIC of a vCPU after power-up.
pub(crate) fn new_lapic(vcpu: u32) -> Lapic {
    Lapic::new(vcpu as u8, map::LAPIC_HZ.into())
}

/// An I/O APIC's message as it goes over the bus.
fn message_of(message: &IoApicMessage) -> Message {
    let IoApicMessage { destination, logical, mode, vector, level } = *message;
    let lowest = mode == DeliveryMode::LowestPriority;
    Message {
        address: MESSAGE_ADDRESS
            | u64::from(destination) << 12
            | u64::from(lowest) << 3
            | u64::from(logical) << 2,
        data: u32::from(vector)
            | u32::from(mode.bits()) << 8
            // Asserted.
            | 1 << 14
            | u32::from(level) << 15,
    }
}
