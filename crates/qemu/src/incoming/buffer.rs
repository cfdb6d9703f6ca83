//! Bytes that were heard and not yet taken in.

use std::io;

use crate::source::Source;

/// The bytes of one channel, in order.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// What was taken in is dropped from time to time.
    start: usize,
    /// Bytes taken in so far.
    taken: u64,
    ended: bool,
}

/// Why nothing was taken in.
pub(super) enum Failure {
    /// What is there is a beginning.
    Short,
    /// What is there is wrong, at this many bytes from where taking in began.
    Refused { at: u64, reason: String },
}

/// What a parser of one item says of its input.
pub(super) enum Reading {
    /// Bytes are missing.
    Short,
    Refused(String),
}

impl From<io::Error> for Reading {
    fn from(_: io::Error) -> Self {
        // What is read is a slice, which fails at its end only.
        Self::Short
    }
}

pub(super) fn refuse<T>(reason: impl Into<String>) -> Result<T, Reading> {
    Err(Reading::Refused(reason.into()))
}

impl Buffer {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Bytes taken in so far.
    pub(super) fn position(&self) -> u64 {
        self.taken
    }

    /// Takes in so many bytes.
    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
        self.taken += count as u64;
    }

    /// Takes one item in, whole or not at all.
    pub(super) fn item<T>(
        &mut self,
        parse: impl FnOnce(&mut Source<&[u8]>) -> Result<T, Reading>,
    ) -> Result<T, Failure> {
        let mut source = Source::new(self.waiting());
        let parsed = parse(&mut source);
        let at = source.position();
        match parsed {
            Ok(item) => {
                self.take(at as usize);
                Ok(item)
            }
            Err(Reading::Short) => Err(Failure::Short),
            Err(Reading::Refused(reason)) => Err(Failure::Refused { at, reason }),
        }
    }
}

impl Buffer {
    /// The bytes that were taken in last.
    pub(super) fn last_taken<const N: usize>(&self) -> &[u8; N] {
        self.bytes[..self.start].last_chunk().expect("they were there when they were taken in")
    }
}
