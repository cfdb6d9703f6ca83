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
