//! The clock as firmware and Linux's `mc146818-lib` use it.

use vmstate::SavedSection;

use super::calendar::{DateTime, Notation};
use super::*;
use crate::twin::{Subject, properties};

const SECOND: u64 = 1_000_000_000;
/// 2024-02-29 23:59:57 UTC, a Thursday.
const LEAP_DAY: i64 = 1_709_251_197;

struct Bench {
    rtc: Rtc,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self::at(LEAP_DAY)
    }

    fn at(seconds: i64) -> Self {
        Self { rtc: Rtc::new(seconds * SECOND as i64), now: 0 }
    }

    fn get(&mut self, index: usize) -> u8 {
        self.rtc.write(self.now, 0, &[index as u8]);
        let mut byte = [0];
        self.rtc.read(self.now, 1, &mut byte);
        byte[0]
    }

    fn put(&mut self, index: usize, value: u8) {
        self.rtc.write(self.now, 0, &[index as u8]);
        self.rtc.write(self.now, 1, &[value]);
    }

    /// Century, year, month, day, weekday, hour, minute, second.
    fn time(&mut self) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| self.get(index))
    }

    /// Moves the clock as the board does; the instants at which the line rose.
    fn pass(&mut self, nanoseconds: u64) -> Vec<u64> {
        let end = self.now + nanoseconds;
        let mut rises = Vec::new();
        while let Some(due) = self.rtc.deadline().filter(|due| *due <= end) {
            let before = self.rtc.irq_level();
            self.rtc.advance(due);
            if self.rtc.irq_level() && !before {
                rises.push(due);
            }
        }
        self.now = end;
        rises
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    let date = |seconds| {
        let DateTime { year, month, day, hour, minute, second } = DateTime::from_seconds(seconds);
        ([year, month, day, hour, minute, second], DateTime::from_seconds(seconds).weekday())
    };
    assert_eq!(date(0), ([1970, 1, 1, 0, 0, 0], 5));
    assert_eq!(date(-1), ([1969, 12, 31, 23, 59, 59], 4));
    assert_eq!(date(951_782_400), ([2000, 2, 29, 0, 0, 0], 3));
    assert_eq!(date(LEAP_DAY), ([2024, 2, 29, 23, 59, 57], 5));
    assert_eq!(date(4_107_542_400), ([2100, 3, 1, 0, 0, 0], 2));
    assert_eq!(date(253_402_300_799), ([9999, 12, 31, 23, 59, 59], 6));
    assert_eq!(date(-62_167_219_200), ([0, 1, 1, 0, 0, 0], 7));
    let mut last = DateTime::from_seconds(-1_000 * 86_400);
    for day in -999..200_000i64 {
        let date = DateTime::from_seconds(day * 86_400);
        assert_eq!(date.seconds(), day * 86_400);
        let follows = (date.day == last.day + 1 && date.month == last.month)
            || (date.day == 1
                && (28..=31).contains(&last.day)
                && date.month == last.month % 12 + 1);
        assert!(follows, "{last:?} {date:?}");
        last = date;
    }
}

#[test]
fn hours_in_every_notation() {
    let notation = |binary, hours_24| Notation { binary, hours_24 };
    for binary in [false, true] {
        for hours_24 in [false, true] {
            let notation = notation(binary, hours_24);
            for hour in 0..24 {
                assert_eq!(notation.decode_hour(notation.encode_hour(hour)), hour);
            }
        }
    }
    assert_eq!(notation(false, false).encode_hour(0), 0x12);
    assert_eq!(notation(false, false).encode_hour(12), 0x92);
    assert_eq!(notation(false, false).encode_hour(23), 0x91);
    assert_eq!(notation(true, false).encode_hour(23), 0x8b);
    assert_eq!(notation(false, true).encode_hour(23), 0x23);
}

#[test]
fn time_goes_on() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x57]);
    bench.now = 3 * SECOND - 1;
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x59]);
    bench.now += 1;
    assert_eq!(bench.time(), [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00]);
    bench.now += 366 * 86_400 * SECOND;
    assert_eq!(bench.time(), [0x20, 0x25, 0x03, 0x02, 0x01, 0x00, 0x00, 0x00]);
}

