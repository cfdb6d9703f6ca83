//! A reader that counts, and can look one byte ahead.

use std::io::{self, Read};

use vmstate::ByteSource;

use crate::error::{StreamError, StreamErrorKind};

#[derive(Debug)]
pub(crate) struct Input<R> {
    inner: R,
    position: u64,
    peeked: Option<u8>,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, position: 0, peeked: None }
    }

    /// Bytes read so far; a byte that was only looked at does not count.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// Fills the whole buffer.
    pub(crate) fn fill(&mut self, into: &mut [u8]) -> Result<(), StreamError> {
        let at = self.position;
        self.read_exact(into).map_err(|error| failed(at, error))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StreamError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StreamError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StreamError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name whose length in bytes is one byte before it.
    pub(crate) fn short_name(&mut self, what: &'static str) -> Result<String, StreamError> {
        let length = self.u8()?;
        self.name(what, u32::from(length))
    }

    /// A name of this length.
    pub(crate) fn name(&mut self, what: &'static str, length: u32) -> Result<String, StreamError> {
        let at = self.position;
        if length == 0 {
            return Err(StreamError::new(at, StreamErrorKind::NoName(what)));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| StreamError::new(at, StreamErrorKind::NotUtf8(what)))
    }

    /// Makes sure that nothing follows.
    pub(crate) fn expect_end(&mut self) -> Result<(), StreamError> {
        let at = self.position;
        match self.peek() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(StreamError::new(at, StreamErrorKind::TrailingBytes)),
            Err(error) => Err(failed(at, error)),
        }
    }
}

fn failed(at: u64, error: io::Error) -> StreamError {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamErrorKind::CutShort,
        _ => StreamErrorKind::Io(error),
    };
    StreamError::new(at, kind)
}

impl<R: Read> ByteSource for Input<R> {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut peeked = 0;
        if let Some(first) = into.first_mut()
            && let Some(byte) = self.peeked.take()
        {
            *first = byte;
            peeked = 1;
        }
        self.inner.read_exact(&mut into[peeked..])?;
        self.position += into.len() as u64;
        Ok(())
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.peeked.is_none() {
            let mut byte = [0];
            self.peeked = match self.inner.read_exact(&mut byte) {
                Ok(()) => Some(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => return Err(error),
            };
        }
        Ok(self.peeked)
    }
}
