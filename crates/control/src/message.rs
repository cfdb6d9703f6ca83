//! What goes over the socket.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use migration::{Outcome, PostCopy, Progress, Serving, Settings, Verify};
use serde::{Deserialize, Serialize};

/// Bytes of a line at most: certificates travel in one.
pub const MAX_LINE: usize = 1024 * 1024;

/// By what a machine's process proves itself to the destination of a move, and whom it expects
/// there. The operator's command reads the files: the process may have no right to, or may run in
/// another folder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// This host's certificate and those of intermediate authorities, in PEM.
    pub certificate: String,
    /// Its private key, in PEM.
    pub key: String,
    /// Authorities whose word is taken, in PEM.
    pub authorities: String,
    /// The destination's name; `None` for the host in the address.
    pub peer: Option<String>,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsSettings").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What an operator may set for one migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateSettings {
    /// For how long the guest may stand still, in milliseconds.
    pub downtime_limit_ms: Option<u64>,
    /// Bytes a second at most.
    pub bandwidth: Option<u64>,
    /// Whether the vCPUs may be slowed.
    pub throttle: bool,
    /// Whether all memory is hashed again while the guest stands still.
    pub verify_full: bool,
    /// Rounds at most.
    pub max_rounds: Option<u32>,
    /// Whether the guest may stand still for longer than the limit.
    pub allow_longer_pause: bool,
    /// By what the two sides prove themselves to each other; `None` for plain text.
    pub tls: Option<TlsSettings>,
    /// Whether plain text may leave this host.
    pub insecure: bool,
    /// For how long the destination may be silent, in milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// Whether the guest may run at the destination before all of its memory is there.
    pub post_copy: bool,
    /// If so, after how many rounds at the latest.
    pub post_copy_after: Option<u32>,
    /// The guest runs at the destination already and misses memory: go on over a new link.
    pub recover: bool,
    /// The destination is a QEMU.
    pub to_qemu: bool,
}

impl MigrateSettings {
    /// The engine's settings, from these and its defaults.
    pub fn resolve(&self, two_way: bool) -> Settings {
        let mut settings = if two_way { Settings::default() } else { Settings::stop_and_save() };
        if let Some(limit) = self.downtime_limit_ms {
            settings.downtime_limit = Duration::from_millis(limit);
        }
        settings.bandwidth_limit = self.bandwidth;
        settings.throttle = self.throttle;
        settings.allow_longer_pause |= self.allow_longer_pause;
        if self.verify_full {
            settings.verify = Verify::Full;
        }
        if let Some(limit) = self.idle_timeout_ms {
            settings = settings.with_idle_timeout(Duration::from_millis(limit));
        }
        if self.post_copy {
            let post_copy = self.post_copy_after.map_or_else(PostCopy::default, PostCopy::after);
            settings.post_copy = Some(post_copy);
        }
        if let Some(rounds) = self.max_rounds {
            settings.max_rounds = rounds;
        }
        settings
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the machine is doing.
    Status,
    /// Stop the guest.
    Pause,
    /// Let the guest go on.
    Resume,
    /// End the machine.
    Quit,
    /// Press the power button.
    PowerButton,
    /// Move the guest away.
    Migrate {
        /// Where to: `tcp:`, `unix:`, `exec:`, `file:`.
        address: String,
        /// How.
        settings: MigrateSettings,
    },
    /// Cancel the migration that runs on this connection.
    Cancel,
    /// Let the guest that is being moved run at the destination now, before all of its memory is
    /// there.
    PostCopy,
    /// Listen for the source of a machine that misses memory.
    Listen {
        /// Where: `tcp:` or `unix:`.
        address: String,
    },
    /// Who owns the machine, and how that is known.
    Owner,
    /// What the machine is, and which files are behind it here.
    Machine,
    /// Say what became of a grant that nobody could confirm.
    Resolve {
        /// The guest runs nowhere else and shall run here; if false, it runs elsewhere.
        run_here: bool,
    },
}

/// A machine at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The machine's name.
    pub name: String,
    /// `running`, `paused`, `unconfirmed` (paused, and perhaps granted away), `gone`, or how it
    /// ended; in words, if it runs here without all of its memory, or elsewhere without what is
    /// still here.
    pub state: String,
    /// The process.
    pub pid: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Instructions executed since it first started.
    pub instructions: u64,
    /// Virtual nanoseconds since then.
    pub virtual_ns: u64,
    /// Percentage of time taken from the vCPUs.
    pub throttle: u8,
}

