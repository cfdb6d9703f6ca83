//! Open-file-description locks on single bytes of a file (fcntl_locking(2), `F_OFD_SETLK`): held by
//! an open file and not by a process, so that they are neither shared with nor lost to another part
//! of the process, and go away with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// By this file alone.
    Exclusive,
    /// By this file and others that ask for the same.
    Shared,
}

/// Changes the lock on one byte. With `wait` it waits for whoever is in the way.
///
/// # Errors
/// `WouldBlock` if somebody is in the way; other errors if the file system has no locks.
pub(super) fn lock(file: &File, byte: i64, lock: Lock, wait: bool) -> io::Result<()> {
    let kind = match lock {
        Lock::Exclusive => libc::F_WRLCK,
        Lock::Shared => libc::F_RDLCK,
    };
    let request = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    loop {
        #[expect(unsafe_code, reason = "no safe wrapper of these locks is at hand")]
        // SAFETY: the descriptor is open for as long as `file` lives, and the kernel only reads
        // the structure, which is whole.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const request) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            _ if error.raw_os_error() == Some(libc::EACCES) => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            _ => return Err(error),
        }
    }
}
