//! Signs of life. A thread of its own says "alive" whenever nothing else was sent for a while, and
//! ends a channel on which nothing was heard for longer: a link that is half open, a host that is
//! gone without a word, and a process that is stopped look the same from here.

use crate::time::Instant;
use crate::time::JoinHandle;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use transport::Control;

use crate::envelope::FrameError;
use crate::outbound::Beat;
use crate::queue::Queue;
use crate::settings::Settings;

/// What was heard of the peer last, and whether it was too long ago.
#[derive(Debug)]
pub(crate) struct Signs {
    since: Instant,
    /// Milliseconds after `since`, plus one; 0 before the first byte.
    heard: AtomicU64,
    silent: AtomicBool,
    limit: Duration,
}

impl Signs {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            heard: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            limit: settings.keepalive_timeout,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn heard(&self) {
        self.heard.store(self.now() + 1, Ordering::Release);
    }

    /// True if the peer has spoken, and not for as long as it may be silent.
    fn is_overdue(&self) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        heard > 0 && self.now() >= (heard - 1).saturating_add(self.limit.as_millis() as u64)
    }

    /// What the end of a channel was, if this side ended it for silence.
    pub(crate) fn explain(&self, error: FrameError) -> FrameError {
        if self.silent.load(Ordering::Acquire) { FrameError::Silent(self.limit) } else { error }
    }
}

/// A reader that notes every byte it gets as a sign of life: within a frame, too.
pub(crate) struct Noting<R> {
    pub(crate) input: R,
    pub(crate) signs: Arc<Signs>,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.signs.heard();
        Ok(count)
    }
}

/// The thread that gives signs of life and looks for them. It ends with this value.
pub(crate) struct Pulse {
    stop: Queue<()>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Starts it. `alive` is a whole frame.
    pub(crate) fn start(
        mut beat: Beat,
        alive: Vec<u8>,
        signs: Arc<Signs>,
        control: Arc<dyn Control>,
        settings: &Settings,
    ) -> io::Result<Self> {
        let stop = Queue::new(1);
        let (stopped, interval) = (stop.clone(), settings.keepalive_interval);
        let live = move || {
            let mut looked = Instant::now();
            while !stopped.closed_within(interval) {
                beat.give(&alive);
                // After this process itself was stopped for a while the peer's signs are still to
                // be read.
                let overslept = looked.elapsed() > interval * 2;
                looked = Instant::now();
                if !overslept && signs.is_overdue() {
                    signs.silent.store(true, Ordering::Release);
                    control.shutdown();
                    return;
                }
            }
        };
        let thread = crate::time::spawn("migration-pulse", live)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it.
    pub(crate) fn end(&mut self) {
        self.stop.close();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked gives no more signs, which the peer notices.
            let _ = thread.join();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.close();
    }
}
