//! The pair as firmware and Linux program it.

use vmstate::SavedSection;

use super::*;
use crate::twin::{Subject, properties};

struct Bench(PicPair);

impl Bench {
    /// Vectors 0x20 and 0x28, everything unmasked, edge-triggered.
    fn new() -> Self {
        Self::with_icw4(0x01, 0x01)
    }

    fn with_icw4(master: u8, slave: u8) -> Self {
        let mut bench = Self(PicPair::new());
        for (base, icws) in [(0x20, [0x11, 0x20, 0x04, master]), (0xa0, [0x11, 0x28, 0x02, slave])]
        {
            bench.put(base, icws[0]);
            icws[1..].iter().for_each(|icw| bench.put(base + 1, *icw));
            bench.put(base + 1, 0);
        }
        bench
    }

    fn put(&mut self, port: u64, value: u8) {
        self.0.write(0, port, &[value]);
    }

    fn get(&mut self, port: u64) -> u8 {
        let mut byte = [0];
        self.0.read(0, port, &mut byte);
        byte[0]
    }

    fn pulse(&mut self, line: u32) {
        self.0.set_irq(line, true);
        self.0.set_irq(line, false);
    }

    /// What the processor gets, if it is asked to look.
    fn take(&mut self) -> Option<u8> {
        self.0.irq_level().then(|| self.0.acknowledge())
    }

    fn isr(&mut self, base: u64) -> u8 {
        self.put(base, 0x0b);
        let isr = self.get(base);
        self.put(base, 0x0a);
        isr
    }
}

#[test]
fn an_edge_is_delivered_once() {
    let mut bench = Bench::new();
    bench.0.set_irq(4, true);
    assert_eq!(bench.get(0x20), 0x10);
    assert_eq!(bench.take(), Some(0x24));
    assert_eq!((bench.get(0x20), bench.isr(0x20)), (0, 0x10));
    bench.put(0x20, 0x20);
    assert_eq!(bench.isr(0x20), 0);
    assert_eq!(bench.take(), None, "the line is still up");
    bench.pulse(4);
    assert_eq!(bench.take(), None, "no new edge: it was up");
    bench.pulse(4);
    assert_eq!(bench.take(), Some(0x24));
}

#[test]
fn lower_inputs_wait_for_the_end_of_higher_ones() {
    let mut bench = Bench::new();
    for line in [5, 3, 1] {
        bench.pulse(line);
    }
    assert_eq!(bench.take(), Some(0x21));
    assert_eq!(bench.take(), None);
    bench.pulse(0);
    assert_eq!(bench.take(), Some(0x20), "a higher one nests");
    bench.put(0x20, 0x20);
    assert_eq!(bench.isr(0x20), 0x02, "the end is of the highest in service");
    bench.put(0x20, 0x61);
    assert_eq!(bench.take(), Some(0x23));
    bench.put(0x20, 0x63);
    assert_eq!(bench.take(), Some(0x25));
}

#[test]
fn the_slave_comes_through_input_2() {
    let mut bench = Bench::new();
    bench.pulse(14);
    bench.pulse(3);
    assert_eq!(bench.get(0x20), 0x0c);
    assert_eq!(bench.take(), Some(0x2e), "before the master's input 3");
    assert_eq!((bench.isr(0x20), bench.isr(0xa0)), (0x04, 0x40));
    bench.pulse(8);
    assert_eq!(bench.take(), None, "input 2 is in service");
    bench.put(0xa0, 0x20);
    bench.put(0x20, 0x20);
    assert_eq!(bench.take(), Some(0x28));
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let mut bench = Bench::with_icw4(0x11, 0x01);
    bench.pulse(14);
    assert_eq!(bench.take(), Some(0x2e));
    bench.pulse(3);
    assert_eq!(bench.take(), None, "input 3 is below the slave");
    bench.pulse(15);
    assert_eq!(bench.take(), None, "15 is below 14");
    bench.pulse(8);
    assert_eq!(bench.take(), Some(0x28));
}

#[test]
fn masks_hold_requests_back() {
    let mut bench = Bench::new();
    bench.put(0x21, 0x10);
    bench.pulse(4);
    assert_eq!(bench.get(0x21), 0x10);
    assert_eq!(bench.take(), None);
    bench.put(0x21, 0x00);
    assert_eq!(bench.take(), Some(0x24));
    bench.put(0x21, 0x04);
    bench.put(0x20, 0x20);
    bench.pulse(9);
    assert_eq!(bench.take(), None);
    bench.put(0xa1, 0x02);
    bench.put(0x21, 0x00);
    assert_eq!(bench.take(), None, "the slave asks no more");
    assert_eq!(bench.0.acknowledge(), 0x27, "spurious");
    assert_eq!(bench.isr(0x20), 0);
}

#[test]
fn special_mask_mode_opens_the_lower_inputs() {
    let mut bench = Bench::new();
    bench.pulse(1);
    bench.take();
    bench.pulse(6);
    assert_eq!(bench.take(), None);
    bench.put(0x21, 0x02);
    bench.put(0x20, 0x68);
    assert_eq!(bench.take(), Some(0x26));
    bench.put(0x20, 0x20);
    assert_eq!(bench.isr(0x20), 0x02, "a masked input is not ended by a non-specific end");
    bench.put(0x20, 0x48);
    bench.put(0x20, 0x20);
    assert_eq!(bench.isr(0x20), 0);
}

