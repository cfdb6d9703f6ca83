//! Reading the primitives of the encoding, with the offset that errors name.

use std::io;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::field::VmState;
use crate::schema::Variant;

/// Marks a subsection. QEMU's `QEMU_VM_SUBSECTION`.
const SUBSECTION_MARK: u8 = 0x05;

/// Bytes that one section's body may have. No device's state comes near; a peer that sends more
/// is not describing a device.
pub const MAX_BODY: u64 = 64 << 20;

/// Where bytes come from: anything that can be read forwards and looked at one byte ahead.
pub trait ByteSource {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// `UnexpectedEof` if fewer bytes are left, or what the source itself fails with.
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()>;

    /// The next byte, which stays unread; `None` at the end.
    ///
    /// # Errors
    /// What the source itself fails with.
    fn peek(&mut self) -> io::Result<Option<u8>>;
}

impl ByteSource for &[u8] {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(self, into)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.first().copied())
    }
}

/// A subsection's name that was read and that nobody has claimed yet.
struct Pending {
    name: String,
    offset: u64,
}

/// Reads the primitives of the encoding from a source, and keeps count.
pub struct Decoder<'a> {
    source: &'a mut dyn ByteSource,
    offset: u64,
    record: Option<Vec<u8>>,
    pending: Option<Pending>,
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of a body.
    pub(crate) fn new(source: &'a mut dyn ByteSource) -> Self {
        Self { source, offset: 0, record: None, pending: None }
    }

    /// A decoder that keeps what it reads.
    pub(crate) fn recording(source: &'a mut dyn ByteSource) -> Self {
        Self { record: Some(Vec::new()), ..Self::new(source) }
    }

    /// What was read by a decoder that keeps it.
    pub(crate) fn into_record(self) -> Vec<u8> {
        self.record.unwrap_or_default()
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn failed(&self, error: io::Error) -> DecodeError {
        let kind = match error.kind() {
            io::ErrorKind::UnexpectedEof => DecodeErrorKind::Truncated,
            _ => DecodeErrorKind::Io(error),
        };
        DecodeError::new(self.offset, kind)
    }

    /// Fills a buffer with the next bytes.
    pub(crate) fn bytes(&mut self, into: &mut [u8]) -> Result<(), DecodeError> {
        let length = into.len() as u64;
        if length > MAX_BODY - self.offset {
            return Err(DecodeError::new(self.offset, DecodeErrorKind::TooLong(MAX_BODY)));
        }
        self.source.read_exact(into).map_err(|error| self.failed(error))?;
        self.offset += length;
        if let Some(record) = &mut self.record {
            record.extend_from_slice(into);
        }
        Ok(())
    }

    /// The next bytes, appended to a vector that grows only as they come.
    pub(crate) fn append(&mut self, into: &mut Vec<u8>, length: usize) -> Result<(), DecodeError> {
        const CHUNK: usize = 64 << 10;
        let mut left = length;
        while left > 0 {
            let now = left.min(CHUNK);
            let start = into.len();
            into.resize(start + now, 0);
            self.bytes(&mut into[start..])?;
            left -= now;
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut bytes = [0; N];
        self.bytes(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        let offset = self.offset;
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(DecodeError::new(offset, DecodeErrorKind::NotBoolean(other))),
        }
    }

    /// A value of an enumeration: its place in the list of variants.
    #[doc(hidden)]
    pub fn variant(
        &mut self,
        name: &'static str,
        variants: &'static [Variant],
    ) -> Result<usize, DecodeError> {
        let offset = self.offset;
        let [value] = self.array::<1>()?;
        variants.iter().position(|variant| variant.value == value).ok_or_else(|| {
            DecodeError::new(offset, DecodeErrorKind::UnknownVariant { name, value })
        })
    }

    /// The number of elements that a list says it has.
    pub(crate) fn count(&mut self, max: u32) -> Result<u32, DecodeError> {
        let offset = self.offset;
        let count = u32::from_be_bytes(self.array()?);
        if count > max {
            return Err(DecodeError::new(offset, DecodeErrorKind::TooMany { count, max }));
        }
        Ok(count)
    }

    /// Makes the next subsection's name pending, if a subsection comes.
    fn look(&mut self) -> Result<(), DecodeError> {
        if self.pending.is_some() {
            return Ok(());
        }
        let next = self.source.peek().map_err(|error| self.failed(error))?;
        if next != Some(SUBSECTION_MARK) {
            return Ok(());
        }
        let offset = self.offset;
        let [_, length] = self.array()?;
        let mut name = Vec::new();
        self.append(&mut name, usize::from(length))?;
        let name = String::from_utf8(name)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.pending = Some(Pending { name, offset });
        Ok(())
    }

    /// If the subsection `names[index]` comes next: its version. A subsection that the structure
    /// does not know is left for the structure around it.
    pub(crate) fn subsection_version(
        &mut self,
        names: &[&str],
        index: usize,
    ) -> Result<Option<u32>, DecodeError> {
        self.look()?;
        if self.pending.as_ref().is_some_and(|pending| pending.name == names[index]) {
            self.pending = None;
            return Ok(Some(u32::from_be_bytes(self.array()?)));
        }
        self.not_misplaced(&names[..index])?;
        Ok(None)
    }

    /// Reads the subsection `names[index]`, if it comes next.
    #[doc(hidden)]
    pub fn subsection<T: VmState>(
        &mut self,
        names: &[&str],
        index: usize,
    ) -> Result<Option<T>, DecodeError> {
        match self.subsection_version(names, index)? {
            Some(version) => {
                self.check_version(names[index], version, T::MINIMUM_VERSION, T::VERSION)?;
                T::decode_body(self, version).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Makes sure that none of a structure's subsections comes after the last of them.
    #[doc(hidden)]
    pub fn end_of_subsections(&mut self, names: &[&str]) -> Result<(), DecodeError> {
        self.look()?;
        self.not_misplaced(names)
    }

    fn not_misplaced(&self, names: &[&str]) -> Result<(), DecodeError> {
        match &self.pending {
            Some(Pending { name, offset }) if names.contains(&name.as_str()) => {
                Err(DecodeError::new(*offset, DecodeErrorKind::MisplacedSubsection(name.clone())))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that a version can be read.
    pub(crate) fn check_version(
        &self,
        name: &str,
        version: u32,
        minimum: u32,
        newest: u32,
    ) -> Result<(), DecodeError> {
        if (minimum..=newest).contains(&version) {
            return Ok(());
        }
        let name = name.to_owned();
        let kind = DecodeErrorKind::UnsupportedVersion { name, version, minimum, newest };
        Err(DecodeError::new(self.offset, kind))
    }

    /// Makes sure that no subsection comes that nobody has claimed.
    pub(crate) fn end_of_body(&mut self) -> Result<(), DecodeError> {
        self.look()?;
        match self.pending.take() {
            Some(Pending { name, offset }) => {
                Err(DecodeError::new(offset, DecodeErrorKind::UnknownSubsection(name)))
            }
            None => Ok(()),
        }
    }
}
