//! The I/O APIC as Linux programs it.

use vmstate::SavedSection;

use super::*;
use crate::twin::{Subject, properties};

struct Bench(IoApic);

impl Bench {
    fn new() -> Self {
        Self(IoApic::new(3, 24))
    }

    fn get(&mut self, register: u8) -> u32 {
        self.0.write(0, 0x00, &u32::from(register).to_le_bytes());
        let mut data = [0; 4];
        self.0.read(0, 0x10, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&mut self, register: u8, value: u32) {
        self.0.write(0, 0x00, &u32::from(register).to_le_bytes());
        self.0.write(0, 0x10, &value.to_le_bytes());
    }

    fn entry(&mut self, pin: u8, low: u32, high: u32) {
        self.put(0x11 + 2 * pin, high);
        self.put(0x10 + 2 * pin, low);
    }

    fn vectors(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.0.take_message()).map(|message| message.vector).collect()
    }
}

#[test]
fn registers_read_as_the_datasheet_says() {
    let mut bench = Bench::new();
    assert_eq!(bench.get(0), 0x0300_0000);
    assert_eq!(bench.get(1), 0x0017_0020);
    bench.put(0, 0xff00_0000);
    assert_eq!((bench.get(0), bench.get(2)), (0x0f00_0000, 0x0f00_0000));
    bench.put(1, 0);
    assert_eq!(bench.get(1), 0x0017_0020);
    assert_eq!((bench.get(0x10), bench.get(0x11)), (0x0001_0000, 0));
    bench.put(0x3e, 0xffff_ffff);
    bench.put(0x3f, 0xffff_ffff);
    assert_eq!((bench.get(0x3e), bench.get(0x3f)), (0x0001_afff, 0xff00_0000));
    assert_eq!(bench.get(0x40), 0, "there is no pin 24");
    bench.put(0xff, 0xffff_ffff);
    let mut select = [0];
    bench.0.read(0, 0, &mut select);
    assert_eq!(select, [0xff]);
}

#[test]
fn an_edge_sends_one_message() {
    let mut bench = Bench::new();
    bench.entry(2, 0x0930, 0x0500_0000);
    bench.0.set_pin(2, true);
    let message = IoApicMessage {
        destination: 5,
        logical: true,
        mode: DeliveryMode::LowestPriority,
        vector: 0x30,
        level: false,
    };
    assert_eq!(bench.0.take_message(), Some(message));
    assert_eq!(bench.0.take_message(), None);
    bench.0.set_pin(2, true);
    assert_eq!(bench.0.take_message(), None);
    bench.0.set_pin(2, false);
    bench.0.set_pin(2, true);
    assert_eq!(bench.0.take_message(), Some(message));
}

#[test]
fn messages_come_in_the_order_of_the_pins() {
    let mut bench = Bench::new();
    for pin in [9, 1, 23] {
        bench.entry(pin, 0x40 + u32::from(pin), 0);
        bench.0.set_pin(pin.into(), true);
    }
    bench.0.set_pin(24, true);
    assert_eq!(bench.vectors(), [0x41, 0x49, 0x57]);
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut bench = Bench::new();
    bench.entry(4, 0x1_0031, 0);
    bench.0.set_pin(4, true);
    bench.entry(4, 0x0031, 0);
    assert_eq!(bench.vectors(), []);
    bench.0.set_pin(4, false);
    bench.0.set_pin(4, true);
    assert_eq!(bench.vectors(), [0x31]);
}

