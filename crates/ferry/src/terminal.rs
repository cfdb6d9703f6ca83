//! The terminal as the guest's console: raw mode, put back whatever happens, and an escape key.

use std::io::{self, IsTerminal, Read};
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Control-A begins a command to Ferry.
const ESCAPE: u8 = 0x01;

/// What the terminal was like, for whoever puts it back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode; the terminal is as it was before when this value goes, or when a panic unwinds.
pub struct Raw;

impl Raw {
    /// Puts the terminal into raw mode, if standard input is one.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        if let Ok(mut kept) = BEFORE.lock() {
            *kept = Some(before);
        }
        Ok(Some(Self))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back; harmless if nothing was changed.
pub fn restore() {
    if let Ok(mut kept) = BEFORE.lock()
        && let Some(before) = kept.take()
    {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the guest.
    Bytes(Vec<u8>),
    /// Control-A x: end the machine.
    Quit,
    /// Control-A h: help.
    Help,
    /// Nothing more will come.
    End,
}

/// Tells keys for the guest from those for Ferry.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Sorts what was read.
    pub fn sort(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut sorted = Vec::new();
        for &byte in bytes {
            match (std::mem::replace(&mut self.escaped, false), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x') => sorted.push(Typed::Quit),
                (true, b'h') => sorted.push(Typed::Help),
                // Control-A twice is one Control-A; any other key goes to the guest alone.
                (_, byte) => match sorted.last_mut() {
                    Some(Typed::Bytes(before)) => before.push(byte),
                    _ => sorted.push(Typed::Bytes(vec![byte])),
                },
            }
        }
        sorted
    }

    /// Reads standard input once.
    pub fn read(&mut self) -> Vec<Typed> {
        let mut bytes = [0; 1024];
        match io::stdin().read(&mut bytes) {
            Ok(0) | Err(_) => vec![Typed::End],
            Ok(length) => self.sort(&bytes[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_speaks_to_ferry() {
        let mut keys = Keys::default();
        assert_eq!(keys.sort(b"ls\n"), [Typed::Bytes(b"ls\n".to_vec())]);
        assert_eq!(keys.sort(b"\x01"), []);
        assert_eq!(keys.sort(b"x"), [Typed::Quit]);
        assert_eq!(keys.sort(b"\x01\x01"), [Typed::Bytes(vec![1])]);
        assert_eq!(keys.sort(b"\x01h"), [Typed::Help]);
        let typed = |bytes: &[u8]| Typed::Bytes(bytes.to_vec());
        assert_eq!(keys.sort(b"ab\x01hcd"), [typed(b"ab"), Typed::Help, typed(b"cd")]);
    }
}
