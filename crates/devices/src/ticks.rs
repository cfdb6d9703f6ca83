//! Exact conversion between virtual nanoseconds and the ticks of a device's input clock.
//!
//! Devices keep the instant at which a count started and compute every position from it, so that
//! rounding never adds up.

const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

/// Whole ticks of a clock of `hz` in a span of nanoseconds.
pub(crate) fn ticks_in(nanoseconds: u64, hz: u64) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(hz) / NANOSECONDS_PER_SECOND;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The shortest span, in nanoseconds, that holds so many ticks of a clock of `hz`: the inverse of
/// [`ticks_in`].
pub(crate) fn span_of(ticks: u64, hz: u64) -> u64 {
    let span = (u128::from(ticks) * NANOSECONDS_PER_SECOND).div_ceil(u128::from(hz));
    u64::try_from(span).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_starts_where_its_span_ends() {
        // 1 / 1193182 Hz is 838.095... ns.
        assert_eq!(span_of(1, 1_193_182), 839);
        assert_eq!(ticks_in(838, 1_193_182), 0);
        assert_eq!(ticks_in(839, 1_193_182), 1);
        assert_eq!(ticks_in(1_000_000_000, 1_193_182), 1_193_182);
        assert_eq!(span_of(1_193_182, 1_193_182), 1_000_000_000);
        for ticks in [1, 2, 3, 1000, 65_535, 65_536, 1 << 40] {
            let span = span_of(ticks, 1_193_182);
            assert_eq!(ticks_in(span, 1_193_182), ticks);
            assert_eq!(ticks_in(span - 1, 1_193_182), ticks - 1);
        }
        assert_eq!(span_of(u64::MAX, 1), u64::MAX);
    }
}