#[test]
fn registers_out_of_reset() {
    let mut bench = Bench::new();
    assert_eq!(
        [REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D].map(|index| bench.get(index)),
        [0x26, 0x02, 0x00, 0x80]
    );
    bench.put(REGISTER_C, 0xff);
    bench.put(REGISTER_D, 0);
    assert_eq!((bench.get(REGISTER_C), bench.get(REGISTER_D)), (0, 0x80));
    bench.put(0x7f, 0x5a);
    bench.put(0x0e, 0xa5);
    assert_eq!((bench.get(0x7f), bench.get(0x0e)), (0x5a, 0xa5));
    let mut byte = [0];
    bench.rtc.read(0, 0, &mut byte);
    assert_eq!(byte, [0xff], "the index is write only");
    assert!(!bench.rtc.nmi_masked());
    bench.rtc.write(0, 0, &[0xff]);
    assert!(bench.rtc.nmi_masked());
    bench.rtc.read(0, 1, &mut byte);
    assert_eq!(byte, [0x5a]);
}

#[test]
fn an_update_is_announced() {
    let mut bench = Bench::new();
    for (now, announced) in
        [(0, false), (999_755_000, false), (999_756_000, true), (SECOND - 1, true), (SECOND, false)]
    {
        bench.now = now;
        assert_eq!(bench.get(REGISTER_A) & A_UPDATING != 0, announced, "{now}");
    }
    bench.put(REGISTER_B, B_SET | B_24_HOURS);
    bench.now = 2 * SECOND - 1;
    assert_eq!(bench.get(REGISTER_A) & A_UPDATING, 0, "not while it is being set");
}

#[test]
fn the_clock_is_set_as_linux_sets_it() {
    let mut bench = Bench::new();
    bench.now = 300_000_000;
    let control = bench.get(REGISTER_B);
    let frequency = bench.get(REGISTER_A);
    bench.put(REGISTER_B, control | B_SET);
    bench.put(REGISTER_A, frequency | 0x70);
    bench.now += 10 * SECOND;
    assert_eq!(bench.get(SECONDS), 0x57, "it stands");
    for (index, value) in [
        (CENTURY, 0x19),
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ] {
        bench.put(index, value);
    }
    bench.put(REGISTER_B, control);
    bench.put(REGISTER_A, frequency);
    assert_eq!(bench.get(SECONDS), 0x59);
    bench.now += SECOND / 2 - 1;
    assert_eq!(bench.get(SECONDS), 0x59);
    bench.now += 1;
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
}

#[test]
fn setting_without_a_reset_keeps_the_place_in_the_second() {
    let mut bench = Bench::new();
    bench.now = 300_000_000;
    bench.put(REGISTER_B, 0x92);
    assert_eq!(bench.get(REGISTER_B), 0x82, "SET clears UIE");
    bench.put(MINUTES, 0x10);
    bench.now += 5 * SECOND;
    bench.put(REGISTER_B, 0x02);
    assert_eq!(bench.time()[5..], [0x23, 0x10, 0x57]);
    bench.now += 700_000_000;
    assert_eq!(bench.time()[5..], [0x23, 0x10, 0x58]);
    // While it runs, a write to a time register moves it at once.
    bench.put(HOURS, 0x01);
    bench.now += SECOND;
    assert_eq!(bench.time()[5..], [0x01, 0x10, 0x59]);
}

#[test]
fn notations_can_be_switched() {
    let mut bench = Bench::new();
    bench.put(REGISTER_B, B_BINARY | B_24_HOURS);
    assert_eq!(bench.time(), [20, 24, 2, 29, 5, 23, 59, 57]);
    bench.put(REGISTER_B, 0);
    assert_eq!(bench.time()[5..], [0x91, 0x59, 0x57]);
}

