//! When to stop the guest: a pure decision over the numbers of each round.

use std::fmt;
use std::time::Duration;

use crate::Settings;

/// Bytes that a page and its record take in the stream, at most on average.
const PAGE_COST: u64 = memory::PAGE_SIZE as u64 + 8;
/// Pages with content below which a round is too short to tell how fast the link is.
const TELLING_PAGES: u64 = 256;
/// A round that leaves more than this part (in percent) of the least so far made no progress.
const PROGRESS_PERCENT: u64 = 90;
/// The first step of the throttle, the next ones, and the last.
const THROTTLE: (u8, u8, u8) = (20, 10, 99);
/// Rounds without progress before the throttle's next step.
const THROTTLE_PATIENCE: u32 = 2;

/// One round of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoundStats {
    /// From 1.
    pub round: u32,
    /// Pages sent with their content.
    pub pages: u64,
    /// Pages sent as "all zeroes".
    pub zero_pages: u64,
    /// Bytes of stream.
    pub bytes: u64,
    /// From its first page to the destination's word that everything is placed.
    pub duration: Duration,
    /// Pages that the guest stored to in the meantime.
    pub dirtied: u64,
    /// The time over which they were counted.
    pub dirtied_over: Duration,
    /// Percentage taken from the vCPUs during the round.
    pub throttle: u8,
    /// Whether the guest was stopped for it.
    pub paused: bool,
}

fn rate(amount: u64, over: Duration) -> u64 {
    let nanoseconds = over.as_nanos().max(1);
    u64::try_from(u128::from(amount) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

impl RoundStats {
    /// Bytes of stream a second.
    pub fn bytes_per_second(&self) -> u64 {
        rate(self.bytes, self.duration)
    }

    /// Bytes of memory that the guest dirtied a second.
    pub fn dirty_bytes_per_second(&self) -> u64 {
        rate(self.dirtied * memory::PAGE_SIZE as u64, self.dirtied_over)
    }
}

/// Why the rounds do not come to an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotConverging {
    /// Rounds that were sent.
    pub rounds: u32,
    /// Bytes a second that the guest dirties.
    pub dirty_rate: u64,
    /// Bytes a second that the link carries.
    pub link_rate: u64,
    /// How long the guest would have to stand still now.
    pub estimate: Duration,
    /// How long it may.
    pub limit: Duration,
    /// Percentage taken from the vCPUs, if that was allowed.
    pub throttle: Option<u8>,
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match STEPS.into_iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                if tenths >= 1000 {
                    write!(formatter, "{} {unit}", tenths / 10)
                } else {
                    write!(formatter, "{}.{} {unit}", tenths / 10, tenths % 10)
                }
            }
            None => write!(formatter, "{} bytes", self.0),
        }
    }
}

impl fmt::Display for NotConverging {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the guest dirties {}/s, the link carries {}/s, and after {} rounds the rest would \
             stop it for {} ms of an allowed {} ms; ",
            Bytes(self.dirty_rate),
            Bytes(self.link_rate),
            self.rounds,
            self.estimate.as_millis(),
            self.limit.as_millis(),
        )?;
        match self.throttle {
            None => formatter.write_str("use --throttle or a larger --downtime-limit"),
            Some(percent) => write!(
                formatter,
                "its vCPUs were slowed by {percent} % already: use a larger --downtime-limit"
            ),
        }
    }
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Stop the guest: the rest fits into the limit.
    Pause,
    /// Send another round.
    Again,
    /// Slow the vCPUs by this percentage, and send another round.
    Throttle(u8),
    /// It does not converge.
    GiveUp(NotConverging),
}

/// The memory of the decision.
#[derive(Debug)]
pub(crate) struct Convergence {
    limit: Duration,
    reserve: Duration,
    max_rounds: u32,
    patience: u32,
    may_throttle: bool,
    throttle: u8,
    /// Bytes a second, once a round was long enough to tell.
    link_rate: Option<u64>,
    least_left: u64,
    idle_rounds: u32,
    rounds: u32,
    last: RoundStats,
    any_length: bool,
}