#[test]
fn a_level_waits_for_its_end() {
    let mut bench = Bench::new();
    bench.entry(10, 0x1_8055, 0);
    bench.0.set_pin(10, true);
    assert_eq!(bench.vectors(), []);
    bench.entry(10, 0x8055, 0);
    assert_eq!(bench.vectors(), [0x55], "a level that is up is delivered when unmasked");
    assert_eq!(bench.get(0x24), 0xc055, "remote irr");
    bench.0.set_pin(10, false);
    bench.0.set_pin(10, true);
    assert_eq!(bench.vectors(), []);
    bench.0.eoi(0x54);
    assert_eq!(bench.vectors(), []);
    bench.0.eoi(0x55);
    assert_eq!(bench.vectors(), [0x55], "still up");
    bench.0.set_pin(10, false);
    bench.0.write(0, 0x40, &0x55u32.to_le_bytes());
    assert_eq!(bench.vectors(), []);
    assert_eq!(bench.get(0x24), 0x8055);
}

#[test]
fn switching_to_edge_clears_the_remote_irr() {
    let mut bench = Bench::new();
    bench.entry(10, 0x8055, 0);
    bench.0.set_pin(10, true);
    assert_eq!(bench.vectors(), [0x55]);
    // How Linux ends an interrupt that is stuck: masked and edge, then level again.
    bench.put(0x24, 0x1_0055);
    bench.put(0x24, 0x1_8055);
    assert_eq!(bench.get(0x24), 0x1_8055);
    bench.put(0x24, 0x8055);
    assert_eq!(bench.vectors(), [0x55]);
}

#[test]
fn every_delivery_mode_is_told() {
    let modes = [
        Some(DeliveryMode::Fixed),
        Some(DeliveryMode::LowestPriority),
        Some(DeliveryMode::Smi),
        None,
        Some(DeliveryMode::Nmi),
        Some(DeliveryMode::Init),
        Some(DeliveryMode::Startup),
        Some(DeliveryMode::ExtInt),
    ];
    for (bits, mode) in (0..).zip(modes) {
        let mut bench = Bench::new();
        bench.entry(0, bits << 8 | 0x20, 0);
        bench.0.set_pin(0, true);
        assert_eq!(bench.0.take_message().map(|message| message.mode), mode);
    }
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.entry(10, 0x8055, 0);
    bench.0.set_pin(10, true);
    let good = bench.0.save();
    let wrong: [fn(&mut IoApicState); 6] = [
        |state| state.id = 16,
        |state| state.lines = 1 << 24,
        |state| state.irr = 0,
        |state| state.redirection[0] |= 1 << 12,
        |state| state.redirection[0] |= 1 << 14,
        |state| state.redirection[23] |= 1 << 40,
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(bench.0.restore(&state).is_err(), "{index}");
        assert_eq!(bench.0.save(), good);
    }
}

impl Subject for IoApic {
    fn fresh() -> Self {
        Self::new(1, 0)
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        let mut data = [0; 4];
        match what % 8 {
            0 => self.write(now, 0x00, &[(value % 0x42) as u8]),
            1 | 2 => {
                self.write(now, 0x00, &[0x10 + (what / 8 % 8) as u8]);
                self.write(now, 0x10, &(value as u32).to_le_bytes());
            }
            3 => self.write(now, 0x10, &(value as u32).to_le_bytes()),
            4 => self.read(now, 0x10, &mut data),
            5 => self.eoi(value as u8),
            kind => self.set_pin(value as u32 % 5, kind == 6),
        }
        // The board drains messages, but a state between two of them is a state, too.
        let drained = if what.is_multiple_of(3) { 0 } else { usize::MAX };
        let mut seen = vec![u32::from_le_bytes(data).into()];
        let messages = std::iter::from_fn(|| self.take_message()).take(drained);
        for message in messages {
            let IoApicMessage { destination, logical, mode, vector, level } = message;
            seen.extend(
                [destination, logical.into(), mode as u8, vector, level.into()].map(u64::from),
            );
        }
        seen
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn advance(&mut self, _now: u64) {}

    fn sections(&self) -> Vec<SavedSection> {
        vec![SavedSection::encode("ioapic", 0, &self.save())]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        sections[0].decode().is_ok_and(|state| self.restore(&state).is_ok())
    }
}

properties!(IoApic);
