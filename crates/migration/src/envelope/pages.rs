//! The frames of post-copy: what [`crate::postcopy`] says, on the wire.

use memory::PAGE_SIZE;

use super::frame::{FrameError, Kind, encode_frame};
use crate::postcopy::{Mac, NONCE_LENGTH, Nonce, SESSION_LENGTH, Session};

/// Bytes of a page's record before its content: be64 twice the page's number, plus one for a page
/// of zeroes, which has no content.
pub const RECORD_HEADER: usize = 8;
/// Marks the last part of a set.
const LAST: u8 = 1;

/// What the source says, apart from the pages themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagesFromSource {
    /// The guest is to run before all of its memory is there.
    Session {
        /// The random number of this move.
        session: Session,
        /// Pages of memory.
        pages: u64,
    },
    /// A part of the set of missing pages.
    MissingSet {
        /// No part follows.
        last: bool,
        /// Bytes of its encoding.
        part: Vec<u8>,
    },
    /// Every missing page was sent.
    AllSent,
    /// The source needs nothing more.
    Released,
    /// The first word on a new link.
    Recover(Nonce),
    /// Shows that this is the source.
    Proof(Mac),
}

/// What the destination says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagesFromDestination {
    /// Somebody waits for this page.
    Request(u64),
    /// A part of the set of pages that came.
    ReceivedSet {
        /// No part follows.
        last: bool,
        /// Bytes of its encoding.
        part: Vec<u8>,
    },
    /// Every page that was missing is here: this many.
    AllReceived(u64),
    /// Shows that this is the destination.
    Recovering(Nonce, Mac),
}

fn be64(payload: &[u8]) -> u64 {
    payload.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn bytes32(payload: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(payload);
    bytes
}

fn encode_part(kind: Kind, last: bool, part: &[u8]) -> Vec<u8> {
    encode_frame(kind, &[&[u8::from(last)], part].concat())
}

fn decode_part(payload: &[u8]) -> Result<(bool, Vec<u8>), FrameError> {
    match payload[0] {
        mark @ (0 | LAST) => Ok((mark == LAST, payload[1..].to_vec())),
        mark => Err(FrameError::SetMark(mark)),
    }
}

impl PagesFromSource {
    /// The frame that carries this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Session { session, pages } => {
                encode_frame(Kind::Session, &[&session[..], &pages.to_be_bytes()].concat())
            }
            Self::MissingSet { last, part } => encode_part(Kind::MissingSet, *last, part),
            Self::AllSent => encode_frame(Kind::AllSent, &[]),
            Self::Released => encode_frame(Kind::Released, &[]),
            Self::Recover(nonce) => encode_frame(Kind::Recover, nonce),
            Self::Proof(mac) => encode_frame(Kind::Proof, mac),
        }
    }

    /// What a frame of a known type and a right length says.
    ///
    /// # Errors
    /// If only a destination says that, or it is no such message.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::Session => {
                let (session, pages) = payload.split_at(SESSION_LENGTH);
                Self::Session { session: bytes32(session), pages: be64(pages) }
            }
            Kind::MissingSet => {
                let (last, part) = decode_part(payload)?;
                Self::MissingSet { last, part }
            }
            Kind::AllSent => Self::AllSent,
            Kind::Released => Self::Released,
            Kind::Recover => Self::Recover(bytes32(payload)),
            Kind::Proof => Self::Proof(bytes32(payload)),
            kind => return Err(FrameError::Direction(kind)),
        })
    }
}

impl PagesFromDestination {
    /// The frame that carries this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Request(page) => encode_frame(Kind::Request, &page.to_be_bytes()),
            Self::ReceivedSet { last, part } => encode_part(Kind::ReceivedSet, *last, part),
            Self::AllReceived(pages) => encode_frame(Kind::AllReceived, &pages.to_be_bytes()),
            Self::Recovering(nonce, mac) => {
                encode_frame(Kind::Recovering, &[&nonce[..], mac].concat())
            }
        }
    }

    /// What a frame of a known type and a right length says.
    ///
    /// # Errors
    /// If only a source says that, or it is no such message.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::Request => Self::Request(be64(payload)),
            Kind::ReceivedSet => {
                let (last, part) = decode_part(payload)?;
                Self::ReceivedSet { last, part }
            }
            Kind::AllReceived => Self::AllReceived(be64(payload)),
            Kind::Recovering => {
                let (nonce, mac) = payload.split_at(NONCE_LENGTH);
                Self::Recovering(bytes32(nonce), bytes32(mac))
            }
            kind => return Err(FrameError::Direction(kind)),
        })
    }
}

