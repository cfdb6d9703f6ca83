//! The messages of the return path and of the hand-over.

use super::frame::{FrameError, Kind, encode_frame};
use super::pages::{PagesFromDestination, PagesFromSource};
use crate::handover::{OwnerId, Record};

/// The longest reason that a message carries, in bytes.
pub const MAX_REASON: usize = 16 * 1024;

/// What the source says, apart from the state stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSource {
    /// Answer when everything before this is placed in memory.
    Sync {
        /// Comes back in the answer.
        sequence: u32,
    },
    /// The guest is paused and the stream is complete.
    Offered {
        /// How many bytes of stream there were.
        stream_bytes: u64,
        /// The record by which the source owns the guest, if it keeps one.
        claim: Option<Record>,
    },
    /// The source has given the guest up.
    Grant {
        /// The digest that both sides agreed on.
        digest: [u8; 32],
        /// Who is to have the guest.
        claimant: OwnerId,
    },
    /// The source keeps the guest.
    Cancel {
        /// Why, in words.
        reason: String,
    },
    /// A sign of life.
    Alive,
    /// Something about pages that come after the hand-over.
    Pages(PagesFromSource),
}

/// What the destination says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromDestination {
    /// The machine was built and fits this host.
    MachineAccepted,
    /// Everything before the `Sync` is placed in memory.
    Synced {
        /// From the `Sync`.
        sequence: u32,
        /// How many bytes of stream have come.
        stream_bytes: u64,
    },
    /// A sign of life.
    Progress {
        /// How many bytes of stream have come.
        stream_bytes: u64,
    },
    /// Everything is loaded and checked.
    Ready {
        /// The digest over what the destination holds.
        digest: [u8; 32],
        /// Who it is.
        claimant: OwnerId,
        /// Whether its own arbiter has shown it the record that the source has named.
        shared: bool,
    },
    /// The guest runs here.
    Running {
        /// Who it is.
        claimant: OwnerId,
    },
    /// The destination does not take the guest; it is as if it had never been asked.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The destination owns the guest, and could not start it. It holds it paused.
    RunFailed {
        /// Why, in words.
        reason: String,
    },
    /// A sign of life, when there is nothing else to say.
    Alive,
    /// Something about pages that come after the hand-over.
    Pages(PagesFromDestination),
}

/// A frame from the source: bytes of the stream, or a message.
#[derive(Debug, PartialEq, Eq)]
pub enum SourceFrame<'a> {
    /// Bytes of the stream.
    Stream(&'a [u8]),
    /// Pages that were missing at the hand-over; see [`super::PageRecords`].
    Pages(&'a [u8]),
    /// A message.
    Message(FromSource),
}

/// Cuts a reason to what a message carries.
fn bounded(reason: &str) -> &[u8] {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason.as_bytes()[..end]
}

/// A reason from the peer, fit to be shown on a terminal.
fn reason(kind: Kind, payload: &[u8]) -> Result<String, FrameError> {
    let text = std::str::from_utf8(payload).map_err(|_| FrameError::Text(kind))?;
    Ok(text
        .chars()
        .map(
            |character| {
                if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }
            },
        )
        .collect())
}

fn be32(payload: &[u8], at: usize) -> u32 {
    payload[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(payload: &[u8], at: usize) -> u64 {
    payload[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The digest at the beginning of a payload, and what follows it.
fn digest(payload: &[u8]) -> ([u8; 32], &[u8]) {
    let (first, rest) = payload.split_at(32);
    let mut digest = [0; 32];
    digest.copy_from_slice(first);
    (digest, rest)
}

fn owner(kind: Kind, payload: &[u8]) -> Result<OwnerId, FrameError> {
    let text = std::str::from_utf8(payload).ok();
    text.and_then(OwnerId::parse).ok_or(FrameError::Owner(kind))
}

impl FromSource {
    /// The frame that carries this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Sync { sequence } => encode_frame(Kind::Sync, &sequence.to_be_bytes()),
            Self::Offered { stream_bytes, claim } => {
                let mut payload = stream_bytes.to_be_bytes().to_vec();
                if let Some(claim) = claim {
                    payload.extend(claim.to_text().bytes());
                }
                encode_frame(Kind::Offered, &payload)
            }
            Self::Grant { digest, claimant } => {
                let mut payload = digest.to_vec();
                payload.extend(claimant.to_string().bytes());
                encode_frame(Kind::Grant, &payload)
            }
            Self::Cancel { reason } => encode_frame(Kind::Cancel, bounded(reason)),
            Self::Alive => encode_frame(Kind::SourceAlive, &[]),
            Self::Pages(message) => message.encode(),
        }
    }
}

impl<'a> SourceFrame<'a> {
    /// What a frame of a known type and a right length says.
    ///
    /// # Errors
    /// If only a destination says that, or a reason is no text.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(Self::Message(match kind {
            Kind::Stream => return Ok(Self::Stream(payload)),
            Kind::Pages => return Ok(Self::Pages(payload)),
            Kind::Sync => FromSource::Sync { sequence: be32(payload, 0) },
            Kind::Offered => {
                let claim = match &payload[8..] {
                    [] => None,
                    text => Some(Record::from_text(text).map_err(FrameError::Record)?),
                };
                FromSource::Offered { stream_bytes: be64(payload, 0), claim }
            }
            Kind::Grant => {
                let (digest, rest) = digest(payload);
                FromSource::Grant { digest, claimant: owner(kind, rest)? }
            }
            Kind::Cancel => FromSource::Cancel { reason: reason(kind, payload)? },
            Kind::SourceAlive => FromSource::Alive,
            Kind::MachineAccepted
            | Kind::Synced
            | Kind::Progress
            | Kind::Ready
            | Kind::Running
            | Kind::Refused
            | Kind::RunFailed
            | Kind::DestinationAlive => return Err(FrameError::Direction(kind)),
            kind => FromSource::Pages(PagesFromSource::decode(kind, payload)?),
        }))
    }
}

