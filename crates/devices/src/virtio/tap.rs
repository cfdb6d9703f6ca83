//! A tap interface of this host (Linux, Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

use super::net_backend::NetBackend;

// linux/if_tun.h
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
const IFF_TAP: u16 = 0x0002;
const IFF_PERSIST: u16 = 0x0800;
const IFF_NO_PI: u16 = 0x1000;
/// Bytes of an interface's name with its end (linux/if.h).
const NAME_BYTES: usize = 16;

/// `struct ifreq` with flags, as the ioctls of a tap interface read and write it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// A tap interface, opened without any offload: its frames are plain Ethernet, complete with
/// checksums, and never longer than its MTU.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens a persistent interface (`ip tuntap add NAME mode tap`). How it is connected is the
    /// operator's business.
    ///
    /// # Errors
    /// If there is none of this name, another process has it, or the host does not let this one.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request =
            InterfaceRequest { name: [0; NAME_BYTES], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
        if name.is_empty() || name.len() >= NAME_BYTES || name.bytes().any(|byte| byte == 0) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is no interface's name"));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/net/tun")?;
        attach(&file, &mut request)?;
        // The kernel makes an interface that is not there, for as long as this process has it.
        if request.flags & IFF_PERSIST == 0 {
            let reason = "there is no such tap interface (ip tuntap add NAME mode tap makes one)";
            return Err(io::Error::new(ErrorKind::NotFound, reason));
        }
        Ok(Self { file })
    }
}

#[expect(unsafe_code, reason = "the ioctls of a tap interface have no safe form")]
fn attach(file: &File, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: TUNSETIFF and TUNGETIFF read and write a `struct ifreq`, whose size and layout (on
    // 64-bit Linux) are those of InterfaceRequest; any bytes are valid in it.
    unsafe {
        ioctl(file, Updater::<TUNSETIFF, _>::new(request))?;
        ioctl(file, Updater::<TUNGETIFF, _>::new(request))?;
    }
    // SAFETY: TUNSETOFFLOAD takes a number and no pointer.
    unsafe { ioctl(file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(0))? };
    Ok(())
}

impl NetBackend for Tap {
    fn send(&mut self, frame: &[u8]) {
        // Lost if the interface is down or has no room.
        let _ = self.file.write(frame);
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(frame) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
