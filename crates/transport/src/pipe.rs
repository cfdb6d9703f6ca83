//! Pipe ends that can be waited on with a time limit and ended from another thread, and `fd:`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, OFlags};

use crate::oneway::ended;
use crate::{Address, Control, Delivered, Delivery, Intake, Sink, TransportError};

/// The hold on a pipe end: an event that wakes whoever waits for the pipe.
pub(crate) struct PipeControl {
    event: OwnedFd,
    ended: AtomicBool,
    limit: Mutex<Option<Duration>>,
}

impl PipeControl {
    fn limit(&self) -> Option<Duration> {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limit(&self, limit: Option<Duration>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }
}

impl Control for PipeControl {
    fn shutdown(&self) {
        self.ended.store(true, Ordering::Release);
        // A counter that is full wakes the waiting thread as well.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_limit(limit);
        Ok(())
    }

    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_limit(limit);
        Ok(())
    }
}

/// One end of a pipe (or whatever a descriptor leads to).
pub(crate) struct PipeEnd {
    file: File,
    control: Arc<PipeControl>,
    /// Whether a call can wait: it is then made not to, and the waiting is done here.
    waits: bool,
    /// The flags to leave behind on a descriptor that others may share.
    restore: Option<OFlags>,
}

impl PipeEnd {
    /// `shared`: others may hold the same open file, and find its flags as they were afterwards.
    pub(crate) fn new(
        descriptor: OwnedFd,
        limit: Option<Duration>,
        shared: bool,
    ) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&descriptor)?.st_mode);
        let waits = matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice);
        let mut restore = None;
        if waits {
            let flags = rustix::fs::fcntl_getfl(&descriptor)?;
            rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
            restore = shared.then_some(flags);
        }
        let control = Arc::new(PipeControl {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: AtomicBool::new(false),
            limit: Mutex::new(limit),
        });
        Ok(Self { file: File::from(descriptor), control, waits, restore })
    }

    pub(crate) fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        let limit = self.control.limit();
        let timeout = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut waited_for = [
            PollFd::from_borrowed_fd(self.file.as_fd(), what),
            PollFd::from_borrowed_fd(self.control.event.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waited_for, timeout.as_ref()) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn call<T>(
        &mut self,
        what: PollFlags,
        mut call: impl FnMut(&mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            if self.control.ended.load(Ordering::Acquire) {
                return Err(ended());
            }
            match call(&mut self.file) {
                Err(error) if self.waits && error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(what)?;
                }
                other => return other,
            }
        }
    }
}

impl Read for PipeEnd {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.call(PollFlags::IN, |file| file.read(into))
    }
}

impl Write for PipeEnd {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.call(PollFlags::OUT, |file| file.write(from))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        if let Some(flags) = self.restore {
            // The descriptor was good for its whole life; if not, there is nothing to restore.
            let _ = rustix::fs::fcntl_setfl(&self.file, flags);
        }
    }
}

/// Takes a descriptor that this process was started with.
fn take(number: i32, address: &Address) -> Result<OwnedFd, TransportError> {
    // SAFETY: the descriptor is only borrowed for the check and the duplication, which fail with
    // EBADF if it is not open.
    #[expect(unsafe_code, reason = "a number given by the operator is the only form it has")]
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let duplicate = rustix::io::fcntl_dupfd_cloexec(inherited, 3)
        .map_err(|error| TransportError::io("cannot take", address)(error.into()))?;
    if number > 2 {
        // SAFETY: the operator named the descriptor for this one use, and it is open (it was
        // duplicated above). If it stayed open, the reader of a pipe would never see its end.
        #[expect(unsafe_code, reason = "the number is the only form it has")]
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(duplicate)
}

fn open(
    number: i32,
    address: &Address,
    limit: Option<Duration>,
) -> Result<PipeEnd, TransportError> {
    PipeEnd::new(take(number, address)?, limit, true)
        .map_err(TransportError::io("cannot use", address))
}

/// Writes to an inherited descriptor.
pub(crate) struct DescriptorSink {
    pipe: PipeEnd,
}

impl DescriptorSink {
    pub(crate) fn take(
        number: i32,
        address: &Address,
        limit: Option<Duration>,
    ) -> Result<Self, TransportError> {
        Ok(Self { pipe: open(number, address, limit)? })
    }
}

impl Write for DescriptorSink {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.pipe.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for DescriptorSink {
    fn delivery(&self) -> Delivery {
        Delivery::LastByte
    }

    fn control(&self) -> Arc<dyn Control> {
        self.pipe.control()
    }

    fn prepare(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<Delivered, TransportError> {
        Ok(Delivered::Unconfirmed)
    }

    fn discard(self: Box<Self>) {}
}

/// Reads from an inherited descriptor.
pub(crate) struct DescriptorIntake {
    pipe: PipeEnd,
}

impl DescriptorIntake {
    pub(crate) fn take(
        number: i32,
        address: &Address,
        limit: Option<Duration>,
    ) -> Result<Self, TransportError> {
        Ok(Self { pipe: open(number, address, limit)? })
    }
}

impl Read for DescriptorIntake {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pipe.read(into)
    }
}

impl Intake for DescriptorIntake {
    fn control(&self) -> Arc<dyn Control> {
        self.pipe.control()
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}
