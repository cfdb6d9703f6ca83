//! What the guest prints on its serial console, and waiting for it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One line of the `ticks` program: which one it is, and the guest's clocks when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// 0 for the first line.
    pub number: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic: u64,
    /// `CLOCK_REALTIME` in nanoseconds.
    pub real: u64,
}

impl Tick {
    fn parse(fields: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> = fields.split(' ').map(|field| field.parse().ok()).collect();
        let [number, monotonic, real] = numbers?[..] else { return None };
        Some(Self { number, monotonic, real })
    }
}

const TICK_START: &str = "[tick ";
const TICK_END: &str = "]\r\n";

#[derive(Default)]
struct Text {
    /// Everything but the ticks.
    all: String,
    /// Up to here no tick is left in it.
    scanned: usize,
    /// Up to here it was waited for.
    read: usize,
    ticks: Vec<Tick>,
}

impl Text {
    fn add(&mut self, bytes: &[u8]) {
        self.all.push_str(&String::from_utf8_lossy(bytes));
        // A line that is written at once stays in one piece, but may come in the middle of others.
        loop {
            let Some(start) = self.all[self.scanned..].find(TICK_START) else {
                let keep = (0..TICK_START.len())
                    .rev()
                    .find(|length| self.all.ends_with(&TICK_START[..*length]))
                    .unwrap_or(0);
                self.scanned = self.scanned.max(self.all.len() - keep);
                return;
            };
            let start = self.scanned + start;
            self.scanned = start;
            let Some(length) = self.all[start..].find(TICK_END) else { return };
            let Some(tick) = Tick::parse(&self.all[start + TICK_START.len()..start + length])
            else {
                // Left in the text, and missed by whoever counts.
                self.scanned += TICK_START.len();
                continue;
            };
            self.ticks.push(tick);
            self.all.replace_range(start..start + length + TICK_END.len(), "");
        }
    }
}

#[derive(Default)]
struct Shared {
    text: Mutex<Text>,
    more: Condvar,
}

/// A serial console as somebody sees who looks at it from first to last, whichever machine the
/// guest is in.
#[derive(Clone, Default)]
pub struct Screen(Arc<Shared>);

impl Screen {
    fn text(&self) -> MutexGuard<'_, Text> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `pattern` and returns what stands before it, after what was waited for last.
    /// `alive` says why nothing more will come.
    ///
    /// # Panics
    /// If it does not come within the limit, or the guest has ended.
    pub fn expect(
        &self,
        pattern: &str,
        limit: Duration,
        alive: impl Fn() -> Result<(), String>,
    ) -> String {
        let until = Instant::now() + limit;
        let mut text = self.text();
        loop {
            // Whether it lives is asked first, so that its last words are read in any case.
            let standing = alive();
            let unread = &text.all[text.read..];
            if let Some(at) = unread.find(pattern) {
                let before = unread[..at].to_owned();
                text.read += at + pattern.len();
                return before;
            }
            let why = match standing {
                Ok(()) if Instant::now() < until => {
                    let wait = Duration::from_millis(100);
                    let waited = self.0.more.wait_timeout(text, wait);
                    text = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Ok(()) => format!("it did not come within {limit:?}"),
                Err(reason) => reason,
            };
            let all = text.all.clone();
            drop(text);
            let skipped = all.chars().count().saturating_sub(6_000);
            let tail: String = all.chars().skip(skipped).collect();
            panic!("waiting for {pattern:?}: {why}; the console shows, at its end:\n{tail}");
        }
    }

    /// The ticks so far.
    pub fn ticks(&self) -> Vec<Tick> {
        self.text().ticks.clone()
    }

    /// Waits until there are more than `count` ticks.
    ///
    /// # Panics
    /// If they do not come within the limit.
    pub fn expect_ticks(&self, count: usize, limit: Duration) {
        let until = Instant::now() + limit;
        let mut text = self.text();
        while text.ticks.len() <= count {
            assert!(Instant::now() < until, "after {} ticks no more came", text.ticks.len());
            let waited = self.0.more.wait_timeout(text, Duration::from_millis(100));
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that was printed.
    pub fn everything(&self) -> String {
        self.text().all.clone()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text().add(bytes);
        self.0.more.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
