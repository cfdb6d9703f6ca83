//! What the engine asks of a machine. A machine implements [`MigrationSource`] to be moved away
//! and [`MigrationTarget`] to be received; the engine knows nothing else about it.
//!
//! Every method is called from the one thread that called the engine. Whoever implements them
//! synchronises with the vCPU and device threads behind them.

use std::fmt;
use std::sync::Arc;

use memory::{DirtyBitmap, GuestRam};
use vmstate::SavedSection;

use crate::destination::Filling;

/// Why something a machine was asked for did not happen. The engine adds what it was doing.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Schemas of a machine's sections, as the stream's reader and writer ask for them.
pub type SharedSchemas = Arc<dyn stream::Schemas>;

/// The destination's answer to a machine or a state that it cannot take: every difference that was
/// found, each a sentence that names the thing. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    reasons: Vec<String>,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()] }
    }

    /// A refusal for every reason in a list, or `None` if the list is empty.
    pub fn from_reasons(reasons: Vec<String>) -> Option<Self> {
        (!reasons.is_empty()).then_some(Self { reasons })
    }

    /// The reasons, in the order in which they were found.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reasons.join("; "))
    }
}

impl std::error::Error for Refusal {}

/// A running (or paused) machine that can be moved away.
///
/// The engine calls in this order: the descriptions; [`start_dirty_log`](Self::start_dirty_log);
/// [`harvest_dirty`](Self::harvest_dirty) once a round; [`pause`](Self::pause); `harvest_dirty`
/// once more; [`save`](Self::save). It may then [`resume`](Self::resume) and go on with further
/// rounds, or [`release`](Self::release). After a failure that leaves the guest here it calls
/// [`retake`](Self::retake) (if it had released), `resume` (if it had paused) and
/// [`stop_dirty_log`](Self::stop_dirty_log): the machine is as if nothing had been tried.
pub trait MigrationSource: Send {
    /// The machine type's name for the configuration section, such as `ferry-1`.
    fn machine_type(&self) -> String;

    /// The machine configuration as a flattened device tree.
    fn machine(&self) -> Vec<u8>;

    /// Schemas of all sections that [`save`](Self::save) returns.
    fn schemas(&self) -> SharedSchemas;

    /// A handle on guest memory. Pages are read through it while the guest runs; a page that is
    /// stored to during or after the read must be in the next harvest.
    fn ram(&self) -> GuestRam;

    /// True if the guest was running when the migration began: after a failure it is left as it
    /// was found.
    fn was_running(&self) -> bool;

    /// Starts to log stores to memory, by vCPUs and devices. From its return on, every store is in
    /// some later harvest.
    ///
    /// # Errors
    /// If stores cannot be logged.
    fn start_dirty_log(&mut self) -> Result<(), Cause>;

    /// Ends the log. Called only if [`start_dirty_log`](Self::start_dirty_log) succeeded.
    fn stop_dirty_log(&mut self);

    /// Takes the pages stored to since the last harvest (or the start of the log) and clears them,
    /// at an instant at which no vCPU holds a write translation that bypasses the log.
    ///
    /// # Errors
    /// If the vCPUs could not be brought to such an instant.
    fn harvest_dirty(&mut self) -> Result<DirtyBitmap, Cause>;

    /// Stops vCPUs, devices and clocks. When it returns nothing stores to memory any more, and
    /// in-flight requests are finished or will be in the saved state. Harmless if paused already.
    ///
    /// # Errors
    /// If the guest could not be stopped; it is then still running.
    fn pause(&mut self) -> Result<(), Cause>;

    /// Lets the guest go on from where [`pause`](Self::pause) stopped it. Called only if
    /// [`was_running`](Self::was_running) said so.
    ///
    /// # Errors
    /// If the guest could not be started; it is then still paused.
    fn resume(&mut self) -> Result<(), Cause>;

    /// The state of every device and vCPU, in the order in which it goes into the stream. Called
    /// only while paused; changes nothing, and stores nothing to guest memory.
    ///
    /// # Errors
    /// If some state cannot be described; names the device.
    fn save(&mut self) -> Result<Vec<SavedSection>, Cause>;

    /// Makes all writes to the disks durable and lets go of them, so that another process can take
    /// them. Called only while paused, just before the grant.
    ///
    /// # Errors
    /// If they are not durable. Nothing was let go of then.
    fn release(&mut self) -> Result<(), Cause>;

    /// Takes back what [`release`](Self::release) let go of: the guest stays here after all. Called
    /// before [`resume`](Self::resume).
    ///
    /// # Errors
    /// If somebody else has taken it meanwhile.
    fn retake(&mut self) -> Result<(), Cause>;

    /// Takes this percentage of time from the vCPUs, 0 to 99; 0 ends it. A machine that cannot
    /// slow its vCPUs says so with an error.
    ///
    /// # Errors
    /// If the vCPUs cannot be slowed.
    fn throttle(&mut self, percent: u8) -> Result<(), Cause>;
}

/// A machine that is to be built from a stream, in a process that knows nothing of it yet.
///
/// The engine calls in this order: [`build`](Self::build); memory is filled through
/// [`ram`](Self::ram); [`load`](Self::load); [`save`](Self::save); and, once the machine is owned
/// here, [`run`](Self::run). On any failure before that it calls [`discard`](Self::discard), once,
/// instead.
pub trait MigrationTarget: Send {
    /// Builds the machine from the device tree and the host configuration, and checks everything
    /// that can be checked before state flows. Memory is all zeroes (or holds what the engine will
    /// overwrite), nothing runs.
    ///
    /// # Errors
    /// The list of all differences that were found, each named.
    fn build(&mut self, machine_type: &str, machine: &[u8]) -> Result<(), Refusal>;

    /// Schemas of the sections this machine can load. Called only after [`build`](Self::build).
    fn schemas(&self) -> SharedSchemas;

    /// A handle on guest memory. Called only after [`build`](Self::build).
    fn ram(&self) -> GuestRam;

    /// Takes the state of all devices and vCPUs: decodes and validates every section, and that
    /// each section the machine needs is there exactly once, before it changes anything. Stores
    /// nothing to guest memory.
    ///
    /// # Errors
    /// What does not fit, each named.
    fn load(&mut self, sections: &[SavedSection]) -> Result<(), Refusal>;

    /// Saves the state that was just loaded. The engine compares it with what came: the same
    /// sections in the same order with the same bytes.
    ///
    /// # Errors
    /// If some state cannot be described; names the device.
    fn save(&mut self) -> Result<Vec<SavedSection>, Cause>;

    /// The guest will run before all of its memory is here: called just before [`run`](Self::run).
    /// Whoever touches a missing page waits for it, so the guest may be stopped, saved or moved
    /// on only once [`Filling::is_complete`] says that everything is here.
    fn filling(&mut self, filling: &Filling) {
        let _ = filling;
    }

    /// Takes the disks and lets the guest go on. This side owns the machine from just before this
    /// call. A guest that
    /// was paused by its operator before the move stays paused, if its state says so.
    ///
    /// # Errors
    /// If the guest cannot be started. It is then paused here, still owned by this side.
    fn run(&mut self) -> Result<(), Cause>;

    /// Throws away what was built. Harmless if nothing was.
    fn discard(&mut self);
}
