//! Frames: a type, a length, a payload and a checksum.

use std::io::{self, Read};
use std::time::Duration;

use super::message::MAX_REASON;
use crate::handover::{MAX_RECORD, OwnerId, RecordError};

/// Bytes before a frame's payload.
const HEADER: usize = 5;
/// Bytes after it.
const TRAILER: usize = 4;

/// The types of frames. Those below 0x80 go from the source to the destination, the others back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of the state stream.
    Stream = 0x01,
    /// Asks for an answer once everything before it is placed.
    Sync = 0x02,
    /// The stream is complete.
    Offered = 0x03,
    /// Ownership passes to the destination.
    Grant = 0x04,
    /// The source keeps the guest, for a reason.
    Cancel = 0x05,
    /// The source lives.
    SourceAlive = 0x06,
    /// The guest is to run before all of its memory is there.
    Session = 0x10,
    /// A part of the set of pages that are missing then.
    MissingSet = 0x11,
    /// Pages that were missing.
    Pages = 0x12,
    /// All of them were sent.
    AllSent = 0x13,
    /// The source needs nothing more.
    Released = 0x14,
    /// The first word on a new link after one was lost.
    Recover = 0x15,
    /// Shows that this is the source.
    Proof = 0x16,
    /// The machine was built; memory may flow.
    MachineAccepted = 0x81,
    /// Answer to [`Kind::Sync`].
    Synced = 0x82,
    /// How much has been received.
    Progress = 0x83,
    /// Everything is loaded and checked.
    Ready = 0x84,
    /// The guest runs at the destination.
    Running = 0x85,
    /// The destination will not take the guest, for a reason.
    Refused = 0x86,
    /// The destination owns the guest and could not start it.
    RunFailed = 0x87,
    /// The destination lives.
    DestinationAlive = 0x88,
    /// Somebody waits for a page.
    Request = 0x90,
    /// A part of the set of pages that came on earlier links.
    ReceivedSet = 0x91,
    /// Every page that was missing is here.
    AllReceived = 0x92,
    /// The answer to [`Kind::Recover`]: shows that this is the destination.
    Recovering = 0x93,
}

impl Kind {
    const ALL: [Self; 25] = [
        Self::Stream,
        Self::Sync,
        Self::Offered,
        Self::Grant,
        Self::Cancel,
        Self::SourceAlive,
        Self::MachineAccepted,
        Self::Synced,
        Self::Progress,
        Self::Ready,
        Self::Running,
        Self::Refused,
        Self::RunFailed,
        Self::DestinationAlive,
        Self::Session,
        Self::MissingSet,
        Self::Pages,
        Self::AllSent,
        Self::Released,
        Self::Recover,
        Self::Proof,
        Self::Request,
        Self::ReceivedSet,
        Self::AllReceived,
        Self::Recovering,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The lengths that a payload of this type may have; `max_frame` is what the hellos agreed on.
    fn lengths(self, max_frame: u32) -> (u32, u32) {
        let exactly = |length| (length, length);
        match self {
            Self::Stream => (1, max_frame),
            Self::Sync => exactly(4),
            Self::Offered => (8, 8 + MAX_RECORD as u32),
            Self::Progress => exactly(8),
            Self::Synced => exactly(12),
            Self::Grant => (32, 32 + OwnerId::MAX_LENGTH as u32),
            Self::Ready => (33, 33 + OwnerId::MAX_LENGTH as u32),
            Self::Running => (0, OwnerId::MAX_LENGTH as u32),
            Self::MachineAccepted | Self::SourceAlive | Self::DestinationAlive => exactly(0),
            Self::Cancel | Self::Refused | Self::RunFailed => (0, MAX_REASON as u32),
            Self::Session => exactly(40),
            Self::MissingSet | Self::ReceivedSet => (2, max_frame),
            Self::Pages => (8, max_frame),
            Self::AllSent | Self::Released => exactly(0),
            Self::Recover | Self::Proof => exactly(32),
            Self::Request | Self::AllReceived => exactly(8),
            Self::Recovering => exactly(64),
        }
    }
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The channel ended where a frame might have begun.
    #[error("the peer ended the channel")]
    Closed,
    /// The channel ended within a frame.
    #[error("the channel ended within a frame")]
    Truncated,
    /// A type that is not known.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A length that the type does not have.
    #[error("a frame of type {kind:?} is {length} bytes long, and must be {least} to {most}")]
    Length {
        /// Its type.
        kind: Kind,
        /// Its length.
        length: u32,
        /// The least it may be.
        least: u32,
        /// The most it may be.
        most: u32,
    },
    /// The bytes changed on the way.
    #[error("the checksum of a frame of type {0:?} is wrong")]
    Checksum(Kind),
    /// A frame that this side never gets.
    #[error("a frame of type {0:?} came from the wrong side")]
    Direction(Kind),
    /// A reason that is no text.
    #[error("the reason in a frame of type {0:?} is not UTF-8")]
    Text(Kind),
    /// Names nobody.
    #[error("a frame of type {0:?} does not say who sent it")]
    Owner(Kind),
    /// An ownership record that is none.
    #[error("the source's claim is wrong")]
    Record(#[source] RecordError),
    /// The peer gave no sign of life for so long.
    #[error("the peer gave no sign of life for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Records of pages that are none.
    #[error("a frame of pages is not made of whole records")]
    Pages,
    /// A part of a set that is neither the last nor one before.
    #[error("a part of a page set has the mark {0:#04x}")]
    SetMark(u8),
    /// The channel failed.
    #[error("the channel failed")]
    Io(#[source] io::Error),
}

/// A frame, whole, ready to be written.
pub fn encode_frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = StreamFrame { bytes: Vec::with_capacity(HEADER + payload.len() + TRAILER) };
    frame.bytes.resize(HEADER, 0);
    frame.bytes.extend_from_slice(payload);
    frame.seal(kind);
    frame.bytes
}

/// A frame of stream bytes that is filled in place, so that the bytes are copied once.
#[derive(Debug, Default)]
pub struct StreamFrame {
    bytes: Vec<u8>,
}

impl StreamFrame {
    /// Empties the frame and keeps its room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Appends to the payload.
    pub fn extend(&mut self, more: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER, 0);
        }
        self.bytes.extend_from_slice(more);
    }

