//! How a vCPU is made to leave the guest.
//!
//! A kick leaves a note, sets the `immediate_exit` byte that KVM_RUN looks at before it enters the
//! guest, and sends the vCPU's thread a signal, on which a KVM_RUN that is inside returns. Whichever
//! side of the entry the thread is on, one of the two reaches it; and a thread that is not running
//! the vCPU finds the note when it next does.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::KvmError;

/// Makes a vCPU leave the guest, from any thread.
#[derive(Clone)]
pub struct Kicker {
    note: Arc<Note>,
}

struct Note {
    kicked: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// The thread that runs the vCPU, and where its `immediate_exit` byte is.
struct Running {
    thread: libc::pthread_t,
    immediate_exit: usize,
}

impl Kicker {
    pub(crate) fn new() -> Result<Self, KvmError> {
        install_handler()?;
        let note = Note { kicked: AtomicBool::new(false), running: Mutex::new(None) };
        Ok(Self { note: Arc::new(note) })
    }

    /// Makes a run that is under way, or else the next one, end soon.
    #[expect(unsafe_code, reason = "a byte shared with the kernel, and a signal to a thread")]
    pub fn kick(&self) {
        self.note.kicked.store(true, Ordering::SeqCst);
        let running = self.running();
        if let Some(Running { thread, immediate_exit }) = &*running {
            // SAFETY: the vCPU's shared page is mapped as long as its run is registered, and the
            // registration ends under the lock that is held here. The kernel only reads the byte,
            // and the vCPU's thread writes it by the same atomic.
            let byte = unsafe { AtomicU8::from_ptr(*immediate_exit as *mut u8) };
            byte.store(1, Ordering::SeqCst);
            // SAFETY: the thread is inside `run`, hence alive; the signal has a handler.
            unsafe { libc::pthread_kill(*thread, signal_number()) };
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        // What it guards is valid at every instant.
        self.note.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes the note that a kick left.
    pub(crate) fn take(&self) -> bool {
        self.note.kicked.swap(false, Ordering::SeqCst)
    }

    /// Registers this thread as the one that runs the vCPU, until the guard is dropped.
    #[expect(unsafe_code, reason = "asks for this thread's handle")]
    pub(crate) fn enter(&self, immediate_exit: *mut u8) -> Entered {
        // SAFETY: has no precondition.
        let thread = unsafe { libc::pthread_self() };
        *self.running() = Some(Running { thread, immediate_exit: immediate_exit as usize });
        Entered { kicker: self.clone() }
    }
}

/// The registration of a run.
pub(crate) struct Entered {
    kicker: Kicker,
}

impl Drop for Entered {
    fn drop(&mut self) {
        *self.kicker.running() = None;
    }
}

/// The first real-time signals are taken by habit; this one is left alone by others.
pub(crate) fn signal_number() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

/// It has nothing to do: that the signal interrupts the call is all.
extern "C" fn handler(_: libc::c_int) {}

#[expect(unsafe_code, reason = "a signal's handler")]
fn install_handler() -> Result<(), KvmError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        // KVM_RUN ends on any signal. All other calls that a vCPU's thread makes, to serve an
        // access, go on as if there had been none.
        // SAFETY: a zeroed sigaction is a valid one, with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the action is valid, and its handler does nothing.
        match unsafe { libc::sigaction(signal_number(), &action, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
        }
    };
    INSTALLED.get_or_init(install).map_err(|code| KvmError::Call {
        call: "sigaction",
        source: std::io::Error::from_raw_os_error(code),
    })
}
