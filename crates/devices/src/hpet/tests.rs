//! The HPET as its specification and Linux use it.

use vmstate::SavedSection;

use super::*;
use crate::twin::{Subject, properties};

const PERIODIC_SETUP: u64 = TIMER_ENABLED | TIMER_PERIODIC | TIMER_SET_VALUE;

struct Bench {
    hpet: Hpet,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self { hpet: Hpet::new(), now: 5_003 }
    }

    fn get(&mut self, register: u64) -> u64 {
        let mut data = [0; 8];
        self.hpet.read(self.now, register, &mut data);
        u64::from_le_bytes(data)
    }

    fn put(&mut self, register: u64, value: u64) {
        self.hpet.write(self.now, register, &value.to_le_bytes());
    }

    fn put_half(&mut self, register: u64, value: u32) {
        self.hpet.write(self.now, register, &value.to_le_bytes());
    }

    fn timer(&mut self, index: u64, config: u64) {
        self.put(0x100 + 0x20 * index, config);
    }

    fn comparator(&mut self, index: u64, value: u64) {
        self.put(0x108 + 0x20 * index, value);
    }

    /// The pins that are up.
    fn up(&self) -> Vec<u32> {
        self.hpet.lines().filter(|(_, level)| *level).map(|(pin, _)| pin).collect()
    }

    /// Moves the clock as the board does; the instants at which a pin rose, and which.
    fn pass(&mut self, nanoseconds: u64) -> Vec<(u64, u32)> {
        let end = self.now + nanoseconds;
        let mut rises = Vec::new();
        let mut before = self.up();
        while let Some(due) = self.hpet.deadline().filter(|due| *due <= end) {
            self.hpet.advance(due);
            let after = self.up();
            rises.extend(after.iter().filter(|pin| !before.contains(pin)).map(|pin| (due, *pin)));
            before = after;
        }
        self.now = end;
        rises
    }
}

#[test]
fn capabilities_are_what_linux_wants() {
    let mut bench = Bench::new();
    let capabilities = bench.get(0);
    assert_eq!(capabilities >> 32, 10_000_000, "femtoseconds in a tick");
    assert_eq!(capabilities & 0xffff_ffff, 0x8086_a201);
    assert_eq!(bench.get(0x100), 0x00ff_0000_0000_0030);
    let mut half = [0; 4];
    bench.hpet.read(0, 4, &mut half);
    assert_eq!(u32::from_le_bytes(half), 0x0098_9680);
    assert_eq!(bench.get(0x10), 0);
    bench.put(0x10, u64::MAX);
    assert_eq!(bench.get(0x10), 3);
    bench.put(0, 0);
    assert_eq!(bench.get(0), capabilities);
    assert_eq!(bench.get(0x160), 0, "there is no timer 3");
    bench.put(0x110, 5);
    assert_eq!(bench.get(0x110), 0, "no FSB interrupts");
}

#[test]
fn timers_keep_the_bits_that_they_have() {
    let mut bench = Bench::new();
    bench.timer(0, u64::MAX);
    assert_eq!(bench.get(0x100), 0x00ff_0000_0000_013e, "pin 31 is not offered");
    bench.timer(0, 20 << 9);
    assert_eq!(bench.get(0x100), 0x00ff_0000_0000_2830);
    bench.timer(0, 2 << 9);
    assert_eq!(bench.get(0x100), 0x00ff_0000_0000_2830, "nor is pin 2");
}

#[test]
fn the_counter_counts_tens_of_nanoseconds_while_enabled() {
    let mut bench = Bench::new();
    bench.put(0xf0, 0x1_0000_0000);
    bench.now += 1000;
    assert_eq!(bench.get(0xf0), 0x1_0000_0000);
    bench.put(0x10, 1);
    bench.now += 1009;
    assert_eq!(bench.get(0xf0), 0x1_0000_0064);
    bench.now += 1;
    assert_eq!(bench.get(0xf0), 0x1_0000_0065);
    let mut half = [0; 4];
    bench.hpet.read(bench.now, 0xf4, &mut half);
    assert_eq!(half, [1, 0, 0, 0]);
    bench.put(0x10, 0);
    bench.now += 1000;
    assert_eq!(bench.get(0xf0), 0x1_0000_0065);
    bench.put(0x10, 1);
    bench.now += 10;
    assert_eq!(bench.get(0xf0), 0x1_0000_0066);
    bench.put_half(0xf4, 7);
    assert_eq!(bench.get(0xf0), 0x7_0000_0066);
}