impl Convergence {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            limit: settings.downtime_limit,
            reserve: settings.reserve(),
            max_rounds: settings.max_rounds,
            patience: settings.patience,
            may_throttle: settings.throttle,
            throttle: 0,
            link_rate: None,
            least_left: u64::MAX,
            idle_rounds: 0,
            rounds: 0,
            last: RoundStats::default(),
            any_length: settings.allow_longer_pause,
        }
    }

    /// What was taken from the vCPUs, in percent.
    pub(crate) fn throttle(&self) -> u8 {
        self.throttle
    }

    /// Bytes a second that the link carries, as far as is known.
    pub(crate) fn link_rate(&self) -> Option<u64> {
        self.link_rate
    }

    /// How long the guest would stand still if it were stopped with `pages` left.
    pub(crate) fn estimate(&self, pages: u64) -> Duration {
        self.transfer(pages).saturating_add(self.reserve)
    }

    /// How long `pages` take on the link.
    pub(crate) fn transfer(&self, pages: u64) -> Duration {
        let rate = self.link_rate.unwrap_or(1).max(1);
        let nanoseconds = u128::from(pages * PAGE_COST) * 1_000_000_000 / u128::from(rate);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Learns the speed of the link from some transfer.
    pub(crate) fn learn(&mut self, stats: &RoundStats) {
        let rate = stats.bytes_per_second();
        self.link_rate = Some(match self.link_rate {
            // Zero pages cost the scan of memory and hardly any bytes; a few pages cost a round
            // trip and hardly any time on the link. Neither tells how fast the link is.
            Some(known) if stats.pages < TELLING_PAGES => known.max(rate),
            _ => rate,
        });
    }

    /// Decides after a round that leaves `left` pages to be sent.
    pub(crate) fn round_done(&mut self, stats: RoundStats, left: u64) -> Decision {
        self.rounds += 1;
        self.learn(&stats);
        self.last = stats;
        if self.estimate(left) <= self.limit {
            return Decision::Pause;
        }
        let progress =
            u128::from(left) * 100 <= u128::from(self.least_left) * u128::from(PROGRESS_PERCENT);
        self.least_left = self.least_left.min(left);
        self.idle_rounds = if progress { 0 } else { self.idle_rounds + 1 };
        self.go_on(left)
    }

    /// Decides after the guest had to be let go on because `left` pages were too many.
    pub(crate) fn pulled_back(&mut self, left: u64) -> Decision {
        self.idle_rounds += 1;
        self.go_on(left)
    }

    fn go_on(&mut self, left: u64) -> Decision {
        if self.may_throttle
            && self.throttle < THROTTLE.2
            && self.idle_rounds >= THROTTLE_PATIENCE
            && self.rounds < self.max_rounds
        {
            self.throttle = match self.throttle {
                0 => THROTTLE.0,
                percent => (percent + THROTTLE.1).min(THROTTLE.2),
            };
            self.idle_rounds = 0;
            self.least_left = left;
            return Decision::Throttle(self.throttle);
        }
        if self.rounds >= self.max_rounds || self.idle_rounds >= self.patience {
            if self.any_length {
                return Decision::Pause;
            }
            return Decision::GiveUp(NotConverging {
                rounds: self.rounds,
                dirty_rate: self.last.dirty_bytes_per_second(),
                link_rate: self.link_rate.unwrap_or(0),
                estimate: self.estimate(left),
                limit: self.limit,
                throttle: self.may_throttle.then_some(self.throttle),
            });
        }
        Decision::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that dirties `rate` pages a second out of `set`, on a link of `link` pages a second.
    fn simulate(settings: &Settings, rate: u64, set: u64, link: u64) -> (Decision, u32) {
        let mut convergence = Convergence::new(settings);
        let mut left = 100_000;
        for round in 1.. {
            let duration = Duration::from_secs_f64(left as f64 / link as f64);
            let slowed = rate as f64 * f64::from(100 - convergence.throttle()) / 100.0;
            let dirtied = ((duration.as_secs_f64() * slowed) as u64).min(set);
            let stats = RoundStats {
                round,
                pages: left,
                bytes: left * PAGE_COST,
                duration,
                dirtied,
                dirtied_over: duration,
                ..RoundStats::default()
            };
            left = dirtied;
            match convergence.round_done(stats, left) {
                Decision::Again | Decision::Throttle(_) => {}
                other => return (other, round),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_slow_guest_converges_and_the_rest_fits() {
        let settings = Settings::default();
        let (decision, rounds) = simulate(&settings, 20_000, 100_000, 50_000);
        assert_eq!(decision, Decision::Pause);
        assert!((2..8).contains(&rounds), "{rounds}");
        // Nothing is dirtied: one round.
        assert_eq!(simulate(&settings, 0, 1, 50_000), (Decision::Pause, 1));
    }

    #[test]
    fn a_fast_guest_is_given_up_with_its_numbers() {
        let (decision, rounds) = simulate(&Settings::default(), 200_000, 100_000, 100_000);
        let Decision::GiveUp(why) = decision else { panic!("{decision:?}") };
        assert!(rounds <= 7, "{rounds}");
        let text = why.to_string();
        assert!(text.contains("the guest dirties 390 MiB/s"), "{text}");
        assert!(text.contains("the link carries 391 MiB/s"), "{text}");
        assert!(text.contains("use --throttle or a larger --downtime-limit"), "{text}");
    }

    #[test]
    fn the_throttle_steps_until_it_converges() {
        let settings = Settings { throttle: true, ..Settings::default() };
        let (decision, _) = simulate(&settings, 200_000, 100_000, 100_000);
        assert_eq!(decision, Decision::Pause);
        // A link so slow that even 99 % does not help.
        let (decision, rounds) = simulate(&settings, 20_000_000, 100_000, 1_000);
        let Decision::GiveUp(why) = decision else { panic!("{decision:?}") };
        assert!(rounds <= settings.max_rounds);
        assert!(why.throttle.is_some_and(|percent| percent > 20));
    }

    #[test]
    fn the_operators_word_ends_the_rounds_with_a_pause() {
        let settings = Settings { allow_longer_pause: true, ..Settings::default() };
        let (decision, _) = simulate(&settings, 200_000, 100_000, 100_000);
        assert_eq!(decision, Decision::Pause);
    }

    #[test]
    fn a_round_of_zero_pages_does_not_hide_a_fast_link() {
        let mut convergence = Convergence::new(&Settings::default());
        let fast = RoundStats {
            pages: 10_000,
            bytes: 10_000 * PAGE_COST,
            duration: Duration::from_millis(40),
            ..RoundStats::default()
        };
        convergence.learn(&fast);
        let known = convergence.link_rate();
        let zeroes = RoundStats {
            zero_pages: 10_000,
            bytes: 90_000,
            duration: Duration::from_millis(10),
            ..RoundStats::default()
        };
        convergence.learn(&zeroes);
        assert_eq!(convergence.link_rate(), known);
    }

    #[test]
    fn amounts_read_well() {
        for (bytes, text) in [
            (12, "12 bytes"),
            (1536, "1.5 KiB"),
            (900 << 20, "900 MiB"),
            (u64::MAX, "17179869183 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
