//! Gives up, for good, what a process that takes a machine from elsewhere does not need: rights to
//! files by Landlock, system calls by seccomp, and new privileges. It is told what is needed and
//! decides nothing else; it opens no file of its own and knows no machine.
//!
//! [`confine`] is called once, by the only thread, before the first byte from outside is read.
//! Every thread that is started later is confined as well, and there is no way back.

mod files;
mod syscalls;
mod violation;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a file may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read, in a folder: anything in it.
    Read,
    /// Read and write a file or a device, and control a device.
    ReadWrite,
    /// Remove a file or socket from a folder.
    Remove,
    /// Make, replace, write and remove files and sockets in a folder, and make folders.
    Folder,
}

/// A file, device or folder that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Where it is. What is not there now cannot be used later.
    pub path: PathBuf,
    /// What for.
    pub access: Use,
}

impl Needed {
    /// A need.
    pub fn new(path: impl Into<PathBuf>, access: Use) -> Self {
        Self { path: path.into(), access }
    }
}

/// What a process needs from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Files.
    pub files: Vec<Needed>,
    /// It has started a command whose end it waits for, or which it ends.
    pub has_command: bool,
}

/// What of the sandbox the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// Landlock's version (its ABI); 0 if there is none.
    pub landlock: u32,
    /// Seccomp filters.
    pub seccomp: bool,
}

/// A sandbox that could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The rules for files were refused.
    #[error("the files that may be used cannot be restricted")]
    Files(#[source] landlock::RulesetError),
    /// The filter was refused.
    #[error("the system calls that may be made cannot be restricted: {0}")]
    SystemCalls(String),
    /// The handler that names a forbidden call cannot be installed.
    #[error("forbidden system calls cannot be caught")]
    Handler(#[source] std::io::Error),
}

static CONFINED: AtomicBool = AtomicBool::new(false);

/// True once this process has confined itself.
pub fn is_confined() -> bool {
    CONFINED.load(Ordering::Acquire)
}

/// What the kernel offers.
pub fn support() -> Support {
    // A confined process cannot ask any more.
    static FOUND: OnceLock<Support> = OnceLock::new();
    *FOUND.get_or_init(|| Support { landlock: files::version(), seccomp: syscalls::is_offered() })
}

/// Confines this process to what the policy names. Where the kernel has no Landlock the files are
/// not restricted, and [`support`] says so.
///
/// # Errors
/// If it cannot be done. The process may be confined in part, and must not go on.
pub fn confine(policy: &Policy) -> Result<(), SandboxError> {
    support();
    violation::install().map_err(SandboxError::Handler)?;
    files::restrict(&policy.files).map_err(SandboxError::Files)?;
    syscalls::restrict(policy).map_err(SandboxError::SystemCalls)?;
    CONFINED.store(true, Ordering::Release);
    Ok(())
}