/// Appends a page's record to the payload of a frame of pages. `None` for a page of zeroes.
pub fn put_record(payload: &mut Vec<u8>, page: usize, content: Option<&[u8; PAGE_SIZE]>) {
    let zero = u64::from(content.is_none());
    payload.extend(((page as u64) << 1 | zero).to_be_bytes());
    if let Some(content) = content {
        payload.extend_from_slice(content);
    }
}

/// The records of a frame of pages: each page's number, and its content unless it is all zeroes.
#[derive(Clone, Debug)]
pub struct PageRecords<'a> {
    rest: &'a [u8],
}

impl<'a> PageRecords<'a> {
    /// Of a frame's payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn read(&mut self) -> Option<(u64, Option<&'a [u8; PAGE_SIZE]>)> {
        let (header, rest) = self.rest.split_first_chunk::<RECORD_HEADER>()?;
        let header = u64::from_be_bytes(*header);
        if header & 1 != 0 {
            self.rest = rest;
            return Some((header >> 1, None));
        }
        let (content, rest) = rest.split_first_chunk::<PAGE_SIZE>()?;
        self.rest = rest;
        Some((header >> 1, Some(content)))
    }
}

impl<'a> Iterator for PageRecords<'a> {
    type Item = Result<(u64, Option<&'a [u8; PAGE_SIZE]>), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read().ok_or(FrameError::Pages);
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameReader, FromDestination, FromSource, SourceFrame};
    use super::*;

    fn read(bytes: &[u8]) -> (Kind, Vec<u8>) {
        let mut payload = Vec::new();
        let kind = FrameReader::new(bytes, 8192).next(&mut payload).unwrap();
        (kind, payload)
    }

    #[test]
    fn every_message_survives_and_is_refused_from_the_wrong_side() {
        let from_source = [
            PagesFromSource::Session { session: [7; 32], pages: 1 << 40 },
            PagesFromSource::MissingSet { last: false, part: vec![1, 2] },
            PagesFromSource::MissingSet { last: true, part: vec![0] },
            PagesFromSource::AllSent,
            PagesFromSource::Released,
            PagesFromSource::Recover([3; 32]),
            PagesFromSource::Proof([4; 32]),
        ];
        for message in from_source {
            let (kind, payload) = &read(&message.encode());
            assert!(matches!(
                FromDestination::decode(*kind, payload),
                Err(FrameError::Direction(_))
            ));
            let decoded = SourceFrame::decode(*kind, payload).unwrap();
            assert_eq!(decoded, SourceFrame::Message(FromSource::Pages(message)));
        }
        let from_destination = [
            PagesFromDestination::Request(u64::MAX),
            PagesFromDestination::ReceivedSet { last: true, part: vec![4, 5, 6] },
            PagesFromDestination::AllReceived(99),
            PagesFromDestination::Recovering([1; 32], [2; 32]),
        ];
        for message in from_destination {
            let (kind, payload) = &read(&message.encode());
            assert!(matches!(SourceFrame::decode(*kind, payload), Err(FrameError::Direction(_))));
            let decoded = FromDestination::decode(*kind, payload).unwrap();
            assert_eq!(decoded, FromDestination::Pages(message));
        }
        let bad = encode_frame(Kind::MissingSet, &[2, 0]);
        let (kind, payload) = read(&bad);
        assert!(matches!(SourceFrame::decode(kind, &payload), Err(FrameError::SetMark(2))));
    }

    #[test]
    fn records_come_back_and_a_cut_one_is_an_error() {
        let mut payload = Vec::new();
        put_record(&mut payload, 3, Some(&[9; PAGE_SIZE]));
        put_record(&mut payload, 1 << 40, None);
        put_record(&mut payload, 0, Some(&[1; PAGE_SIZE]));
        let records: Vec<_> = PageRecords::new(&payload).map(Result::unwrap).collect();
        assert_eq!(
            records,
            [(3, Some(&[9; PAGE_SIZE])), (1 << 40, None), (0, Some(&[1; PAGE_SIZE]))]
        );
        for cut in [1, 7, 8, 100, 4103, 4105, 4111, 4112 + 8] {
            let (whole, errors): (Vec<_>, Vec<_>) =
                PageRecords::new(&payload[..cut]).partition(Result::is_ok);
            assert_eq!(errors.len(), 1, "{cut}");
            assert!(whole.len() <= 2);
        }
    }
}
