//! The timer as software meets it. Ticks are of 1193182 Hz: 838.095... ns.

use vmstate::SavedSection;

use super::*;
use crate::ticks::span_of;
use crate::twin::{Subject, properties};

struct Bench {
    pit: I8254,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self { pit: I8254::new(), now: 1_000_000 }
    }

    fn put(&mut self, port: u64, value: u8) {
        self.pit.write(self.now, port - 0x40, &[value]);
    }

    fn get(&mut self, port: u64) -> u8 {
        let mut byte = [0];
        self.pit.read(self.now, port - 0x40, &mut byte);
        byte[0]
    }

    fn word(&mut self, port: u64) -> u16 {
        u16::from_le_bytes([self.get(port), self.get(port)])
    }

    fn port61(&mut self) -> u8 {
        let mut byte = [0];
        self.pit.read_control(self.now, &mut byte);
        byte[0]
    }

    fn out2(&mut self) -> bool {
        self.port61() & 0x20 != 0
    }

    fn gate2(&mut self, gate: bool) {
        self.pit.write_control(self.now, &[u8::from(gate)]);
    }

    /// Moves on to tick number `tick` after `start`, from deadline to deadline.
    fn reach(&mut self, start: u64, tick: u64) {
        let end = start + span_of(tick, CLOCK_HZ);
        while let Some(due) = self.pit.deadline().filter(|due| *due <= end) {
            self.pit.advance(due);
        }
        self.now = end;
    }

    /// The instants at which channel 0's output changes, in ticks after `start`.
    fn changes(&mut self, start: u64, count: usize) -> Vec<(u64, bool)> {
        (0..count)
            .map(|_| {
                let due = self.pit.deadline().expect("a change is to come");
                self.pit.advance(due);
                (ticks_in(due - start, CLOCK_HZ), self.pit.irq_level())
            })
            .collect()
    }
}

#[test]
fn mode_0_interrupts_on_terminal_count_once() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x30);
    assert!(!bench.pit.irq_level(), "low from the control word");
    assert_eq!(bench.pit.deadline(), None);
    bench.put(0x40, 0x00);
    assert_eq!(bench.pit.deadline(), None, "half a count does not start it");
    bench.put(0x40, 0x01);
    let start = bench.now;
    assert_eq!(bench.pit.deadline(), Some(start + span_of(256, CLOCK_HZ)));
    bench.reach(start, 255);
    assert!(!bench.pit.irq_level());
    assert_eq!(bench.word(0x40), 1);
    bench.reach(start, 256);
    assert!(bench.pit.irq_level());
    assert_eq!(bench.pit.deadline(), None);
    bench.reach(start, 258);
    assert_eq!(bench.word(0x40), 0xfffe, "counts on");
    bench.put(0x40, 5);
    assert!(!bench.pit.irq_level(), "the first byte of a new count stops it");
}

#[test]
fn mode_2_is_low_for_the_last_tick_of_each_period() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    assert!(bench.pit.irq_level());
    let start = bench.now;
    bench.put(0x40, 10);
    bench.put(0x40, 0);
    assert_eq!(bench.changes(start, 4), [(9, false), (10, true), (19, false), (20, true)]);
    bench.now = start + span_of(23, CLOCK_HZ);
    assert_eq!(bench.word(0x40), 7);
}

#[test]
fn mode_3_is_high_for_the_longer_half() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x16);
    let start = bench.now;
    bench.put(0x40, 5);
    assert_eq!(bench.changes(start, 4), [(3, false), (5, true), (8, false), (10, true)]);
    let read = |bench: &mut Bench, tick| {
        bench.reach(start, tick);
        bench.get(0x40)
    };
    // An odd count is loaded without its lowest bit and goes down by two.
    assert_eq!([10, 11, 12, 13, 14, 15].map(|tick| read(&mut bench, tick)), [4, 2, 0, 4, 2, 4]);
    let start = bench.now;
    bench.put(0x43, 0x16);
    bench.put(0x40, 6);
    let read = |bench: &mut Bench, tick| {
        bench.reach(start, tick);
        bench.get(0x40)
    };
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|tick| read(&mut bench, tick)), [6, 4, 2, 6, 4, 2, 6]);
}

#[test]
fn mode_4_strobes_once() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x18);
    assert!(bench.pit.irq_level());
    let start = bench.now;
    bench.put(0x40, 100);
    assert_eq!(bench.changes(start, 2), [(100, false), (101, true)]);
    assert_eq!(bench.pit.deadline(), None);
    let start = start + 1_000_000_000;
    bench.now = start;
    bench.put(0x40, 50);
    assert_eq!(bench.changes(start, 2), [(50, false), (51, true)]);
}

