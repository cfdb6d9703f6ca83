//! Landlock: which files may be used for what (landlock(7)).

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};

use crate::{Needed, Use};

/// The newest version whose rights are all named below. A kernel that has less of it restricts what
/// it can.
const NEWEST: ABI = ABI::V6;

fn rights(access: Use) -> BitFlags<AccessFs> {
    match access {
        Use::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Use::Remove => AccessFs::RemoveFile.into(),
        Use::ReadWrite => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev}),
        Use::Folder => make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | MakeDir | RemoveFile
        }),
    }
}

/// The kernel's version; 0 if there is none.
pub fn version() -> u32 {
    const ONLY_VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: with this flag the kernel reads no memory (landlock_create_ruleset(2)).
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, ONLY_VERSION) };
    u32::try_from(answer).unwrap_or(0)
}

/// Restricts this thread, and those that it starts, to these files, and to no abstract socket of another
/// process.
pub fn restrict(files: &[Needed]) -> Result<(), RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    for Needed { path, access } in files {
        // What is not there is nothing to allow.
        let Ok(opened) = PathFd::new(path) else { continue };
        let mut allowed = rights(*access);
        if !path.is_dir() {
            allowed &= AccessFs::from_file(NEWEST);
        }
        rules = rules.add_rule(PathBeneath::new(opened, allowed))?;
    }
    rules.restrict_self()?;
    Ok(())
}