#[test]
fn one_shot_pulses_once() {
    let mut bench = Bench::new();
    bench.put(0x10, 1);
    let start = bench.now;
    bench.timer(1, TIMER_ENABLED | 17 << 9);
    bench.comparator(1, 100);
    assert_eq!(bench.hpet.deadline(), Some(start + 1000));
    assert_eq!(bench.pass(1000), [(start + 1000, 17)]);
    assert_eq!(bench.up(), [17]);
    assert_eq!(bench.get(0x20), 0, "no status for an edge");
    assert_eq!(bench.hpet.deadline(), Some(start + 1010));
    bench.pass(10);
    assert_eq!(bench.up(), [0u32; 0]);
    assert_eq!(bench.hpet.deadline(), None);
    bench.comparator(1, 50);
    assert_eq!(bench.hpet.deadline(), None, "a time that is past does not match");
}

#[test]
fn a_32_bit_timer_matches_in_every_turn() {
    let mut bench = Bench::new();
    bench.put(0xf0, 0xffff_fff0);
    bench.put(0x10, 1);
    let start = bench.now;
    bench.timer(0, TIMER_ENABLED | TIMER_32BIT | 16 << 9);
    bench.comparator(0, 0x5_0000_0010);
    assert_eq!(bench.get(0x108), 0x10);
    let turn = 10 << 32;
    assert_eq!(bench.pass(turn + 1000), [(start + 320, 16), (start + 320 + turn, 16)]);
}

#[test]
fn periodic_mode_as_linux_sets_it() {
    let mut bench = Bench::new();
    bench.put(0x10, 3);
    let start = bench.now;
    // 1 kHz on timer 0, replacing the 8254: first match, then period.
    bench.timer(0, PERIODIC_SETUP | TIMER_32BIT);
    assert_eq!(bench.get(0x100) & TIMER_SET_VALUE, 0, "reads as 0");
    bench.put_half(0x108, 150_000);
    bench.put_half(0x108, 100_000);
    assert_eq!(bench.get(0x108), 150_000);
    assert_eq!(
        bench.pass(4_000_000),
        [(start + 1_500_000, 2), (start + 2_500_000, 2), (start + 3_500_000, 2)]
    );
    assert_eq!(bench.get(0x108), 450_000, "the accumulator is what is read");
    assert!(bench.hpet.legacy_mode());
    // Late by 3.2 periods: one pulse, and the next match at its place.
    bench.now = start + 7_700_000;
    bench.hpet.advance(bench.now);
    assert_eq!(bench.up(), [2]);
    bench.pass(10);
    assert_eq!(bench.hpet.deadline(), Some(start + 8_500_000));
    assert_eq!(bench.get(0x108), 850_000);
}

#[test]
fn a_late_call_shows_every_pulse_as_an_edge() {
    let mut bench = Bench::new();
    bench.put(0x10, 1);
    bench.timer(0, PERIODIC_SETUP | 16 << 9);
    bench.comparator(0, 1000);
    let start = bench.now;
    bench.hpet.advance(start + 10_000);
    assert_eq!(bench.up(), [16]);
    // The next look is after the pulse's end, and after three more matches.
    let late = start + 45_000;
    bench.now = late;
    assert_eq!(bench.get(0x108), 5000, "a read shows the present");
    assert_eq!(bench.up(), [16], "and moves nothing");
    bench.hpet.advance(late);
    assert_eq!(bench.up(), [0u32; 0]);
    assert!(bench.hpet.deadline().unwrap() <= late);
    bench.hpet.advance(late);
    assert_eq!(bench.up(), [16]);
    assert_eq!(bench.hpet.deadline(), Some(late + 10));
    bench.pass(10);
    assert_eq!(bench.hpet.deadline(), Some(start + 50_000));
}

#[test]
fn a_level_stays_until_it_is_acknowledged() {
    let mut bench = Bench::new();
    bench.put(0x10, 1);
    bench.timer(2, TIMER_ENABLED | TIMER_LEVEL | 23 << 9);
    bench.comparator(2, 10);
    bench.pass(1000);
    assert_eq!(bench.up(), [23]);
    assert_eq!(bench.get(0x20), 4);
    bench.put(0x20, 3);
    assert_eq!(bench.up(), [23]);
    bench.put(0x10, 0);
    assert_eq!(bench.up(), [0u32; 0], "nothing is asked for while it is halted");
    bench.put(0x10, 1);
    bench.put(0x20, 4);
    assert_eq!((bench.up(), bench.get(0x20)), (vec![], 0));
    // A timer that is not enabled keeps its status to itself.
    bench.timer(2, TIMER_LEVEL | 23 << 9);
    let next = bench.get(0xf0) + 10;
    bench.comparator(2, next);
    bench.pass(1000);
    assert_eq!((bench.up(), bench.get(0x20)), (vec![], 4));
}

