//! A reader that knows where it is and how much is left, so that no length in a stream makes it
//! allocate more than the stream has.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::error::{WalkError, WalkErrorKind};

pub(super) struct Input<R> {
    inner: BufReader<R>,
    position: u64,
    length: u64,
    peeked: Option<u8>,
}

impl<R: Read + Seek> Input<R> {
    pub(super) fn new(mut inner: R) -> io::Result<Self> {
        let length = inner.seek(SeekFrom::End(0))?;
        inner.seek(SeekFrom::Start(0))?;
        let inner = BufReader::with_capacity(1 << 18, inner);
        Ok(Self { inner, position: 0, length, peeked: None })
    }

    /// Up to `count` bytes from the end; the next read begins at the start again.
    pub(super) fn tail(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let start = self.length.saturating_sub(count);
        self.inner.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        self.inner.by_ref().take(count).read_to_end(&mut bytes)?;
        self.inner.seek(SeekFrom::Start(0))?;
        Ok(bytes)
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn left(&self) -> u64 {
        self.length - self.position
    }

    pub(super) fn error(&self, kind: WalkErrorKind) -> WalkError {
        WalkError { offset: self.position, section: None, kind }
    }

    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), WalkError> {
        if into.len() as u64 > self.left() {
            return Err(self.error(WalkErrorKind::CutShort));
        }
        let mut start = 0;
        if let (Some(byte), Some(first)) = (self.peeked, into.first_mut()) {
            *first = byte;
            self.peeked = None;
            start = 1;
        }
        self.inner.read_exact(&mut into[start..]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.error(WalkErrorKind::CutShort),
            _ => self.error(WalkErrorKind::Io(error)),
        })?;
        self.position += into.len() as u64;
        Ok(())
    }

    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, WalkError> {
        if count > self.left() {
            return Err(self.error(WalkErrorKind::CutShort));
        }
        let mut bytes = vec![0; count as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WalkError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WalkError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WalkError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WalkError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WalkError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next byte, which stays unread; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, WalkError> {
        if self.peeked.is_none() && self.left() > 0 {
            let mut byte = [0];
            self.inner
                .read_exact(&mut byte)
                .map_err(|error| self.error(WalkErrorKind::Io(error)))?;
            self.peeked = Some(byte[0]);
        }
        Ok(self.peeked)
    }

    /// A text of this many bytes.
    pub(super) fn text(&mut self, length: u64) -> Result<String, WalkError> {
        let at = self.position;
        String::from_utf8(self.bytes(length)?).map_err(|_| WalkError {
            offset: at,
            section: None,
            kind: WalkErrorKind::NotUtf8,
        })
    }

    /// A text whose length is the byte before it.
    pub(super) fn short_text(&mut self) -> Result<String, WalkError> {
        let length = self.u8()?;
        self.text(length.into())
    }
}
