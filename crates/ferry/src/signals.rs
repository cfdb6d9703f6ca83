//! Signals that ask this process to end: it ends in order, and at once if asked again.

use std::fs;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::terminal;

/// The signal that asked this process to end, if one did.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<AtomicI32>);

impl Asked {
    /// The signal's number.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    /// What a shell shows for a process that the signal ended.
    pub fn exit_code(&self) -> Option<u8> {
        self.signal().map(exit_code)
    }
}

fn exit_code(signal: i32) -> u8 {
    128 + signal as u8
}

/// Calls `end` at the first of SIGHUP, SIGINT and SIGTERM, and ends the process at the second. Those
/// that this process was started to ignore (as `nohup` does) it goes on to ignore.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn on_end(end: impl FnOnce() + Send + 'static) -> io::Result<Asked> {
    let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let heard = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|s| ignored & (1 << (s - 1)) == 0);
    let mut signals = Signals::new(heard)?;
    let asked = Asked::default();
    let first = asked.clone();
    let mut end = Some(end);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            match end.take() {
                Some(end) => {
                    first.0.store(signal, Ordering::Release);
                    end();
                }
                None => {
                    terminal::restore();
                    process::exit(exit_code(signal).into());
                }
            }
        }
    })?;
    Ok(asked)
}

/// The mask of ignored signals (proc_pid_status(5), `SigIgn`).
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(ignored("Name:\tferry\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"), 0x1001);
        assert_eq!(ignored("Name:\tferry\n"), 0);
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Asked::default().exit_code(), None);
        assert_eq!(Asked(Arc::new(AtomicI32::new(SIGTERM))).exit_code(), Some(143));
    }
}