#[test]
fn modes_1_and_5_wait_for_the_gate() {
    // Mode 1 is low until the count is over, mode 5 for one tick then.
    for (control, expected) in [(0x92, [false, true, true]), (0x9a, [true, false, true])] {
        let mut bench = Bench::new();
        bench.put(0x43, control);
        bench.put(0x42, 20);
        bench.now += 1_000_000;
        assert!(bench.out2(), "nothing happens before the gate rises");
        bench.gate2(true);
        let start = bench.now;
        let seen = [19, 20, 21].map(|tick| {
            bench.reach(start, tick);
            bench.out2()
        });
        assert_eq!(seen, expected, "{control:#x}");
        // A second count is loaded by the next rise of the gate.
        bench.put(0x42, 10);
        assert!(bench.out2());
        bench.gate2(false);
        bench.gate2(true);
        let start = bench.now;
        bench.reach(start, 4);
        assert_eq!(bench.get(0x42), 6);
        assert_eq!(bench.out2(), control == 0x9a);
    }
}

#[test]
fn the_gate_stops_and_reloads() {
    let mut bench = Bench::new();
    bench.gate2(true);
    // Mode 0: the gate only stops it.
    bench.put(0x43, 0xb0);
    bench.put(0x42, 100);
    bench.put(0x42, 0);
    let start = bench.now;
    bench.reach(start, 40);
    bench.gate2(false);
    bench.now += 1_000_000_000;
    assert_eq!(bench.word(0x42), 60);
    bench.gate2(true);
    let start = bench.now;
    bench.reach(start, 59);
    assert!(!bench.out2());
    assert_eq!(bench.word(0x42), 1);
    bench.reach(start, 60);
    assert!(bench.out2());
    // Mode 2: a low gate forces the output up, and its rise starts the period again.
    bench.put(0x43, 0xb4);
    bench.put(0x42, 100);
    bench.put(0x42, 0);
    let start = bench.now;
    bench.reach(start, 99);
    assert!(!bench.out2());
    bench.gate2(false);
    assert!(bench.out2());
    bench.gate2(true);
    assert_eq!(bench.word(0x42), 100);
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x14);
    let start = bench.now;
    bench.put(0x40, 10);
    bench.reach(start, 3);
    bench.put(0x40, 4);
    bench.put(0x43, 0xe2);
    assert_eq!(bench.get(0x40) & 0x40, 0x40, "null count");
    assert_eq!(bench.get(0x40), 7);
    assert_eq!(
        bench.changes(start, 6),
        [(9, false), (10, true), (13, false), (14, true), (17, false), (18, true)]
    );
    bench.now = start + span_of(18, CLOCK_HZ);
    bench.put(0x43, 0xe2);
    assert_eq!(bench.get(0x40) & 0x40, 0, "the count is in");
}

#[test]
fn bcd_counts_in_decimal() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x31);
    bench.put(0x40, 0x00);
    bench.put(0x40, 0x10);
    let start = bench.now;
    bench.reach(start, 1);
    assert_eq!(bench.word(0x40), 0x0999);
    bench.reach(start, 1001);
    assert!(bench.pit.irq_level());
    assert_eq!(bench.word(0x40), 0x9999);
    bench.put(0x43, 0x31);
    bench.put(0x40, 0);
    bench.put(0x40, 0);
    let start = bench.now;
    assert_eq!(bench.pit.deadline(), Some(start + span_of(10_000, CLOCK_HZ)), "0 is 10000");
}

#[test]
fn a_latched_count_stands_until_read() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    bench.put(0x40, 0xff);
    bench.put(0x40, 0xff);
    let start = bench.now;
    bench.reach(start, 0x100);
    bench.put(0x43, 0x00);
    bench.reach(start, 0x200);
    bench.put(0x43, 0x00);
    assert_eq!(bench.word(0x40), 0xfeff, "the first latch stands");
    assert_eq!(bench.word(0x40), 0xfdff);
}

#[test]
fn read_back_gives_status_then_count() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    bench.put(0x43, 0xe2);
    assert_eq!(bench.get(0x40), 0xf4, "out, null count, both bytes, mode 2");
    bench.put(0x40, 0x34);
    bench.put(0x40, 0x12);
    bench.put(0x43, 0xb6);
    bench.put(0x43, 0xc2);
    assert_eq!(bench.get(0x40), 0xb4);
    assert_eq!(bench.word(0x40), 0x1234);
    bench.put(0x43, 0xe8);
    assert_eq!(bench.get(0x42), 0xf6, "out, null count, both bytes, mode 3");
}

#[test]
fn the_fast_calibration_of_linux_sees_one_clock() {
    let mut bench = Bench::new();
    // Gate up, speaker off; mode 0, both bytes, 0xffff. Then the high byte is read in a loop.
    let control = bench.port61();
    bench.pit.write_control(bench.now, &[control & !2 | 1]);
    bench.put(0x43, 0xb0);
    bench.put(0x42, 0xff);
    bench.put(0x42, 0xff);
    let start = bench.now;
    let mut last = 0xff;
    for _ in 0..20_000 {
        bench.now += 1000;
        bench.get(0x42);
        let high = bench.get(0x42);
        let gone = ticks_in(bench.now - start, CLOCK_HZ);
        assert_eq!(high, ((0xffff - gone) >> 8) as u8);
        assert!(high <= last);
        last = high;
    }
    assert!(!bench.out2());
    bench.reach(start, 0xffff);
    assert!(bench.out2());
}

