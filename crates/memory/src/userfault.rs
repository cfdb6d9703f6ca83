//! Memory of which some pages are elsewhere: whoever touches one waits until it is filled.
//!
//! Linux's userfaultfd (`man 2 userfaultfd`, `man 2 ioctl_userfaultfd`) does the work: a missing
//! page is one that is not mapped, a fault on it puts the thread to sleep, be it a vCPU of KVM, of
//! the software CPU, a device, or the kernel on behalf of one of them, and an atomic copy fills the
//! page and wakes whoever waits.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::mm::{UserfaultfdFlags, userfaultfd};

use crate::{DirtyBitmap, GuestRam, PAGE_SIZE};

/// Pages of guest memory cannot be made to be waited for.
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// This process may not catch faults that the kernel meets for it, as it does for KVM and for
    /// disk reads.
    #[error(
        "this process may not catch faults on guest memory: it needs CAP_SYS_PTRACE, or access to \
         /dev/userfaultfd, or the sysctl vm.unprivileged_userfaultfd=1"
    )]
    Privilege,
    /// The kernel has no userfaultfd, or not what is needed of it.
    #[error("this host's kernel offers no userfaultfd for guest memory")]
    Unsupported(#[source] io::Error),
    /// A call failed.
    #[error("cannot {doing}")]
    Call {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// `UFFD_API`, the one version of the interface.
const API: u64 = 0xaa;
const EVENT_PAGEFAULT: u8 = 0x12;
const REGISTER_MISSING: u64 = 1;
/// Bits of the calls that a registered range must offer: wake, copy, zero page.
const NEEDED_CALLS: u64 = 1 << 2 | 1 << 3 | 1 << 4;
/// `struct uffd_msg`.
const EVENT_BYTES: usize = 32;
/// Events that are read at once.
const EVENTS: usize = 64;

/// The number of an ioctl of the group 0xaa: direction (1 to the kernel, 2 from it), bytes, number.
const fn number(direction: u64, bytes: usize, number: u64) -> u64 {
    direction << 30 | (bytes as u64) << 16 | 0xaa << 8 | number
}

#[repr(C)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    length: u64,
}

#[repr(C)]
struct RegisterCall {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyCall {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroCall {
    range: Range,
    mode: u64,
    zeroed: i64,
}

const IOCTL_NEW: u64 = number(0, 0, 0);
const IOCTL_API: u64 = number(3, size_of::<ApiCall>(), 0x3f);
const IOCTL_REGISTER: u64 = number(3, size_of::<RegisterCall>(), 0);
const IOCTL_UNREGISTER: u64 = number(2, size_of::<Range>(), 1);
const IOCTL_WAKE: u64 = number(2, size_of::<Range>(), 2);
const IOCTL_COPY: u64 = number(3, size_of::<CopyCall>(), 3);
const IOCTL_ZERO: u64 = number(3, size_of::<ZeroCall>(), 4);

/// A descriptor that can catch faults, not yet armed. It is had early, while there is still time
/// to say that this host does not offer it.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
}

impl Userfault {
    /// Asks the kernel for one.
    ///
    /// # Errors
    /// If this process may not have it, or this kernel has none.
    pub fn open() -> Result<Self, UserfaultError> {
        let fault = Self { fd: open()? };
        let mut call = ApiCall { api: API, features: 0, ioctls: 0 };
        ioctl(&fault.fd, IOCTL_API, &raw mut call)
            .map_err(|error| UserfaultError::Unsupported(error.into()))?;
        Ok(fault)
    }

    /// Drops the missing pages of memory, whatever they held, and makes everybody who touches one
    /// wait until it is filled. Nobody may be touching memory during the call.
    ///
    /// A page that never held anything is not mapped either, so that faults come for it too: see
    /// [`MissingPages::fill_zero`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arm(
        self,
        ram: &GuestRam,
        missing: &DirtyBitmap,
    ) -> Result<MissingPages, UserfaultError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| call("make an event", error))?;
        // A huge page would take the place of missing pages together with their neighbours.
        ram.advise_huge_pages(false).map_err(|source| UserfaultError::Call {
            doing: "split the huge pages of guest memory",
            source,
        })?;
        let armed = MissingPages { fd: self.fd, stop, ram: ram.clone() };
        for range in armed.ranges() {
            let mut register = RegisterCall { range, mode: REGISTER_MISSING, ioctls: 0 };
            ioctl(&armed.fd, IOCTL_REGISTER, &raw mut register)
                .map_err(|error| call("register guest memory for faults", error))?;
            if register.ioctls & NEEDED_CALLS != NEEDED_CALLS {
                return Err(UserfaultError::Unsupported(io::ErrorKind::Unsupported.into()));
            }
        }
        ram.drop_pages(missing).map_err(|source| UserfaultError::Call {
            doing: "drop pages of guest memory",
            source,
        })?;
        Ok(armed)
    }
}