#[test]
fn priorities_rotate() {
    let mut bench = Bench::new();
    bench.pulse(3);
    bench.take();
    bench.put(0x20, 0xa0);
    bench.pulse(3);
    bench.pulse(4);
    assert_eq!(bench.take(), Some(0x24), "3 is the lowest now");
    bench.put(0x20, 0x20);
    assert_eq!(bench.take(), Some(0x23));
    bench.put(0x20, 0xe3);
    bench.put(0x20, 0xc5);
    bench.pulse(5);
    bench.pulse(0);
    bench.pulse(6);
    assert_eq!(bench.take(), Some(0x26), "the order begins after 5");
}

#[test]
fn automatic_end_leaves_nothing_in_service() {
    let mut bench = Bench::with_icw4(0x03, 0x03);
    bench.put(0x20, 0x80);
    bench.pulse(0);
    bench.pulse(1);
    assert_eq!(bench.take(), Some(0x20));
    assert_eq!(bench.isr(0x20), 0);
    bench.pulse(0);
    assert_eq!(bench.take(), Some(0x21), "0 has become the lowest");
    assert_eq!(bench.take(), Some(0x20));
    bench.pulse(12);
    bench.pulse(13);
    assert_eq!(bench.take(), Some(0x2c));
    assert_eq!(bench.take(), Some(0x2d), "the slave asks again");
}

#[test]
fn level_triggered_inputs_follow_the_line() {
    let mut bench = Bench::new();
    bench.put(0x4d0, 0xff);
    bench.put(0x4d1, 0xff);
    assert_eq!((bench.get(0x4d0), bench.get(0x4d1)), (0xf8, 0xde));
    bench.pulse(5);
    assert_eq!(bench.take(), None);
    bench.0.set_irq(5, true);
    assert_eq!(bench.take(), Some(0x25));
    bench.put(0x20, 0x20);
    assert_eq!(bench.take(), Some(0x25), "still up");
    bench.0.set_irq(5, false);
    bench.put(0x20, 0x20);
    assert_eq!(bench.take(), None);
}

#[test]
fn a_poll_acknowledges() {
    let mut bench = Bench::new();
    bench.pulse(6);
    bench.put(0x20, 0x0c);
    assert_eq!(bench.get(0x20), 0x86);
    assert_eq!(bench.isr(0x20), 0x40);
    bench.put(0x20, 0x0c);
    assert_eq!(bench.get(0x20), 0x00);
    bench.pulse(10);
    bench.put(0xa0, 0x0c);
    assert_eq!(bench.get(0xa0), 0x82);
    assert_eq!(bench.get(0x20) & 4, 0, "the slave has stopped asking");
}

#[test]
fn initialisation_forgets_edges() {
    let mut bench = Bench::new();
    bench.0.set_irq(7, true);
    bench.put(0x20, 0x13);
    bench.put(0x21, 0x48);
    bench.put(0x21, 0x01);
    assert_eq!(bench.take(), None, "needs a new edge");
    bench.pulse(7);
    bench.pulse(7);
    assert_eq!(bench.take(), Some(0x4f), "without a cascade there is no third word");
    bench.put(0x20, 0x12);
    bench.put(0x21, 0x50);
    bench.put(0x21, 0xaa);
    assert_eq!(bench.get(0x21), 0xaa, "nor a fourth if none is announced");
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.pulse(9);
    bench.pulse(1);
    bench.take();
    let good = bench.0.save();
    let wrong: [fn(&mut [I8259State; 2]); 8] = [
        |states| states[0].highest_priority = 8,
        |states| states[0].vector_base = 0x21,
        |states| states[0].awaited_icw = 1,
        |states| states[1].awaited_icw = 5,
        |states| states[0].elcr = 0x01,
        |states| states[1].elcr = 0x20,
        |states| states[0].lines &= !4,
        |states| states[1].irr = 0,
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut states = good.clone();
        spoil(&mut states);
        assert!(bench.0.restore(&states).is_err(), "{index}");
        assert_eq!(bench.0.save(), good);
    }
}

impl Subject for PicPair {
    fn fresh() -> Self {
        Self::new()
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][what % 6];
        let mut data = [0];
        match what / 6 % 6 {
            0 | 1 => self.write(now, port, &[value as u8]),
            2 => self.read(now, port, &mut data),
            3 => data[0] = if self.irq_level() { self.acknowledge() } else { 0 },
            kind => self.set_irq(value as u32 % 17, kind == 4),
        }
        vec![data[0].into(), self.irq_level().into()]
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn advance(&mut self, _now: u64) {}

    fn sections(&self) -> Vec<SavedSection> {
        let [master, slave] = self.save();
        vec![SavedSection::encode("i8259", 0, &master), SavedSection::encode("i8259", 1, &slave)]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        let (Ok(master), Ok(slave)) = (sections[0].decode(), sections[1].decode()) else {
            return false;
        };
        self.restore(&[master, slave]).is_ok()
    }
}

properties!(PicPair);