/// Who owns a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerReport {
    /// The machine's identity.
    pub vm: String,
    /// The process that answers.
    pub process: String,
    /// Where the record is kept; `None` if none is.
    pub place: Option<String>,
    /// What it says, or why it cannot be read.
    pub record: Option<String>,
    /// A grant was not confirmed: the guest is paused here, and may run elsewhere.
    pub unconfirmed: bool,
}

/// What a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineReport {
    /// Its device tree, flattened.
    pub tree: Vec<u8>,
    /// The files behind its disks on this host, by the disks' ids; absolute.
    pub disks: BTreeMap<String, String>,
}

/// How far a migration has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgressReport {
    /// What is going on.
    pub phase: String,
    /// The round, from 1.
    pub round: u32,
    /// Pages of this round that are done.
    pub pages_done: u64,
    /// Pages of this round.
    pub pages: u64,
    /// Bytes of stream so far.
    pub bytes: u64,
    /// Bytes a second.
    pub link_rate: Option<u64>,
    /// Bytes of memory dirtied a second.
    pub dirty_rate: Option<u64>,
    /// Estimated downtime in milliseconds.
    pub estimated_downtime_ms: Option<u64>,
}

impl From<&Progress> for ProgressReport {
    fn from(progress: &Progress) -> Self {
        Self {
            phase: format!("{:?}", progress.phase).to_lowercase(),
            round: progress.round,
            pages_done: progress.round_pages_done,
            pages: progress.round_pages,
            bytes: progress.bytes,
            link_rate: progress.link_rate,
            dirty_rate: progress.dirty_rate,
            estimated_downtime_ms: progress
                .estimated_downtime
                .map(|estimate| u64::try_from(estimate.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// One round of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundReport {
    /// From 1.
    pub round: u32,
    /// Pages sent whole.
    pub pages: u64,
    /// Pages sent as zeroes.
    pub zero_pages: u64,
    /// Bytes of stream.
    pub bytes: u64,
    /// Microseconds that it took.
    pub duration_us: u64,
    /// Pages that the guest stored to meanwhile.
    pub dirtied: u64,
    /// The guest stood still for it.
    pub paused: bool,
}

/// A migration that went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Microseconds in all.
    pub total_us: u64,
    /// Microseconds for which the guest stood still.
    pub downtime_us: u64,
    /// Bytes of stream.
    pub bytes: u64,
    /// The rounds.
    pub rounds: Vec<RoundReport>,
    /// Whether somebody said that it arrived.
    pub confirmed: bool,
    /// Pages of memory that came after the guest ran there.
    pub late_pages: u64,
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<&Outcome> for Summary {
    fn from(outcome: &Outcome) -> Self {
        Self {
            total_us: microseconds(outcome.total),
            downtime_us: microseconds(outcome.downtime),
            bytes: outcome.bytes,
            rounds: outcome
                .rounds
                .iter()
                .map(|round| RoundReport {
                    round: round.round,
                    pages: round.pages,
                    zero_pages: round.zero_pages,
                    bytes: round.bytes,
                    duration_us: microseconds(round.duration),
                    dirtied: round.dirtied,
                    paused: round.paused,
                })
                .collect(),
            confirmed: outcome.confirmed,
            late_pages: outcome.owed.as_ref().map_or(0, Serving::pages),
        }
    }
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It was done.
    Done,
    /// It listens here.
    Listening {
        /// The address, with the port that was found.
        address: String,
    },
    /// What the machine is doing.
    Status(Status),
    /// A migration has come this far; more replies follow.
    Progress(ProgressReport),
    /// Who owns the machine.
    Owner(OwnerReport),
    /// What the machine is.
    Machine(MachineReport),
    /// The guest has moved.
    Moved(Summary),
    /// It was not done.
    Failed {
        /// Why, and what state that leaves.
        reason: String,
    },
}
