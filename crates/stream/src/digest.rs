//! The digest section, and the bytes that are hashed for it. Hashing itself is the caller's.

use vmstate::{SavedSection, VmState};

/// [`Digest::algorithm`]: BLAKE3 with 32 bytes of output.
pub const BLAKE3: u8 = 1;

/// What the sender holds: a digest of everything before it in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "digest", version = 1, validate = "Digest::check")]
pub struct Digest {
    /// Hash function: 1 is BLAKE3 with 32 bytes of output.
    pub algorithm: u8,
    /// Digest of what all RAM blocks hold at the end, and of the records it came in.
    pub memory: [u8; 32],
    /// Digest of machine type, device tree and all device sections.
    pub sections: [u8; 32],
}

impl Digest {
    fn check(&self) -> Result<(), vmstate::Invalid> {
        match self.algorithm {
            BLAKE3 => Ok(()),
            other => Err(vmstate::Invalid::new(format!("unknown hash function {other}"))),
        }
    }
}

fn counted(bytes: &[u8], hash: &mut impl FnMut(&[u8])) {
    hash(&(bytes.len() as u64).to_be_bytes());
    hash(bytes);
}

/// Hands the bytes that stand for a device section to a hash function: be64 length of the name,
/// name, be32 instance, be32 version, be64 length of the data, data. No two sections give the same
/// bytes.
pub fn digest_input(section: &SavedSection, hash: &mut impl FnMut(&[u8])) {
    let SavedSection { name, instance, version, data } = section;
    counted(name.as_bytes(), hash);
    hash(&instance.to_be_bytes());
    hash(&version.to_be_bytes());
    counted(data, hash);
}

/// Hands the bytes that stand for the configuration and the machine section to a hash function:
/// be64 length of the machine type, machine type, be64 length of the device tree, device tree.
pub fn machine_digest_input(machine_type: &str, machine: &[u8], hash: &mut impl FnMut(&[u8])) {
    counted(machine_type.as_bytes(), hash);
    counted(machine, hash);
}