#[test]
fn updates_interrupt_every_second() {
    let mut bench = Bench::new();
    bench.now = 1000;
    assert_eq!(bench.rtc.deadline(), None);
    bench.put(REGISTER_A, 0x20);
    bench.put(SECONDS_ALARM, 0x60);
    bench.put(REGISTER_B, 0x12);
    assert_eq!(bench.pass(3 * SECOND), [SECOND]);
    assert!(bench.rtc.irq_level(), "until it is acknowledged");
    assert_eq!(bench.get(REGISTER_C), 0x90);
    assert!(!bench.rtc.irq_level());
    assert_eq!(bench.get(REGISTER_C), 0x00);
    assert_eq!(bench.rtc.deadline(), Some(4 * SECOND));
    // The flag comes without its interrupt, too.
    bench.put(REGISTER_B, 0x02);
    bench.now = 10 * SECOND;
    assert_eq!(bench.get(REGISTER_C), 0x10);
}

#[test]
fn the_alarm_goes_off() {
    let mut bench = Bench::new();
    bench.put(REGISTER_A, 0x20);
    bench.put(SECONDS_ALARM, 0x30);
    bench.put(MINUTES_ALARM, 0x15);
    bench.put(HOURS_ALARM, 0x06);
    bench.put(REGISTER_B, 0x22);
    let first = (3 + 6 * 3600 + 15 * 60 + 30) * SECOND;
    assert_eq!(bench.pass(86_400 * SECOND), [first]);
    assert_eq!(bench.get(REGISTER_C), 0xb0, "alarm and update");
    assert_eq!(bench.rtc.deadline(), Some(first + 86_400 * SECOND));
    // Any hour, any minute.
    bench.put(HOURS_ALARM, 0xff);
    bench.put(MINUTES_ALARM, 0xc0);
    assert_eq!(bench.pass(61 * SECOND), [(86_400 + 33) * SECOND]);
    // A second that never comes.
    bench.get(REGISTER_C);
    bench.put(SECONDS_ALARM, 0x60);
    assert_eq!(bench.rtc.deadline(), None);
    // The flag is found even if nobody looked for hours.
    bench.put(SECONDS_ALARM, 0x00);
    bench.put(REGISTER_B, 0x02);
    bench.now += 7 * 3600 * SECOND;
    assert_eq!(bench.get(REGISTER_C), 0x30);
}

#[test]
fn alarms_are_found_whatever_the_notation() {
    for control in [0x00, 0x02, 0x04, 0x06] {
        let mut bench = Bench::new();
        bench.put(REGISTER_B, control | ALARM);
        let notation = Notation { binary: control & 4 != 0, hours_24: control & 2 != 0 };
        bench.put(SECONDS_ALARM, notation.encode(59));
        bench.put(MINUTES_ALARM, notation.encode(9));
        bench.put(HOURS_ALARM, notation.encode_hour(14));
        assert_eq!(bench.rtc.deadline(), Some((3 + 14 * 3600 + 9 * 60 + 59) * SECOND));
    }
}

#[test]
fn the_periodic_interrupt_keeps_its_rate() {
    for (rate, nanoseconds) in [(6, 976_562.5), (15, 5e8), (3, 122_070.312_5), (1, 3_906_250.0)] {
        let mut bench = Bench::new();
        bench.now = 12_345;
        bench.put(REGISTER_A, 0x20 | rate);
        bench.put(REGISTER_B, 0x42);
        let mut instants = Vec::new();
        for _ in 0..8 {
            let due = bench.rtc.deadline().unwrap();
            bench.rtc.advance(due);
            instants.push(due);
            bench.now = due;
            assert_eq!(bench.get(REGISTER_C) & 0xc0, 0xc0);
        }
        let expected = (1..=8).map(|count| 12_345 + (f64::from(count) * nanoseconds).ceil() as u64);
        // The rate of 6 was set at reset already: its origin is the machine's start.
        let offset = if rate == 6 { 12_345 } else { 0 };
        assert_eq!(instants, expected.map(|at| at - offset).collect::<Vec<_>>(), "{rate}");
    }
    let mut bench = Bench::new();
    bench.put(REGISTER_A, 0x20);
    bench.put(REGISTER_B, 0x42);
    assert_eq!(bench.rtc.deadline(), None, "rate 0 is none");
}