    /// Takes the last byte of the payload back.
    pub fn pop(&mut self) -> Option<u8> {
        if self.is_empty() { None } else { self.bytes.pop() }
    }

    /// Bytes of payload so far.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER)
    }

    /// True if there is no payload yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Completes the frame and gives its bytes. It can only be cleared after that.
    pub fn finish(&mut self) -> &[u8] {
        self.seal(Kind::Stream);
        &self.bytes
    }

    fn seal(&mut self, kind: Kind) {
        let length = u32::try_from(self.bytes.len() - HEADER).expect("payloads are bounded");
        self.bytes[0] = kind as u8;
        self.bytes[1..HEADER].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32fast::hash(&self.bytes);
        self.bytes.extend_from_slice(&checksum.to_be_bytes());
    }
}

/// Reads frames one after the other.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    max_frame: u32,
}

impl<R: Read> FrameReader<R> {
    /// Reads from `input` frames of at most `max_frame` bytes of payload.
    pub fn new(input: R, max_frame: u32) -> Self {
        Self { input, max_frame }
    }

    /// Reads the next frame: its type, and its payload in place of what was in `payload`.
    ///
    /// # Errors
    /// If the channel fails or the bytes are no frame.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Result<Kind, FrameError> {
        let mut header = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            match self.input.read(&mut header[have..]) {
                Ok(0) if have == 0 => return Err(FrameError::Closed),
                Ok(0) => return Err(FrameError::Truncated),
                Ok(more) => have += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FrameError::Io(error)),
            }
        }
        let [kind, length @ ..] = header;
        let kind = Kind::of(kind).ok_or(FrameError::UnknownType(kind))?;
        let length = u32::from_be_bytes(length);
        let (least, most) = kind.lengths(self.max_frame);
        if !(least..=most).contains(&length) {
            return Err(FrameError::Length { kind, length, least, most });
        }
        // Bounded by the check above.
        payload.resize(length as usize + TRAILER, 0);
        self.input.read_exact(payload).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Truncated,
            _ => FrameError::Io(error),
        })?;
        let (content, trailer) = payload.split_at(length as usize);
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&header);
        checksum.update(content);
        if trailer != checksum.finalize().to_be_bytes() {
            return Err(FrameError::Checksum(kind));
        }
        payload.truncate(length as usize);
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Kind, Vec<u8>), FrameError> {
        let mut payload = Vec::new();
        let kind = FrameReader::new(bytes, 4096).next(&mut payload)?;
        Ok((kind, payload))
    }

    #[test]
    fn every_byte_flipped_and_every_cut_is_an_error() {
        let mut frame = StreamFrame::default();
        frame.extend(b"some bytes");
        frame.extend(b" of state");
        let bytes = frame.finish().to_vec();
        assert_eq!(bytes, encode_frame(Kind::Stream, b"some bytes of state"));
        assert_eq!(read(&bytes).unwrap(), (Kind::Stream, b"some bytes of state".to_vec()));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "byte {at} bit {bit}");
            }
            let cut = read(&bytes[..at]).unwrap_err();
            match at {
                0 => assert!(matches!(cut, FrameError::Closed)),
                _ => assert!(matches!(cut, FrameError::Truncated)),
            }
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        for (kind, length) in [
            (Kind::Stream, 4097u32),
            (Kind::Stream, 0),
            (Kind::Refused, u32::MAX),
            (Kind::Grant, 31),
        ] {
            let mut bytes = vec![kind as u8];
            bytes.extend(length.to_be_bytes());
            assert!(matches!(
                read(&bytes).unwrap_err(),
                FrameError::Length { kind: found, .. } if found == kind
            ));
        }
        assert!(matches!(read(&[0x7f; 64]).unwrap_err(), FrameError::UnknownType(0x7f)));
    }
}
