//! Whether what was written to a TCP connection has reached the peer's host.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ`: bytes of the send queue that the peer has not acknowledged (tcp(7)).
const UNACKNOWLEDGED: Opcode = 0x5411;
const LOOK: Duration = Duration::from_millis(1);

fn unacknowledged(stream: &TcpStream) -> io::Result<i32> {
    // SAFETY: for a socket SIOCOUTQ stores one int, and reads nothing.
    #[expect(unsafe_code, reason = "rustix has no call of its own for SIOCOUTQ")]
    let count = unsafe { ioctl(stream.as_fd(), Getter::<UNACKNOWLEDGED, i32>::new()) };
    Ok(count?)
}

/// Waits until the peer's host has acknowledged everything. A peer that has closed its side and is
/// sent something all the same answers with a reset (RFC 9293, section 3.10.7.4; RFC 1122, section
/// 4.2.2.13), which is an error here.
pub(crate) fn wait(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let left = unacknowledged(stream)?;
        // A reset empties the queue too; so the error is looked at afterwards.
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(LOOK);
    }
}
