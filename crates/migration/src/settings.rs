//! What the operator can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How much of memory the source's digest is computed over while the guest is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Each page is hashed as it is sent. Proves that the destination holds what was sent last,
    /// page by page; a store that the dirty log missed is missed here too.
    #[default]
    Incremental,
    /// All memory is hashed again while the guest stands still: at the source, so that what was
    /// sent is known to be what the source holds, and, if asked for there, at the destination
    /// once everything is loaded. Costs about a second for each few GiB.
    Full,
}

/// Lets the guest run at the destination before all of its memory is there.
#[derive(Clone, Debug, Default)]
pub struct PostCopy {
    /// After this many rounds of memory, even if little is left by then; 0 stops the guest at once.
    /// `None`: only when the rounds do not converge, or upon [`Self::switch`].
    pub after_rounds: Option<u32>,
    switch: Arc<AtomicBool>,
}

impl PostCopy {
    /// After so many rounds at the latest.
    pub fn after(rounds: u32) -> Self {
        Self { after_rounds: Some(rounds), ..Self::default() }
    }

    /// The operator's word, at any time while rounds of memory are sent: now. Clones hear it too.
    pub fn switch(&self) {
        self.switch.store(true, Ordering::Release);
    }

    /// True once somebody called [`Self::switch`].
    pub fn is_wanted_now(&self) -> bool {
        self.switch.load(Ordering::Acquire)
    }

    /// True if that many rounds are enough, or somebody wants it now.
    pub(crate) fn is_due(&self, rounds: usize) -> bool {
        self.is_wanted_now() || self.after_rounds.is_some_and(|after| rounds >= after as usize)
    }
}

impl PartialEq for PostCopy {
    fn eq(&self, other: &Self) -> bool {
        self.after_rounds == other.after_rounds && Arc::ptr_eq(&self.switch, &other.switch)
    }
}

/// Settings of a migration, on either side. [`Settings::default`] is what a live migration
/// between two hosts wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For how long the guest may stand still, up to the grant.
    pub downtime_limit: Duration,
    /// What happens when that was estimated wrongly and the limit passes all the same. `false`:
    /// the guest goes on at the source, for further rounds if possible; else the migration fails.
    /// `true`, the operator's word: it stands still for as long as it takes.
    pub allow_longer_pause: bool,
    /// Part of the limit that is kept for everything but memory: device state, the checks on both
    /// sides, the messages. At most half of the limit is used for it.
    pub switchover_reserve: Duration,
    /// Rounds of memory in which the guest is never stopped first. `false`: it is stopped at once
    /// and everything is sent once, for as long as it takes.
    pub live: bool,
    /// Bytes of stream a second at most; `None` for as much as the link carries.
    pub bandwidth_limit: Option<u64>,
    /// Rounds after which a guest that still dirties too fast is given up.
    pub max_rounds: u32,
    /// Rounds without progress after which it is given up (or its vCPUs are slowed further).
    pub patience: u32,
    /// Whether the vCPUs may be slowed to let the rounds converge.
    pub throttle: bool,
    /// Whether, and when, the guest may run at the destination before all of its memory is there.
    /// The source's word; it needs a destination that can do it, which is found out at the start.
    pub post_copy: Option<PostCopy>,
    /// How memory is checked.
    pub verify: Verify,
    /// How long the peer may take to answer the hello.
    pub hello_timeout: Duration,
    /// How long the destination may take to build the machine.
    pub build_timeout: Duration,
    /// How long a link may stand still while something should flow.
    pub io_timeout: Duration,
    /// How long the destination may take to load and check, if the pause is not limited, and to
    /// answer the grant.
    pub switchover_timeout: Duration,
    /// How often each side gives a sign of life when it has nothing else to say.
    pub keepalive_interval: Duration,
    /// How long the peer may be silent, once it has spoken, before the link is taken for lost: some
    /// intervals at least.
    pub keepalive_timeout: Duration,
    /// For how long a record that cannot be read is asked for before the grant is reported as
    /// unconfirmed.
    pub decide_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            downtime_limit: Duration::from_millis(300),
            allow_longer_pause: false,
            switchover_reserve: Duration::from_millis(60),
            live: true,
            bandwidth_limit: None,
            max_rounds: 30,
            patience: 5,
            throttle: false,
            post_copy: None,
            verify: Verify::Incremental,
            hello_timeout: Duration::from_secs(10),
            build_timeout: Duration::from_secs(60),
            io_timeout: Duration::from_secs(20),
            switchover_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(10),
            decide_timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// What saving to a file wants: the guest is stopped first and goes on from the file, so each
    /// page is written once, and all memory is checked.
    pub fn stop_and_save() -> Self {
        Self { live: false, allow_longer_pause: true, verify: Verify::Full, ..Self::default() }
    }

    /// Takes the link for lost after this much silence.
    #[must_use]
    pub fn with_idle_timeout(mut self, limit: Duration) -> Self {
        self.keepalive_timeout = limit;
        self.keepalive_interval = limit / 5;
        self
    }

    /// The part of the downtime limit that is not for memory.
    pub(crate) fn reserve(&self) -> Duration {
        self.switchover_reserve.min(self.downtime_limit / 2)
    }
}
