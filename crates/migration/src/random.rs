//! Numbers that nobody can guess.

use std::io;

/// Random bytes of the operating system.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got != bytes.len() {
        return Err(io::Error::other("the operating system gives too few random bytes"));
    }
    Ok(bytes)
}

/// Sixteen bytes that nobody else has.
pub(crate) fn identity() -> [u8; 16] {
    let bytes = random().expect("Linux has random numbers");
    let mut identity = [0; 16];
    identity.copy_from_slice(&bytes[..16]);
    identity
}
