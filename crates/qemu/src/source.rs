//! Bytes that are read forwards, counted, and looked at one ahead.

use std::io::{self, Read};

use vmstate::ByteSource;

pub(crate) struct Source<R> {
    inner: R,
    position: u64,
    peeked: Option<u8>,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, position: 0, peeked: None }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> io::Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text whose length is the byte before it. What is no UTF-8 is shown as such.
    pub(crate) fn short_text(&mut self) -> io::Result<String> {
        let length = self.u8()?;
        let mut bytes = vec![0; length.into()];
        self.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<R: Read> ByteSource for Source<R> {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut start = 0;
        if let Some(first) = into.first_mut()
            && let Some(byte) = self.peeked.take()
        {
            *first = byte;
            start = 1;
        }
        self.inner.read_exact(&mut into[start..])?;
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
