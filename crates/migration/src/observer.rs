//! What a migration tells whoever watches it.

use std::time::Duration;

use crate::RoundStats;

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The two sides greet each other.
    Greeting,
    /// The destination builds the machine.
    Building,
    /// Memory flows and the guest runs.
    Memory,
    /// The guest is stopped; the rest flows and is checked.
    SwitchOver,
    /// The grant is given.
    Granting,
    /// The guest runs at the destination; pages that were missing there flow.
    PostCopy,
    /// It is over.
    Over,
}

/// How far a migration has come. At the destination only the counters of bytes and pages are
/// filled in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// The round, from 1; 0 before the first.
    pub round: u32,
    /// Pages of this round that are done.
    pub round_pages_done: u64,
    /// Pages of this round.
    pub round_pages: u64,
    /// Pages of memory.
    pub memory_pages: u64,
    /// Bytes of stream so far, in all rounds.
    pub bytes: u64,
    /// Since the beginning.
    pub elapsed: Duration,
    /// Bytes of stream a second, measured over the last rounds.
    pub link_rate: Option<u64>,
    /// Bytes of memory that the guest dirtied a second in the round before.
    pub dirty_rate: Option<u64>,
    /// For how long the guest would stand still with what was left after the round before.
    pub estimated_downtime: Option<Duration>,
    /// Percentage taken from the vCPUs.
    pub throttle: u8,
}

/// Watches a migration. The calls come from the thread that does the work, a few times a second,
/// and should return at once.
pub trait Observer {
    /// It has come this far.
    fn progress(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// A round is over.
    fn round(&mut self, stats: &RoundStats) {
        let _ = stats;
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