#[test]
fn port_61_shows_what_it_shows() {
    let mut bench = Bench::new();
    assert_eq!(bench.port61() & 0x2f, 0x20);
    bench.pit.write_control(bench.now, &[0xff]);
    assert_eq!(bench.port61() & 0xcf, 0x03);
    let toggles = (0..10_000)
        .map(|step| {
            bench.now = step * 1000;
            bench.port61() & 0x10
        })
        .collect::<Vec<_>>()
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    // 10 ms at 15.086 µs each.
    assert_eq!(toggles, 662);
}

#[test]
fn no_drift_in_a_day() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    bench.put(0x40, (11932 & 0xff) as u8);
    bench.put(0x40, (11932 >> 8) as u8);
    let start = bench.now;
    let day = 86_400 * 1_000_000_000u64;
    bench.pit.advance(start + day);
    while let Some(due) = bench.pit.deadline().filter(|due| *due <= start + day) {
        bench.pit.advance(due);
    }
    let due = bench.pit.deadline().unwrap();
    let periods = 86_400 * CLOCK_HZ / 11_932;
    assert_eq!(due, start + span_of(periods * 11_932 + 11_931, CLOCK_HZ));
}

#[test]
fn a_late_call_shows_one_whole_pulse() {
    for late_by in [1, 5, 10, 11, 99, 1_000_003] {
        for extra in 0..12 {
            let mut bench = Bench::new();
            bench.put(0x43, 0x14);
            bench.put(0x40, 10);
            let end = bench.now + span_of(10 * late_by + extra, CLOCK_HZ);
            let mut edges = 0;
            let mut level = bench.pit.irq_level();
            for _ in 0..4 {
                bench.pit.advance(end);
                edges += u32::from(!level && bench.pit.irq_level());
                level = bench.pit.irq_level();
            }
            assert!((1..=2).contains(&edges), "{late_by} {extra}: {edges}");
            assert!(bench.pit.deadline().unwrap() > end);
        }
    }
}

#[test]
fn looking_at_the_timer_does_not_swallow_a_late_edge() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    bench.put(0x40, 100);
    bench.put(0x40, 0);
    // The board is late: the period's end has passed, and the guest reads the count, as Linux's
    // i8253 clock source does, and programs the other channels.
    bench.now += span_of(105, CLOCK_HZ);
    bench.put(0x43, 0x00);
    assert_eq!(bench.word(0x40), 95);
    bench.put(0x43, 0xe2);
    bench.get(0x40);
    bench.put(0x43, 0xb0);
    bench.put(0x42, 1);
    bench.port61();
    assert_eq!(bench.pit.deadline(), Some(1_000_000 + span_of(99, CLOCK_HZ)));
    bench.pit.advance(bench.now);
    assert!(!bench.pit.irq_level());
    bench.pit.advance(bench.now);
    assert!(bench.pit.irq_level());
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.put(0x43, 0x34);
    bench.put(0x40, 10);
    bench.put(0x40, 0);
    bench.put(0x40, 20);
    bench.put(0x40, 0);
    let good = bench.pit.save();
    let wrong: [fn(&mut I8254State); 14] = [
        |state| state.channels[1].mode = 6,
        |state| state.channels[1].access = 0,
        |state| state.channels[1].reload = 0,
        |state| state.channels[1].count = 0x1_0001,
        |state| state.channels[1].bcd = true,
        |state| state.channels[0].transfer_at = state.shown_until,
        |state| state.channels[0].null_count = false,
        |state| state.channels[0].gate = false,
        |state| state.channels[2].gate = true,
        |state| state.channels[2].phase = PitPhase::Ready,
        |state| state.channels[2].latched_count = 1,
        |state| state.channels[2].write_low = 1,
        |state| state.channels[2].count_load_time = 1,
        |state| state.shown_until = 0,
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(bench.pit.restore(&state).is_err(), "{index}");
        assert_eq!(bench.pit.save(), good);
        let section = SavedSection::encode("i8254", 0, &state);
        assert!(section.decode::<I8254State>().is_err(), "{index}");
    }
}

impl Subject for I8254 {
    fn fresh() -> Self {
        Self::new()
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        let mut data = [0];
        match what % 10 {
            port @ 0..=3 => self.write(now, port as u64, &[value as u8]),
            4 => self.write_control(now, &[value as u8]),
            // A whole count at once, as drivers write it.
            5 => {
                self.write(now, 2, &[value as u8]);
                self.write(now, 2, &[(value >> 8) as u8]);
            }
            6 => self.read_control(now, &mut data),
            port => self.read(now, port as u64 - 7, &mut data),
        }
        let mut control = [0];
        self.clone().read_control(now, &mut control);
        vec![data[0].into(), control[0].into(), self.irq_level().into()]
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline()
    }

    fn advance(&mut self, now: u64) {
        self.advance(now);
    }

    fn sections(&self) -> Vec<SavedSection> {
        vec![SavedSection::encode("i8254", 0, &self.save())]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        sections[0].decode().is_ok_and(|state| self.restore(&state).is_ok())
    }
}

properties!(I8254);
