//! One section of a stream, encoded.

use crate::decoder::Decoder;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::field::VmState;

/// One device section, encoded. What devices hand to the engine and get back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSection {
    /// Name of the section: usually that of the state's structure, behind a bus path where a
    /// device has one, such as `virtio-mmio@00000000feb02e00/virtio-blk`.
    pub name: String,
    /// Which of several sections of one name.
    pub instance: u32,
    /// Version of the encoding.
    pub version: u32,
    /// The body: fields and subsections.
    pub data: Vec<u8>,
}

impl SavedSection {
    /// Encodes a state in its newest version.
    pub fn encode<T: VmState>(name: impl Into<String>, instance: u32, state: &T) -> Self {
        let mut data = Vec::new();
        state.encode_body(&mut data);
        Self { name: name.into(), instance, version: T::VERSION, data }
    }

    /// Decodes and validates the whole section.
    ///
    /// # Errors
    /// If the data is anything but the encoding of a valid state; names the section, the field
    /// and the byte.
    pub fn decode<T: VmState>(&self) -> Result<T, DecodeError> {
        decode(self).map_err(|error| error.in_section(&self.name, self.instance))
    }
}

fn decode<T: VmState>(section: &SavedSection) -> Result<T, DecodeError> {
    let mut rest = section.data.as_slice();
    let mut decoder = Decoder::new(&mut rest);
    decoder.check_version(T::NAME, section.version, T::MINIMUM_VERSION, T::VERSION)?;
    let state = T::decode_body(&mut decoder, section.version)?;
    decoder.end_of_body()?;
    let offset = decoder.offset();
    expect_end(rest, offset)?;
    Ok(state)
}

/// Makes sure that nothing is left of a body.
pub(crate) fn expect_end(rest: &[u8], offset: u64) -> Result<(), DecodeError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(DecodeError::new(offset, DecodeErrorKind::TrailingBytes(rest.len() as u64)))
}
