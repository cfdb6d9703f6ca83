//! Time and threads, as the engine uses them: the operating system's. The simulator of this crate's
//! tests puts its own in their place.

#[cfg(not(test))]
mod system {
    use std::io;
    use std::sync::{Condvar, MutexGuard, PoisonError};
    use std::time::Duration;

    pub(crate) use std::thread::{JoinHandle, sleep};
    pub(crate) use std::time::Instant;

    /// Starts a thread.
    pub(crate) fn spawn<T: Send + 'static>(
        name: &str,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        std::thread::Builder::new().name(name.to_owned()).spawn(run)
    }

    /// Tells those who wait that something has changed.
    #[derive(Debug, Default)]
    pub(crate) struct Changed(Condvar);

    impl Changed {
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Waits for a change, not longer than this, and perhaps for no reason.
        pub(crate) fn wait<'a, T>(
            &self,
            _lock: impl FnOnce() -> MutexGuard<'a, T>,
            guard: MutexGuard<'a, T>,
            limit: Duration,
        ) -> MutexGuard<'a, T> {
            self.0.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

#[cfg(test)]
pub(crate) use crate::sim::time::*;
#[cfg(not(test))]
pub(crate) use system::*;
