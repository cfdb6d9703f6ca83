//! How fast this host's time-stamp counter runs. Guests under QEMU's software emulation see it.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use accel_kvm::host_tsc_in_order;
use anyhow::{Result, bail};

/// Length of each of the two parts of a measurement.
const PART: Duration = Duration::from_millis(250);
/// Attempts to read both clocks at once.
const ATTEMPTS: usize = 200;
/// In how many millionths the two parts may differ.
const UNEVEN_PPM: f64 = 200.0;

/// A frequency that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// In kHz.
    pub khz: u64,
    /// How far off it may be, in millionths.
    ppm: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = 2 * PART.as_millis();
        write!(
            formatter,
            "measured on this host against its monotonic clock in {time} ms, to {:.0} millionths",
            self.ppm.max(1.0)
        )
    }
}

/// Both clocks, read within a time of each other.
struct Reading {
    before: Instant,
    ticks: u64,
    within: Duration,
}

impl Reading {
    /// The closest of some attempts.
    fn take() -> Self {
        let attempt = || {
            let before = Instant::now();
            let ticks = host_tsc_in_order();
            Self { before, ticks, within: before.elapsed() }
        };
        let attempts = (1..ATTEMPTS).map(|_| attempt());
        attempts.fold(attempt(), |best, next| if next.within < best.within { next } else { best })
    }

    fn until(&self, end: &Self) -> Measured {
        let ns = end.before.duration_since(self.before).as_nanos() as f64;
        let ticks = end.ticks.wrapping_sub(self.ticks) as f64;
        let khz = (ticks * 1e6 / ns).round() as u64;
        Measured { khz, ppm: (self.within + end.within).as_nanos() as f64 * 1e6 / ns }
    }
}

/// Measures the frequency, in two parts that have to agree.
///
/// # Errors
/// If they do not: then there is no one frequency.
pub fn measure() -> Result<Measured> {
    let start = Reading::take();
    thread::sleep(PART);
    let middle = Reading::take();
    thread::sleep(PART);
    let end = Reading::take();
    let (first, second) = (start.until(&middle), middle.until(&end));
    let apart = first.khz.abs_diff(second.khz) as f64 * 1e6 / first.khz.max(1) as f64;
    if apart > UNEVEN_PPM + first.ppm + second.ppm {
        bail!(
            "this host's time-stamp counter runs at {} kHz and then at {} kHz; give --tsc-khz, if \
             you know better",
            first.khz,
            second.khz
        );
    }
    Ok(start.until(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_follows_from_two_readings() {
        let before = Instant::now();
        let reading = |ms, ticks| Reading {
            before: before + Duration::from_millis(ms),
            ticks,
            within: Duration::from_nanos(250),
        };
        let measured = reading(0, u64::MAX).until(&reading(500, 1_249_999_999));
        assert_eq!(measured.khz, 2_500_000);
        assert_eq!(
            measured.to_string(),
            "measured on this host against its monotonic clock in 500 ms, to 1 millionths"
        );
    }
}
