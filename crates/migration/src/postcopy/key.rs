//! Who may go on with a move whose link was lost: whoever has its key.

use std::fmt;

use crate::handover::Digest;

/// Bytes of the number that names a move.
pub const SESSION_LENGTH: usize = 32;
/// Bytes of a nonce.
pub const NONCE_LENGTH: usize = 32;
/// Bytes of a message authentication code.
pub const MAC_LENGTH: usize = 32;

/// The random number of one move.
pub type Session = [u8; SESSION_LENGTH];
/// A number that is used once.
pub type Nonce = [u8; NONCE_LENGTH];
/// A message authentication code: keyed BLAKE3.
pub type Mac = [u8; MAC_LENGTH];

/// BLAKE3's context string for the derivation; another version of the exchange has another one.
const CONTEXT: &str = "ferry 2026-11 post-copy recovery 1";

/// What only the two sides of one move have.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key")
    }
}

impl Key {
    /// The key of the move with this number, of a machine with this digest.
    pub fn new(session: &Session, digest: &Digest) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(session).update(digest);
        Self(hasher.finalize().into())
    }

    fn mac(&self, role: &[u8], source: &Nonce, destination: &Nonce) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(source).update(destination).update(role);
        hasher.finalize()
    }

    /// What only the destination can say to these nonces.
    pub fn of_destination(&self, source: &Nonce, destination: &Nonce) -> Mac {
        self.mac(b"destination", source, destination).into()
    }

    /// What only the source can say to these nonces.
    pub fn of_source(&self, source: &Nonce, destination: &Nonce) -> Mac {
        self.mac(b"source", source, destination).into()
    }

    /// True if the destination said this. Takes as long whether it did or not.
    pub fn is_destination(&self, source: &Nonce, destination: &Nonce, said: &Mac) -> bool {
        self.mac(b"destination", source, destination) == *said
    }

    /// True if the source said this. Takes as long whether it did or not.
    pub fn is_source(&self, source: &Nonce, destination: &Nonce, said: &Mac) -> bool {
        self.mac(b"source", source, destination) == *said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts() {
        let key = Key::new(&[1; 32], &[2; 32]);
        let (source, destination) = ([3; 32], [4; 32]);
        let mac = key.of_destination(&source, &destination);
        assert!(key.is_destination(&source, &destination, &mac));
        assert!(!key.is_source(&source, &destination, &mac), "no reflection");
        assert!(!key.is_destination(&destination, &source, &mac));
        assert!(!key.is_destination(&source, &[5; 32], &mac));
        for stranger in [Key::new(&[9; 32], &[2; 32]), Key::new(&[1; 32], &[9; 32])] {
            assert!(!stranger.is_destination(&source, &destination, &mac));
        }
        let mac = key.of_source(&source, &destination);
        assert!(key.is_source(&source, &destination, &mac));
        assert!(!key.is_destination(&source, &destination, &mac));
    }
}
