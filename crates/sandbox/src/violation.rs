//! System calls that end the process, and its last words.

use std::io;

use libc::{SIGSYS, c_int, c_long, c_void, siginfo_t};

/// What the kernel says of the call (sigaction(2), `SIGSYS`).
#[repr(C)]
struct Caught {
    signal: c_int,
    error: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    call: c_int,
    architecture: u32,
}

macro_rules! names {
    ($($name:ident)*) => {
        &[$((stringify!($name), libc::$name)),*]
    };
}

/// Calls that an intruder would make first, with their names: to get at programs, processes, rights
/// and the kernel.
pub const FATAL: &[(&str, c_long)] = names! {
    SYS_execve SYS_execveat SYS_fork SYS_vfork SYS_clone SYS_ptrace SYS_process_vm_readv
    SYS_process_vm_writev SYS_socket SYS_kill SYS_tkill SYS_mount SYS_umount2 SYS_pivot_root
    SYS_chroot SYS_unshare SYS_setns SYS_bpf SYS_perf_event_open SYS_keyctl SYS_add_key
    SYS_init_module SYS_finit_module SYS_kexec_load SYS_reboot SYS_setuid SYS_setgid SYS_setresuid
    SYS_setresgid SYS_capset SYS_chmod SYS_fchmodat SYS_chown SYS_fchownat SYS_link SYS_linkat
    SYS_symlink SYS_symlinkat SYS_mknod SYS_mknodat SYS_io_uring_setup SYS_swapon SYS_acct SYS_iopl
    SYS_ioperm SYS_open_by_handle_at SYS_name_to_handle_at SYS_pidfd_open SYS_pidfd_getfd
    SYS_personality SYS_sethostname SYS_settimeofday SYS_clock_settime
};

fn say(text: &[u8]) {
    #[expect(unsafe_code, reason = "only bare calls are sound in a signal handler")]
    // SAFETY: the bytes outlive the call.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
    }
}

extern "C" fn caught(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    #[expect(unsafe_code, reason = "the field has no accessor")]
    // SAFETY: for SIGSYS the kernel fills in this part of the union, whose layout is fixed.
    let call = c_long::from(unsafe { (*info.cast::<Caught>()).call });
    say(b"ferry: the sandbox ends this process: the system call ");
    if let Some((name, _)) = FATAL.iter().find(|(_, number)| *number == call) {
        say(name.as_bytes().strip_prefix(b"SYS_").unwrap_or_default());
    }
    say(b" is not among those that it needs (--no-sandbox turns the sandbox off)\n");
    #[expect(unsafe_code, reason = "only bare calls are sound in a signal handler")]
    // SAFETY: it does not come back, and runs nothing of this process.
    unsafe {
        libc::_exit(128 + SIGSYS)
    }
}

/// Lets calls that trap end the process with a sentence.
pub fn install() -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper gives the number of the call")]
    // SAFETY: the structure is whole, zero being a valid value of each field that is not set, and
    // the handler calls nothing but write(2) and _exit(2).
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
