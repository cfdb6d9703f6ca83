//! `file:`. What is written becomes visible under its name only when it is whole and on the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::oneway::ended;
use crate::{Address, Control, Delivered, Delivery, Intake, Sink, TransportError};

/// A file never makes anybody wait for a peer: it only needs the flag.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(ended()) } else { Ok(()) }
    }
}

impl Control for Flag {
    fn shutdown(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to `PATH.partial`, which becomes `PATH` at the commit.
pub(crate) struct FileSink {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    keep: bool,
    address: Address,
    flag: Arc<Flag>,
}

impl FileSink {
    pub(crate) fn create(path: &Path, address: &Address) -> Result<Self, TransportError> {
        let error = TransportError::io("cannot write", address);
        // Found out now, and not after everything was written.
        if path.is_dir() || path.file_name().is_none() {
            return Err(error(io::ErrorKind::IsADirectory.into()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        match open_partial(&partial) {
            Ok(file) => Ok(Self {
                file,
                path: path.to_owned(),
                partial,
                keep: false,
                address: address.clone(),
                flag: Arc::default(),
            }),
            Err(source) => Err(TransportError::io("cannot write", &Address::File(partial))(source)),
        }
    }
}

/// Opens the file under its passing name, for this process alone. One that a killed process left
/// behind is used again.
fn open_partial(partial: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(partial)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::AddrInUse, "another process is writing it")
            }
            other => other.into(),
        },
    )?;
    if file.metadata()?.nlink() == 0 {
        // Whoever held the lock before has just removed it.
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process was writing it"));
    }
    file.set_len(0)?;
    Ok(file)
}

impl Write for FileSink {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.flag.check()?;
        self.file.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for FileSink {
    fn delivery(&self) -> Delivery {
        Delivery::Commit
    }

    fn control(&self) -> Arc<dyn Control> {
        self.flag.clone()
    }

    fn prepare(&mut self) -> Result<(), TransportError> {
        self.flag
            .check()
            .and_then(|()| self.file.sync_all())
            .map_err(TransportError::io("cannot bring to the disk", &self.address))
    }

    fn commit(mut self: Box<Self>) -> Result<Delivered, TransportError> {
        // From here on it may be the only copy that anybody goes on from.
        self.keep = true;
        fs::rename(&self.partial, &self.path)
            .map_err(TransportError::io("cannot give its name to", &self.address))?;
        // The name is an entry of the directory, and has to reach the disk by itself.
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(TransportError::io("cannot bring to the disk the name of", &self.address))?;
        Ok(Delivered::Confirmed)
    }

    fn discard(self: Box<Self>) {}
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing can be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Reads a file from its start to its end.
pub(crate) struct FileIntake {
    file: File,
    flag: Arc<Flag>,
}

impl FileIntake {
    pub(crate) fn open(path: &Path, address: &Address) -> Result<Self, TransportError> {
        let file = File::open(path).map_err(TransportError::io("cannot read", address))?;
        Ok(Self { file, flag: Arc::default() })
    }
}

impl Read for FileIntake {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.flag.check()?;
        self.file.read(into)
    }
}

impl Intake for FileIntake {
    fn control(&self) -> Arc<dyn Control> {
        self.flag.clone()
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}