#[test]
fn legacy_replacement_takes_pins_2_and_8() {
    let mut bench = Bench::new();
    let pins = |bench: &Bench| bench.hpet.lines().map(|(pin, _)| pin).collect::<Vec<_>>();
    assert_eq!(pins(&bench), (16..24).collect::<Vec<_>>());
    bench.put(0x10, 3);
    assert_eq!(pins(&bench)[..3], [2, 8, 16]);
    for index in 0..3 {
        bench.timer(index, TIMER_ENABLED | 20 << 9);
        bench.comparator(index, 10 * (index + 1));
    }
    let start = bench.now;
    assert_eq!(bench.pass(1000), [(start + 100, 2), (start + 200, 8), (start + 300, 20)]);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.put(0x10, 1);
    bench.timer(0, PERIODIC_SETUP | 16 << 9);
    bench.comparator(0, 1000);
    bench.timer(1, TIMER_ENABLED | TIMER_32BIT | 17 << 9);
    let good = bench.hpet.save();
    let wrong: [fn(&mut HpetState); 13] = [
        |state| state.config = 4,
        |state| state.isr = 8,
        |state| state.isr = 1,
        |state| state.config = 0,
        |state| state.counter_time = u64::MAX,
        |state| state.timers.truncate(2),
        |state| state.timers[0].config |= 1 << 14,
        |state| state.timers[0].config |= 1 << 9 | 31 << 9,
        |state| state.timers[0].due += 1,
        |state| state.timers[0].comparator += 1,
        |state| state.timers[1].period = 1 << 32,
        |state| state.timers[1].armed = false,
        |state| state.timers[2].pulse_until = 1,
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(bench.hpet.restore(&state).is_err(), "{index}");
        assert_eq!(bench.hpet.save(), good);
    }
}

impl Subject for Hpet {
    fn fresh() -> Self {
        Self::new()
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        let timer = 0x100 + 0x20 * (what / 16 % 3) as u64;
        let mut data = [0; 8];
        match what % 16 {
            0 => self.write(now, 0x10, &(value & 3).to_le_bytes()),
            1 => self.write(now, 0x20, &value.to_le_bytes()),
            2 => self.write(now, 0xf0 + value % 2 * 4, &(value as u32).to_le_bytes()),
            3 | 4 => self.write(now, timer, &value.to_le_bytes()),
            5 => self.write(now, timer + 8 + value % 2 * 4, &(value as u32).to_le_bytes()),
            6 => self.write(now, timer + 8, &value.to_le_bytes()),
            // Enabled, with a pin, and a match that comes.
            7..=9 => {
                self.write(now, 0x10, &[1, 0, 0, 0]);
                let config = TIMER_ENABLED | 18 << 9 | value & (TIMER_LEVEL | TIMER_32BIT);
                self.write(now, timer, &config.to_le_bytes());
                let ahead = self.counter(now).wrapping_add(value >> 8 & 0xf_ffff);
                self.write(now, timer + 8, &ahead.to_le_bytes());
            }
            10 | 11 => {
                self.write(now, 0x10, &[3, 0, 0, 0]);
                let config = PERIODIC_SETUP | value & (TIMER_LEVEL | TIMER_32BIT);
                self.write(now, timer, &config.to_le_bytes());
                let ahead = self.counter(now).wrapping_add(100);
                self.write(now, timer + 8, &ahead.to_le_bytes());
                self.write(now, timer + 8, &(1 + (value >> 8 & 0xf_ffff)).to_le_bytes());
            }
            12 => self.read(now, 0xf0, &mut data),
            13 => self.read(now, timer + 8, &mut data),
            14 => self.read(now, timer, &mut data),
            _ => self.read(now, 0x20, &mut data),
        }
        let mut seen = vec![u64::from_le_bytes(data), self.legacy_mode().into()];
        seen.extend(self.lines().map(|(pin, level)| u64::from(pin) << 1 | u64::from(level)));
        seen
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline()
    }

    fn advance(&mut self, now: u64) {
        self.advance(now);
    }

    fn sections(&self) -> Vec<SavedSection> {
        vec![SavedSection::encode("hpet", 0, &self.save())]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        sections[0].decode().is_ok_and(|state| self.restore(&state).is_ok())
    }
}

properties!(Hpet);