impl FromDestination {
    /// The frame that carries this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::MachineAccepted => encode_frame(Kind::MachineAccepted, &[]),
            Self::Synced { sequence, stream_bytes } => {
                let mut payload = [0; 12];
                payload[..4].copy_from_slice(&sequence.to_be_bytes());
                payload[4..].copy_from_slice(&stream_bytes.to_be_bytes());
                encode_frame(Kind::Synced, &payload)
            }
            Self::Progress { stream_bytes } => {
                encode_frame(Kind::Progress, &stream_bytes.to_be_bytes())
            }
            Self::Ready { digest, claimant, shared } => {
                let mut payload = digest.to_vec();
                payload.push((*shared).into());
                payload.extend(claimant.to_string().bytes());
                encode_frame(Kind::Ready, &payload)
            }
            Self::Running { claimant } => {
                encode_frame(Kind::Running, claimant.to_string().as_bytes())
            }
            Self::Refused { reason } => encode_frame(Kind::Refused, bounded(reason)),
            Self::RunFailed { reason } => encode_frame(Kind::RunFailed, bounded(reason)),
            Self::Alive => encode_frame(Kind::DestinationAlive, &[]),
            Self::Pages(message) => message.encode(),
        }
    }

    /// What a frame of a known type and a right length says.
    ///
    /// # Errors
    /// If only a source says that, or a reason is no text.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::MachineAccepted => Self::MachineAccepted,
            Kind::Synced => {
                Self::Synced { sequence: be32(payload, 0), stream_bytes: be64(payload, 4) }
            }
            Kind::Progress => Self::Progress { stream_bytes: be64(payload, 0) },
            Kind::Ready => {
                let (digest, rest) = digest(payload);
                let shared = match rest[0] {
                    0 => false,
                    1 => true,
                    _ => return Err(FrameError::Owner(kind)),
                };
                Self::Ready { digest, claimant: owner(kind, &rest[1..])?, shared }
            }
            Kind::Running => Self::Running { claimant: owner(kind, payload)? },
            Kind::Refused => Self::Refused { reason: reason(kind, payload)? },
            Kind::RunFailed => Self::RunFailed { reason: reason(kind, payload)? },
            Kind::DestinationAlive => Self::Alive,
            Kind::Stream
            | Kind::Sync
            | Kind::Offered
            | Kind::Grant
            | Kind::Cancel
            | Kind::SourceAlive => return Err(FrameError::Direction(kind)),
            kind => Self::Pages(PagesFromDestination::decode(kind, payload)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameReader;
    use super::*;

    fn read(bytes: &[u8]) -> (Kind, Vec<u8>) {
        let mut payload = Vec::new();
        let kind = FrameReader::new(bytes, 4096).next(&mut payload).unwrap();
        (kind, payload)
    }

    #[test]
    fn every_message_survives_and_is_refused_from_the_wrong_side() {
        let reason = "disk0: no such file".to_owned();
        let claimant = OwnerId::new("beta", [5; 16]);
        let record = Record::first([6; 16], claimant.clone());
        let from_source = [
            FromSource::Sync { sequence: 0xdead_beef },
            FromSource::Offered { stream_bytes: u64::MAX - 1, claim: None },
            FromSource::Offered { stream_bytes: 7, claim: Some(record) },
            FromSource::Grant { digest: [9; 32], claimant: claimant.clone() },
            FromSource::Cancel { reason: reason.clone() },
            FromSource::Alive,
        ];
        for message in from_source {
            let bytes = message.encode();
            let (kind, payload) = &read(&bytes);
            let kind = *kind;
            assert!(matches!(
                FromDestination::decode(kind, payload),
                Err(FrameError::Direction(_))
            ));
            assert_eq!(SourceFrame::decode(kind, payload).unwrap(), SourceFrame::Message(message));
        }
        let from_destination = [
            FromDestination::MachineAccepted,
            FromDestination::Synced { sequence: 7, stream_bytes: 1 << 40 },
            FromDestination::Progress { stream_bytes: 3 },
            FromDestination::Ready { digest: [8; 32], claimant: claimant.clone(), shared: true },
            FromDestination::Running { claimant },
            FromDestination::Refused { reason: reason.clone() },
            FromDestination::RunFailed { reason },
            FromDestination::Alive,
        ];
        for message in from_destination {
            let bytes = message.encode();
            let (kind, payload) = &read(&bytes);
            let kind = *kind;
            assert!(matches!(SourceFrame::decode(kind, payload), Err(FrameError::Direction(_))));
            assert_eq!(FromDestination::decode(kind, payload).unwrap(), message);
        }
    }

    #[test]
    fn reasons_are_cut_to_the_bound_and_cannot_steer_a_terminal() {
        let long = "ä".repeat(MAX_REASON);
        let bytes = FromSource::Cancel { reason: long }.encode();
        let (kind, payload) = read(&bytes);
        assert!(payload.len() <= MAX_REASON);
        assert!(SourceFrame::decode(kind, &payload).is_ok());
        let tricky = FromDestination::decode(Kind::Refused, b"a\x1b[2Jb").unwrap();
        assert_eq!(tricky, FromDestination::Refused { reason: "a\u{fffd}[2Jb".to_owned() });
        assert!(matches!(
            FromDestination::decode(Kind::Refused, &[0xff]),
            Err(FrameError::Text(Kind::Refused))
        ));
    }
}