#[test]
fn missed_periods_are_counted() {
    let mut bench = Bench::new();
    bench.put(REGISTER_A, 0x2f);
    bench.put(REGISTER_B, 0x42);
    bench.rtc.advance(1_700_000_000);
    bench.now = 1_700_000_000;
    assert!(bench.rtc.irq_level());
    assert_eq!(bench.rtc.save().irq_coalesced, 2, "three periods, one interrupt");
    bench.get(REGISTER_C);
    assert_eq!(bench.rtc.deadline(), Some(2 * SECOND));
    bench.now = 2_600_000_000;
    bench.get(REGISTER_A);
    assert_eq!(bench.rtc.save().irq_coalesced, 3);
    bench.put(REGISTER_B, 0x02);
    assert_eq!(bench.rtc.save().irq_coalesced, 0);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.put(REGISTER_A, 0x2f);
    let good = bench.rtc.save();
    let wrong: [fn(&mut RtcState); 14] = [
        |state| state.index = 128,
        |state| state.cmos[REGISTER_A] |= A_UPDATING,
        |state| state.cmos[REGISTER_A] = 0x20,
        |state| state.cmos[REGISTER_B] = 0x92,
        |state| state.cmos[REGISTER_B] = 0x82,
        |state| state.cmos[REGISTER_C] = C_REQUEST,
        |state| state.cmos[REGISTER_D] = 0,
        |state| state.cmos[SECONDS] ^= 1,
        |state| state.base_nanoseconds = 1_000_000_000,
        |state| state.base_seconds = i64::MIN,
        |state| state.second += 1,
        |state| state.base_seconds += 1,
        |state| state.periodic_count = u64::MAX,
        |state| state.irq_coalesced = 1,
    ];
    bench.now = 5;
    bench.put(REGISTER_A, 0x2e);
    let good = RtcState { periodic_origin: 5, cmos: bench.rtc.save().cmos, ..good };
    bench.rtc.restore(&good).unwrap();
    for (index, spoil) in wrong.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(bench.rtc.restore(&state).is_err(), "{index}");
        assert_eq!(bench.rtc.save().cmos, good.cmos);
    }
}

impl Subject for Rtc {
    fn fresh() -> Self {
        Self::new(LEAP_DAY * SECOND as i64)
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        let index = match what / 16 % 16 {
            14 => CENTURY,
            index => index,
        };
        let mut data = [0];
        let index = index as u8 | (value >> 56 & 0x80) as u8;
        let select = |rtc: &mut Self, index: u8| rtc.write(now, 0, &[index]);
        match what % 16 {
            0..=5 => {
                select(self, index);
                self.write(now, 1, &[value as u8]);
            }
            // Settings that random writes seldom make: interrupts, and alarms that come.
            6 => {
                select(self, REGISTER_B as u8);
                self.write(now, 1, &[value as u8 & 0x76]);
            }
            7 => {
                select(self, REGISTER_A as u8);
                self.write(now, 1, &[0x20 | value as u8 & 0xf]);
            }
            8 => {
                select(self, [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM][what / 16 % 3] as u8);
                self.write(now, 1, &[if value & 1 == 0 { 0xff } else { value as u8 & 0x1f }]);
            }
            9 => select(self, value as u8),
            10 => self.write(now, 1, &[value as u8]),
            11 => {
                select(self, REGISTER_C as u8);
                self.read(now, 1, &mut data);
            }
            _ => {
                select(self, index);
                self.read(now, 1, &mut data);
            }
        }
        vec![data[0].into(), self.irq_level().into(), self.nmi_masked().into()]
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline()
    }

    fn advance(&mut self, now: u64) {
        self.advance(now);
    }

    fn sections(&self) -> Vec<SavedSection> {
        vec![SavedSection::encode("mc146818rtc", 0, &self.save())]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        sections[0].decode().is_ok_and(|state| self.restore(&state).is_ok())
    }
}

properties!(Rtc);
