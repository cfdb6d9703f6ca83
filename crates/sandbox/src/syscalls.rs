//! Seccomp: which system calls may be made (seccomp(2)).
//!
//! A call that is not on the list is as on a kernel that does not have it: what nobody thought of, a
//! newer C library's for instance, must not cost a guest. One that an intruder would make ends the
//! process.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use crate::Policy;
use crate::violation::FATAL;

/// Calls with any arguments.
const ALLOWED: &[c_long] = &[
    // Bytes in and out of what is open.
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_lseek,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_ftruncate,
    SYS_copy_file_range,
    SYS_fcntl,
    SYS_flock,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_close,
    SYS_close_range,
    SYS_pipe2,
    SYS_eventfd2,
    // Files, as far as Landlock lets them be used.
    SYS_open,
    SYS_openat,
    SYS_openat2,
    SYS_stat,
    SYS_fstat,
    SYS_lstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_getcwd,
    SYS_getdents64,
    SYS_rename,
    SYS_renameat,
    SYS_renameat2,
    SYS_unlink,
    SYS_unlinkat,
    SYS_mkdir,
    SYS_mkdirat,
    SYS_fchmod,
    SYS_umask,
    // Connections: the control socket, a further move, the record in etcd, names of hosts.
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept4,
    SYS_getsockname,
    SYS_getpeername,
    SYS_setsockopt,
    SYS_getsockopt,
    SYS_shutdown,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    SYS_socketpair,
    // Waiting.
    SYS_poll,
    SYS_ppoll,
    SYS_select,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_time,
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_delete,
    SYS_restart_syscall,
    // Memory.
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_mincore,
    SYS_msync,
    SYS_brk,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_memfd_create,
    SYS_membarrier,
    SYS_userfaultfd,
    SYS_getrandom,
    // Threads, and signals among them.
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_getcpu,
    SYS_getrusage,
    SYS_times,
    SYS_arch_prctl,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_rt_sigpending,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_exit,
    SYS_exit_group,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrlimit,
];

/// Calls about commands that were started before.
const COMMANDS: &[c_long] = &[SYS_wait4, SYS_waitid, SYS_kill, SYS_pidfd_send_signal];

/// The types of `ioctl` requests (their second byte): terminals, sockets' pending bytes and tap; block
/// devices; KVM; userfaultfd.
const IOCTLS: [u64; 4] = [0x54, 0x12, 0xae, 0xaa];
/// `PR_SET_NAME`, and `PR_SET_VMA`, by which the C library names its mappings.
const PRCTLS: [u64; 2] = [PR_SET_NAME as u64, 0x5356_4d41];
/// Families of sockets: the last is how the C library learns which kinds of addresses are worth trying.
const FAMILIES: [c_int; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

/// True if the kernel takes filters.
pub fn is_offered() -> bool {
    let action = SECCOMP_RET_TRAP;
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: the kernel reads the four bytes of `action`, which outlive the call.
    let answer = unsafe { syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

fn condition(
    argument: u8,
    how: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
}

fn when(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, how, value)?])
}

fn target() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

/// What may be done. `clone3` has its arguments in memory, where a filter cannot see them: it is
/// left out, and the C library uses `clone`.
fn allowed(policy: &Policy) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    if policy.has_command {
        rules.extend(COMMANDS.iter().map(|call| (*call, Vec::new())));
    }
    let ioctls = IOCTLS.iter().map(|kind| when(1, SeccompCmpOp::MaskedEq(0xff00), kind << 8));
    rules.insert(SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let prctls = PRCTLS.iter().map(|option| when(0, SeccompCmpOp::Eq, *option));
    rules.insert(SYS_prctl, prctls.collect::<Result<_, _>>()?);
    let families = FAMILIES.iter().map(|family| when(0, SeccompCmpOp::Eq, *family as u64));
    rules.insert(SYS_socket, families.collect::<Result<_, _>>()?);
    // A thread of this process, never a process.
    let thread = CLONE_THREAD as u64;
    rules.insert(SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Reading this process's own limits, which the C library does for a thread's stack.
    rules.insert(SYS_prlimit64, vec![when(0, SeccompCmpOp::Eq, 0)?]);
    let unknown = SeccompAction::Errno(ENOSYS as u32);
    SeccompFilter::new(rules, unknown, SeccompAction::Allow, target()?)?.try_into()
}

/// What traps, though the list above would only deny it: of two filters the kernel takes the
/// stricter word.
fn fatal(policy: &Policy) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        FATAL.iter().map(|(_, call)| (*call, Vec::new())).collect();
    if policy.has_command {
        rules.retain(|call, _| !COMMANDS.contains(call));
    }
    let others = FAMILIES.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family as u64));
    rules.insert(SYS_socket, vec![SeccompRule::new(others.collect::<Result<_, _>>()?)?]);
    let process = SeccompCmpOp::MaskedEq(CLONE_THREAD as u64);
    rules.insert(SYS_clone, vec![when(0, process, 0)?]);
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, target()?)?.try_into()
}

/// Restricts all threads of this process. Takes the right to gain privileges as well.
pub fn restrict(policy: &Policy) -> Result<(), String> {
    // The last one forbids installing another.
    for program in [fatal(policy), allowed(policy)] {
        let program = program.map_err(|error| error.to_string())?;
        apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}
