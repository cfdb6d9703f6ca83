//! The cap on bandwidth: a token bucket without a clock of its own.

use crate::time::Instant;
use std::time::Duration;

/// How much may flow at once after a silence, as a part of a second.
const BURST: Duration = Duration::from_millis(50);

/// Tells after each write how long to wait before the next.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    /// When everything that was written would have been written at exactly the rate.
    paid_until: Option<Instant>,
}

impl Bucket {
    /// `rate` in bytes a second.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid_until: None }
    }

    /// How long to wait, `bytes` having been written at `now`.
    pub(crate) fn after(&mut self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let paid_until = self.paid_until.unwrap_or(earliest).max(earliest) + cost;
        self.paid_until = Some(paid_until);
        paid_until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time_and_silence_is_not_saved_up() {
        let mut bucket = Bucket::new(1_000_000);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += bucket.after(10_000, now);
        }
        let took = now - start;
        assert!(
            took > Duration::from_millis(940) && took <= Duration::from_millis(1000),
            "{took:?}"
        );
        now += Duration::from_secs(60);
        assert_eq!(bucket.after(10_000, now), Duration::ZERO);
        let wait = (0..9).map(|_| bucket.after(10_000, now)).max().unwrap();
        assert!(wait >= Duration::from_millis(49), "{wait:?}");
    }
}
