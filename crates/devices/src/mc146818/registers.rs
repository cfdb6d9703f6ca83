//! Bytes of the real-time clock's memory and their bits (Motorola MC146818A; century byte as in
//! the ACPI FADT of the board).

use super::calendar::{DateTime, Notation};

pub(super) const CMOS_SIZE: usize = 128;

pub(super) const SECONDS: usize = 0x00;
pub(super) const SECONDS_ALARM: usize = 0x01;
pub(super) const MINUTES: usize = 0x02;
pub(super) const MINUTES_ALARM: usize = 0x03;
pub(super) const HOURS: usize = 0x04;
pub(super) const HOURS_ALARM: usize = 0x05;
pub(super) const WEEKDAY: usize = 0x06;
pub(super) const DAY: usize = 0x07;
pub(super) const MONTH: usize = 0x08;
pub(super) const YEAR: usize = 0x09;
pub(super) const REGISTER_A: usize = 0x0a;
pub(super) const REGISTER_B: usize = 0x0b;
pub(super) const REGISTER_C: usize = 0x0c;
pub(super) const REGISTER_D: usize = 0x0d;
pub(super) const CENTURY: usize = 0x32;

/// Register A: an update is about to happen.
pub(super) const A_UPDATING: u8 = 1 << 7;
/// Register B: the clock stands while it is set.
pub(super) const B_SET: u8 = 1 << 7;
pub(super) const B_UPDATE_ENDED: u8 = 1 << 4;
pub(super) const B_BINARY: u8 = 1 << 2;
pub(super) const B_24_HOURS: u8 = 1 << 1;
/// Register C: an interrupt is requested.
pub(super) const C_REQUEST: u8 = 1 << 7;
/// Flags of register C and, in the same places, their enables in register B.
pub(super) const PERIODIC: u8 = 1 << 6;
pub(super) const ALARM: u8 = 1 << 5;
pub(super) const UPDATE_ENDED: u8 = 1 << 4;
pub(super) const FLAGS: u8 = PERIODIC | ALARM | UPDATE_ENDED;
/// Register D: the battery has kept the memory.
pub(super) const D_VALID: u8 = 1 << 7;

pub(super) type Cmos = [u8; CMOS_SIZE];

pub(super) fn notation(cmos: &Cmos) -> Notation {
    Notation {
        binary: cmos[REGISTER_B] & B_BINARY != 0,
        hours_24: cmos[REGISTER_B] & B_24_HOURS != 0,
    }
}

/// Whether the divider chain runs: register A does not hold it in reset or in a test mode.
pub(super) fn chain_runs(cmos: &Cmos) -> bool {
    cmos[REGISTER_A] & 0x70 <= 0x20
}

/// Whether the time of day goes on.
pub(super) fn clock_runs(cmos: &Cmos) -> bool {
    chain_runs(cmos) && cmos[REGISTER_B] & B_SET == 0
}

/// Ticks of 32768 Hz between periodic interrupts, if register A asks for them.
pub(super) fn periodic_ticks(cmos: &Cmos) -> Option<u64> {
    match cmos[REGISTER_A] & 0xf {
        _ if !chain_runs(cmos) => None,
        0 => None,
        rate @ 1..=2 => Some(1 << (rate + 6)),
        rate => Some(1 << (rate - 1)),
    }
}

pub(super) fn is_time(index: usize) -> bool {
    matches!(index, SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY)
}

/// The time that the registers show, whatever they were set to.
pub(super) fn shown_time(cmos: &Cmos) -> i64 {
    let notation = notation(cmos);
    let decode = |index: usize| notation.decode(cmos[index]);
    DateTime {
        year: 100 * decode(CENTURY) + decode(YEAR),
        month: (decode(MONTH) + 11) % 12 + 1,
        day: decode(DAY),
        hour: notation.decode_hour(cmos[HOURS]),
        minute: decode(MINUTES),
        second: decode(SECONDS),
    }
    .seconds()
}

/// Makes the registers show a time.
pub(super) fn show_time(cmos: &mut Cmos, seconds: i64) {
    let notation = notation(cmos);
    let time = DateTime::from_seconds(seconds);
    cmos[SECONDS] = notation.encode(time.second);
    cmos[MINUTES] = notation.encode(time.minute);
    cmos[HOURS] = notation.encode_hour(time.hour);
    cmos[WEEKDAY] = notation.encode(time.weekday());
    cmos[DAY] = notation.encode(time.day);
    cmos[MONTH] = notation.encode(time.month);
    cmos[YEAR] = notation.encode(time.year);
    cmos[CENTURY] = notation.encode(time.year.div_euclid(100));
}

/// Whether the alarm goes off at this second. An alarm byte of 0xc0 to 0xff matches everything.
pub(super) fn alarm_at(cmos: &Cmos, seconds: i64) -> bool {
    let notation = notation(cmos);
    let time = DateTime::from_seconds(seconds);
    [
        (SECONDS_ALARM, notation.encode(time.second)),
        (MINUTES_ALARM, notation.encode(time.minute)),
        (HOURS_ALARM, notation.encode_hour(time.hour)),
    ]
    .into_iter()
    .all(|(index, now)| alarm_matches(cmos[index], now))
}

fn alarm_matches(alarm: u8, now: u8) -> bool {
    alarm & 0xc0 == 0xc0 || alarm == now
}

/// The first second after this one at which the alarm goes off, if it ever does.
pub(super) fn next_alarm(cmos: &Cmos, after: i64) -> Option<i64> {
    use super::calendar::SECONDS_PER_DAY;
    let notation = notation(cmos);
    let midnight = after.div_euclid(SECONDS_PER_DAY) * SECONDS_PER_DAY;
    let matching = |index: usize, end: i64, encode: &dyn Fn(i64) -> u8| -> Vec<i64> {
        (0..end).filter(|number| alarm_matches(cmos[index], encode(*number))).collect()
    };
    let hours = matching(HOURS_ALARM, 24, &|hour| notation.encode_hour(hour));
    let minutes = matching(MINUTES_ALARM, 60, &|minute| notation.encode(minute));
    let seconds = matching(SECONDS_ALARM, 60, &|second| notation.encode(second));
    let days = [midnight, midnight + SECONDS_PER_DAY].into_iter();
    // One loop inside the other: the first hit is the earliest.
    days.flat_map(|day| hours.iter().map(move |hour| day + hour * 3600))
        .filter(|hour| hour + 3600 > after)
        .flat_map(|hour| minutes.iter().map(move |minute| hour + minute * 60))
        .filter(|minute| minute + 60 > after)
        .flat_map(|minute| seconds.iter().map(move |second| minute + second))
        .find(|second| *second > after)
}
