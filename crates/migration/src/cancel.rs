//! The operator's wish to end a migration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a migration from another thread, or from a signal handler: setting it takes no lock.
/// Clones are the same wish. It is heard within some 50 ms, and is no longer heard once ownership
/// has been given up.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Nobody wants anything to end yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the migration, if it can still be ended.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once somebody called [`Self::cancel`].
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for whoever waits on one (such as a listener).
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
