//! The first bytes in each direction: who speaks, and within which limits.

use std::fmt;

/// Bytes of a hello. Its length and layout never change, so that every version can read every
/// other's and say what does not fit.
pub const HELLO_LENGTH: usize = 32;

/// The line ending, the end-of-file byte and the zero show a channel that changes bytes.
const MAGIC: [u8; 8] = *b"FER\r\n\x1a\0Y";

/// Versions of the envelope that this crate speaks.
const VERSIONS: (u16, u16) = (1, 1);
/// The longest frame payload this crate takes.
const MAX_FRAME: u32 = 1 << 20;
/// A peer that takes no more than this per frame is not worth talking to.
const LEAST_MAX_FRAME: u32 = 4096;
/// Feature bit, said by the source: the guest may be moved before all of its memory is.
pub const POST_COPY: u64 = 1;
/// Feature bits that this crate knows. (Several channels and compression will each be one.)
const KNOWN_FEATURES: u64 = POST_COPY;

/// Which side of the migration speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// The side that has the guest.
    Source = 1,
    /// The side that will have it.
    Destination = 2,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Source => "a source",
            Self::Destination => "a destination",
        })
    }
}

/// What one side says first.
///
/// ```text
/// 8 magic | be32 role | be16 lowest version | be16 highest version | be32 longest frame payload
/// | be64 features, each needed | be32 CRC-32 of the 28 bytes before
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who speaks.
    pub role: Role,
    /// The lowest version of the envelope it speaks.
    pub lowest: u16,
    /// The highest.
    pub highest: u16,
    /// The longest payload of a frame that it takes, in bytes.
    pub max_frame: u32,
    /// Features it will use. Whoever does not know one refuses.
    pub features: u64,
}

/// What two hellos agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The version both speak.
    pub version: u16,
    /// The longest payload of a frame that both take.
    pub max_frame: u32,
    /// Features that either side uses.
    pub features: u64,
}

/// Two sides that cannot talk to each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are a record of TLS (RFC 8446, section 5.1).
    #[error("the peer speaks TLS, and this side was started without certificates")]
    Tls,
    /// The first bytes are not a hello.
    #[error("the peer does not speak Ferry's envelope: it begins with {0:02x?}")]
    Magic([u8; 8]),
    /// The bytes changed on the way.
    #[error("the checksum of the peer's hello is wrong")]
    Checksum,
    /// Not a role.
    #[error("the peer names itself by the unknown role {0}")]
    UnknownRole(u32),
    /// Two sources or two destinations.
    #[error("the peer is {0}, as this side is")]
    SameRole(Role),
    /// No common version.
    #[error(
        "no common version of the envelope: this side speaks {} to {}, the peer {} to {}",
        own.0, own.1, peer.0, peer.1
    )]
    Versions {
        /// Lowest and highest of this side.
        own: (u16, u16),
        /// Lowest and highest of the peer.
        peer: (u16, u16),
    },
    /// Features that this side does not know.
    #[error("the peer needs features that are not known here: bits {0:#x}")]
    Features(u64),
    /// A frame limit that is not sensible.
    #[error("the peer's longest frame of {0} bytes is less than {LEAST_MAX_FRAME}")]
    MaxFrame(u32),
}

/// True if these first bytes are TLS's. Its alert is shorter than a hello.
pub(crate) fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x14..=0x17, 3, ..])
}

impl Hello {
    /// What this crate says.
    pub fn new(role: Role) -> Self {
        Self { role, lowest: VERSIONS.0, highest: VERSIONS.1, max_frame: MAX_FRAME, features: 0 }
    }

    /// The bytes of this hello.
    pub fn encode(&self) -> [u8; HELLO_LENGTH] {
        let mut bytes = [0; HELLO_LENGTH];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&(self.role as u32).to_be_bytes());
        bytes[12..14].copy_from_slice(&self.lowest.to_be_bytes());
        bytes[14..16].copy_from_slice(&self.highest.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.max_frame.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.features.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8; HELLO_LENGTH]) -> Result<Self, HelloError> {
        let be16 = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let be32 = |at: usize| u32::from(be16(at)) << 16 | u32::from(be16(at + 2));
        if bytes[..8] != MAGIC {
            if is_tls(bytes) {
                return Err(HelloError::Tls);
            }
            let mut found = [0; 8];
            found.copy_from_slice(&bytes[..8]);
            return Err(HelloError::Magic(found));
        }
        if be32(28) != crc32fast::hash(&bytes[..28]) {
            return Err(HelloError::Checksum);
        }
        let role = match be32(8) {
            1 => Role::Source,
            2 => Role::Destination,
            other => return Err(HelloError::UnknownRole(other)),
        };
        Ok(Self {
            role,
            lowest: be16(12),
            highest: be16(14),
            max_frame: be32(16),
            features: u64::from(be32(20)) << 32 | u64::from(be32(24)),
        })
    }

    /// What this side, having said `self`, agrees on with a peer who said `peer`.
    ///
    /// # Errors
    /// If the two do not fit together.
    pub fn agree(&self, peer: &Self) -> Result<Agreement, HelloError> {
        if peer.role == self.role {
            return Err(HelloError::SameRole(peer.role));
        }
        let version = self.highest.min(peer.highest);
        if version < self.lowest || version < peer.lowest || peer.lowest > peer.highest {
            return Err(HelloError::Versions {
                own: (self.lowest, self.highest),
                peer: (peer.lowest, peer.highest),
            });
        }
        let unknown = peer.features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(HelloError::Features(unknown));
        }
        if peer.max_frame < LEAST_MAX_FRAME {
            return Err(HelloError::MaxFrame(peer.max_frame));
        }
        let features = self.features | peer.features;
        Ok(Agreement { version, max_frame: self.max_frame.min(peer.max_frame), features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_and_every_flipped_bit_is_noticed() {
        let hello = Hello { features: 0x8000_0000_0000_0001, ..Hello::new(Role::Source) };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        for bit in 0..HELLO_LENGTH * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(Hello::decode(&damaged), Err(HelloError::Checksum | HelloError::Magic(_))),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn sides_that_do_not_fit_say_why() {
        let own = Hello::new(Role::Source);
        let peer = Hello::new(Role::Destination);
        assert_eq!(
            own.agree(&peer),
            Ok(Agreement { version: 1, max_frame: MAX_FRAME, features: 0 })
        );
        let able = Hello { features: POST_COPY, ..own };
        assert_eq!(peer.agree(&able).map(|agreed| agreed.features), Ok(POST_COPY));
        let small = Hello { max_frame: 5000, ..peer };
        assert_eq!(own.agree(&small).map(|agreed| agreed.max_frame), Ok(5000));
        assert_eq!(own.agree(&own), Err(HelloError::SameRole(Role::Source)));
        let newer = Hello { lowest: 2, highest: 7, ..peer };
        assert_eq!(
            own.agree(&newer).unwrap_err().to_string(),
            "no common version of the envelope: this side speaks 1 to 1, the peer 2 to 7"
        );
        let wider = Hello { lowest: 1, highest: 7, ..peer };
        assert_eq!(own.agree(&wider).map(|agreed| agreed.version), Ok(1));
        let turned = Hello { lowest: 3, highest: 1, ..peer };
        assert!(matches!(own.agree(&turned), Err(HelloError::Versions { .. })));
        let fancy = Hello { features: 0x10, ..peer };
        assert_eq!(own.agree(&fancy), Err(HelloError::Features(0x10)));
        let tiny = Hello { max_frame: 16, ..peer };
        assert_eq!(own.agree(&tiny), Err(HelloError::MaxFrame(16)));
    }
}
