//! What a process that takes a machine from elsewhere keeps of its rights.

use std::path::Path;

use anyhow::{Context, Result};
use machine::HostConfig;
use sandbox::{Needed, Policy, Use};
use transport::Address;

use crate::arbiter::Chosen;
use crate::cli::ReceiveOptions;
use crate::options::Outputs;

/// Devices that a machine may need here, whichever it turns out to be.
const DEVICES: [&str; 4] = ["/dev/kvm", "/dev/userfaultfd", "/dev/net/tun", "/dev/null"];
/// Files to read: what the host has to offer; randomness; how names of hosts are found, for a
/// further move. Of other processes `/proc` tells a confined one no more than their names.
const READ: [&str; 10] = [
    "/proc",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/usr/lib",
    "/lib",
];

/// Gives up what is not needed, before the first byte is read.
///
/// # Errors
/// If it cannot be done.
pub fn enter(
    options: &ReceiveOptions,
    address: &Address,
    host: &HostConfig,
    chosen: &Chosen,
) -> Result<()> {
    if options.no_sandbox {
        return Ok(());
    }
    let mut files: Vec<Needed> = READ.map(|path| Needed::new(path, Use::Read)).into();
    files.extend(DEVICES.map(|path| Needed::new(path, Use::ReadWrite)));
    files.extend(host.disk.values().map(|disk| Needed::new(&disk.path, Use::ReadWrite)));
    let outputs = Outputs::new(&options.host, host)?.files()?;
    files.extend(outputs.into_iter().map(|path| Needed::new(path, Use::ReadWrite)));
    let mut folders = chosen.folders(host)?;
    folders.push(control::runtime_folder().context("there is no place for control sockets")?);
    folders.extend(options.sandbox_folder.iter().cloned());
    files.extend(folders.into_iter().map(|path| Needed::new(path, Use::Folder)));
    if let Address::Unix(path) = address {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        files.push(Needed::new(folder.unwrap_or(Path::new(".")), Use::Remove));
    }
    if sandbox::support().landlock == 0 {
        eprintln!("ferry: warning: this kernel has no Landlock: files are not restricted");
    }
    let has_command = matches!(address, Address::Exec(_));
    sandbox::confine(&Policy { files, has_command })
        .context("the sandbox cannot be entered (--no-sandbox does without)")
}

/// Whether a machine's process can send it there.
///
/// # Errors
/// If the process is confined, and the address needs another.
pub fn check_sink(address: &Address) -> Result<(), String> {
    if !sandbox::is_confined() {
        return Ok(());
    }
    let stays = "the guest goes on here";
    match address {
        Address::Exec(_) => Err(format!(
            "{address}: this process took the machine from elsewhere and is in the sandbox, where \
             no command can be started; use tcp: or unix:, or receive it with --no-sandbox; {stays}"
        )),
        Address::File(path) if !is_writable(path) => Err(format!(
            "{address}: this process took the machine from elsewhere and is in the sandbox, where \
             that folder cannot be used; receive it with --sandbox-folder FOLDER; {stays}"
        )),
        _ => Ok(()),
    }
}

/// Landlock has no question to ask but the deed itself: the passing name that a save begins with.
fn is_writable(path: &Path) -> bool {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let options = || std::fs::File::options();
    let opened = options().write(true).create(true).truncate(false).open(&partial);
    match opened {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
    }
}
