//! The proleptic Gregorian calendar, and the clock registers' way to write a time of it.

pub(super) const SECONDS_PER_DAY: i64 = 86_400;

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: i64,
    /// Day of the month, from 1.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

/// Days before the year's first of March, counted from 1 March of year 0.
fn days_before_march(year: i64) -> i64 {
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)
}

/// Days from 1 March to the first of a month, which is counted from March: months come in groups
/// of five with 153 days.
fn days_before_month(month: i64) -> i64 {
    (153 * month + 2) / 5
}

/// 1 January 1970, counted from 1 March of year 0.
const EPOCH: i64 = 719_468;

impl DateTime {
    /// The time that is so many seconds after the beginning of 1970.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let day = seconds.div_euclid(SECONDS_PER_DAY) + EPOCH;
        let time = seconds.rem_euclid(SECONDS_PER_DAY);
        // An estimate that is never too low and at most one year too high.
        let mut year = (day * 400).div_euclid(146_097) + 1;
        while days_before_march(year) > day {
            year -= 1;
        }
        let rest = day - days_before_march(year);
        let month = (5 * rest + 2) / 153;
        let january = month >= 10;
        Self {
            year: year + i64::from(january),
            month: if january { month - 9 } else { month + 3 },
            day: rest - days_before_month(month) + 1,
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// Seconds since the beginning of 1970. Days and times past their range count on; the month
    /// must be one.
    pub(super) fn seconds(&self) -> i64 {
        let (year, month) = if self.month > 2 {
            (self.year, self.month - 3)
        } else {
            (self.year - 1, self.month + 9)
        };
        let days = days_before_march(year) + days_before_month(month) + self.day - 1 - EPOCH;
        days * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// Day of the week, from 1 for Sunday.
    pub(super) fn weekday(&self) -> i64 {
        let days = self.seconds().div_euclid(SECONDS_PER_DAY);
        // 1 January 1970 was a Thursday.
        (days + 4).rem_euclid(7) + 1
    }
}

/// How the registers write numbers: register B's DM and 24/12 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notation {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

impl Notation {
    /// The register's byte for a number of 0 to 99.
    pub(super) fn encode(self, number: i64) -> u8 {
        let number = number.rem_euclid(100) as u8;
        if self.binary { number } else { 16 * (number / 10) + number % 10 }
    }

    pub(super) fn decode(self, byte: u8) -> i64 {
        i64::from(if self.binary { byte } else { (byte >> 4) * 10 + (byte & 0xf) })
    }

    pub(super) fn encode_hour(self, hour: i64) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let clock = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(clock) | if hour >= 12 { 0x80 } else { 0 }
    }

    pub(super) fn decode_hour(self, byte: u8) -> i64 {
        if self.hours_24 {
            return self.decode(byte);
        }
        self.decode(byte & 0x7f) % 12 + if byte & 0x80 != 0 { 12 } else { 0 }
    }
}