fn call(doing: &'static str, error: Errno) -> UserfaultError {
    UserfaultError::Call { doing, source: error.into() }
}

/// By the system call, or by the device where that is all that this process may use.
#[expect(unsafe_code, reason = "the kernel hands out a descriptor with power over memory")]
fn open() -> Result<OwnedFd, UserfaultError> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the descriptor stays in this module, which only ever names ranges of guest memory.
    match unsafe { userfaultfd(flags) } {
        Ok(fd) => return Ok(fd),
        Err(Errno::PERM) => {}
        Err(error) => return Err(UserfaultError::Unsupported(error.into())),
    }
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
        .map_err(|_| UserfaultError::Privilege)?;
    // SAFETY: this call takes the flags by value and returns a new descriptor or -1.
    let raw = unsafe { libc::ioctl(device.as_raw_fd(), IOCTL_NEW as _, flags.bits()) };
    if raw < 0 {
        return Err(UserfaultError::Privilege);
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[expect(unsafe_code, reason = "userfaultfd is driven by ioctls")]
fn ioctl<T>(fd: &OwnedFd, request: u64, argument: *mut T) -> Result<(), Errno> {
    // SAFETY: each request's number holds the size of its argument, which is that of `T` at every
    // call in this module; the ranges in it are guest memory's own.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    if result < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Guest memory of which pages are missing. Whoever touches a missing page waits, for as long as
/// this value lives; when it goes away, or after [`Self::disarm`], a page that was not filled
/// holds nothing.
#[derive(Debug)]
pub struct MissingPages {
    fd: OwnedFd,
    stop: OwnedFd,
    ram: GuestRam,
}

impl MissingPages {
    /// The memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn ranges(&self) -> impl Iterator<Item = Range> {
        let range = |(start, length)| Range { start: start as u64, length: length as u64 };
        self.ram.host_ranges().map(range)
    }

    fn range_of(&self, page: usize) -> Range {
        Range { start: self.ram.host_address(page) as u64, length: PAGE_SIZE as u64 }
    }

    /// Waits for faults and gives the pages that somebody waits for; a page may be named again, and
    /// may be there by now. `None` after [`Self::stop`].
    ///
    /// # Errors
    /// If the kernel says something that is not known.
    pub fn faults(&self) -> Result<Option<Vec<usize>>, UserfaultError> {
        loop {
            let mut waiting =
                [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(call("wait for faults", error)),
            }
            if !waiting[1].revents().is_empty() {
                return Ok(None);
            }
            let mut events = [0; EVENTS * EVENT_BYTES];
            let read = match rustix::io::read(&self.fd, &mut events) {
                Ok(read) => read,
                // Whoever waited has been woken meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(call("read faults", error)),
            };
            let mut pages = Vec::new();
            for event in events[..read].chunks_exact(EVENT_BYTES) {
                let address = u64::from_ne_bytes([
                    event[16], event[17], event[18], event[19], event[20], event[21], event[22],
                    event[23],
                ]);
                let page = self.ram.page_at_host(address as usize);
                match (event[0], page) {
                    (EVENT_PAGEFAULT, Some(page)) => pages.push(page),
                    _ => {
                        return Err(UserfaultError::Unsupported(io::ErrorKind::InvalidData.into()));
                    }
                }
            }
            return Ok(Some(pages));
        }
    }

    /// Ends [`Self::faults`], now and later. Faults still wait.
    pub fn stop(&self) {
        // The counter of the event cannot overflow by this, and nothing else can go wrong.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Fills a missing page and wakes whoever waits for it. False if it was there, and is as it
    /// was.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If `page` is not a page of the memory.
    pub fn fill(&self, page: usize, content: &[u8; PAGE_SIZE]) -> Result<bool, UserfaultError> {
        let Range { start, length } = self.range_of(page);
        let from = content.as_ptr() as u64;
        self.placed(page, || {
            let mut copy = CopyCall { to: start, from, length, mode: 0, copied: 0 };
            ioctl(&self.fd, IOCTL_COPY, &raw mut copy)
        })
    }

    /// Makes a missing page hold nothing and wakes whoever waits for it. False if it was there,
    /// and is as it was.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If `page` is not a page of the memory.
    pub fn fill_zero(&self, page: usize) -> Result<bool, UserfaultError> {
        let range = self.range_of(page);
        self.placed(page, || {
            let mut zero = ZeroCall { range, mode: 0, zeroed: 0 };
            ioctl(&self.fd, IOCTL_ZERO, &raw mut zero)
        })
    }

    fn placed(
        &self,
        page: usize,
        mut place: impl FnMut() -> Result<(), Errno>,
    ) -> Result<bool, UserfaultError> {
        loop {
            match place() {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => {
                    self.wake(page)?;
                    return Ok(false);
                }
                // The address space is changing elsewhere: nothing was placed.
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                Err(error) => return Err(call("fill a page of guest memory", error)),
            }
        }
    }

    /// Wakes whoever waits for a page, to try again.
    fn wake(&self, page: usize) -> Result<(), UserfaultError> {
        let mut range = self.range_of(page);
        ioctl(&self.fd, IOCTL_WAKE, &raw mut range)
            .map_err(|error| call("wake whoever waits for a page", error))
    }

    /// Lets nobody wait any more. Called once every page is filled.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn disarm(&self) -> Result<(), UserfaultError> {
        for mut range in self.ranges() {
            ioctl(&self.fd, IOCTL_UNREGISTER, &raw mut range)
                .map_err(|error| call("let guest memory be ordinary again", error))?;
        }
        // A host that gives no huge pages is no error.
        let _ = self.ram.advise_huge_pages(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn opened() -> Option<Userfault> {
        match Userfault::open() {
            Ok(fault) => Some(fault),
            Err(error @ UserfaultError::Privilege) => {
                println!("not tested here: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn whoever_touches_a_missing_page_gets_what_it_is_filled_with() {
        const PAGES: usize = 600;
        let Some(fault) = opened() else { return };
        let ram = GuestRam::new((PAGES * PAGE_SIZE) as u64).unwrap();
        for page in 0..PAGES / 2 {
            ram.write_page(page, &[1; PAGE_SIZE]);
        }
        let mut missing = DirtyBitmap::none(PAGES);
        (0..PAGES).step_by(3).for_each(|page| missing.insert(page));
        let armed = Arc::new(fault.arm(&ram, &missing).unwrap());
        let (asked, filled) = (Arc::new(AtomicUsize::new(0)), missing.clone());
        let filler = thread::spawn({
            let (armed, asked) = (armed.clone(), asked.clone());
            move || {
                while let Some(pages) = armed.faults().unwrap() {
                    for page in pages {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if filled.contains(page) {
                            armed.fill(page, &[page as u8 | 2; PAGE_SIZE]).unwrap();
                        } else {
                            armed.fill_zero(page).unwrap();
                        }
                    }
                }
            }
        });
        // Two readers, and one that has the kernel read.
        let check = |ram: GuestRam, missing: DirtyBitmap| {
            let mut content = [0; PAGE_SIZE];
            for page in 0..PAGES {
                ram.read_page(page, &mut content);
                let expected = match page {
                    page if missing.contains(page) => page as u8 | 2,
                    page if page < PAGES / 2 => 1,
                    _ => 0,
                };
                assert_eq!(content, [expected; PAGE_SIZE], "page {page}");
            }
        };
        let other = thread::spawn({
            let (ram, missing) = (ram.clone(), missing.clone());
            move || check(ram, missing)
        });
        check(ram.clone(), missing.clone());
        other.join().unwrap();
        assert!(asked.load(Ordering::SeqCst) >= missing.count());
        // A page that is there is not touched again.
        ram.write_page(3, &[9; PAGE_SIZE]);
        assert!(!armed.fill(3, &[8; PAGE_SIZE]).unwrap());
        assert!(!armed.fill_zero(3).unwrap());
        let mut content = [0; PAGE_SIZE];
        ram.read_page(3, &mut content);
        assert_eq!(content, [9; PAGE_SIZE]);
        armed.stop();
        filler.join().unwrap();
        armed.disarm().unwrap();
    }

    #[test]
    #[expect(unsafe_code, reason = "the kernel is to read guest memory")]
    fn the_kernel_waits_too() {
        let Some(fault) = opened() else { return };
        let ram = GuestRam::new(4 * PAGE_SIZE as u64).unwrap();
        let armed = Arc::new(fault.arm(&ram, &DirtyBitmap::all(4)).unwrap());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let from = ram.host_address(1);
        let writing = thread::spawn(move || {
            // SAFETY: the bytes lie in guest memory, which the test keeps.
            let wrote = unsafe { libc::write(writer.as_raw_fd(), from as *const _, 16) };
            assert_eq!(wrote, 16);
        });
        assert_eq!(armed.faults().unwrap(), Some(vec![1]));
        assert!(armed.fill(1, &[7; PAGE_SIZE]).unwrap());
        writing.join().unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 16]);
        armed.disarm().unwrap();
    }
}
