//! Where control sockets lie, and which machines answer.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::message::{Reply, Request, Status};

/// The folder of this user's control sockets, made if it is not there.
///
/// # Errors
/// If it cannot be made.
pub fn runtime_folder() -> io::Result<PathBuf> {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(base) if !base.is_empty() => PathBuf::from(base).join("ferry"),
        _ => std::env::temp_dir().join(format!("ferry-{}", rustix::process::getuid().as_raw())),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    check_private(&folder)?;
    Ok(folder)
}

/// Whoever can put a socket here, or speak to one, commands the machines. In a folder that anybody
/// may write to, such as /tmp, somebody else may have been first to take the name.
fn check_private(folder: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if own && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let why = format!("{} is not a folder of this user's alone (mode 0700)", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// The socket of a machine of this name.
///
/// # Errors
/// If the folder cannot be made.
pub fn socket_path(name: &str) -> io::Result<PathBuf> {
    Ok(runtime_folder()?.join(format!("{name}.sock")))
}

/// A machine that was found.
pub struct Found {
    /// Its socket.
    pub socket: PathBuf,
    /// What it says of itself.
    pub status: Status,
}

/// The machines that answer, by name. Sockets that nobody listens at are removed.
///
/// # Errors
/// If the folder cannot be read.
pub fn running() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(runtime_folder()?)? {
        let socket = entry?.path();
        if socket.extension().is_none_or(|extension| extension != "sock") {
            continue;
        }
        let refused = UnixStream::connect(&socket)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            fs::remove_file(&socket)?;
            continue;
        }
        let answer = Client::connect(&socket).and_then(|mut client| client.ask(&Request::Status));
        if let Ok(Reply::Status(status)) = answer {
            found.push(Found { socket, status });
        }
    }
    found.sort_by(|left, right| left.status.name.cmp(&right.status.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_can_use_is_refused() {
        let base = std::env::temp_dir().join(format!("ferry-folder-{}", std::process::id()));
        let (folder, link) = (base.join("a"), base.join("b"));
        fs::create_dir_all(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        check_private(&folder).unwrap();
        assert!(check_private(&link).is_err());
        for mode in [0o777, 0o770, 0o701] {
            set(mode);
            let error = check_private(&folder).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
        }
        fs::remove_dir_all(&base).unwrap();
    }
}
