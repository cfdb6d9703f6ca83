//! Where control sockets lie, and which machines answer.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

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
    Ok(folder)
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
