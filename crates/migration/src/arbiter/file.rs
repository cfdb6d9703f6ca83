//! The record in a file, beside a machine's disk or in a folder of this host's.
//!
//! `PATH` is the record, `PATH.lock` an empty file that is locked: byte 0 while the record is being
//! swapped; byte 1, shared, by every process that has a copy of the guest in memory, and exclusively
//! by one that starts the machine. The locks are open-file-description locks: they go away with
//! their process, whatever ends it, and on shared storage they are seen by all hosts.
//!
//! A new record is written to `PATH.new`, brought to the disk, and renamed over the old one, and the
//! folder is brought to the disk. A full disk shows before the renaming: nothing was changed then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lock::{Lock, lock};
use super::{Arbiter, Hold, Swap};
use crate::handover::{MAX_RECORD, OwnerId, Record, RecordState, VmId};
use crate::migratable::Cause;

/// The byte that is locked while the record is swapped.
const SWAPPING: i64 = 0;
/// The byte that is locked by whoever has a copy of the guest.
const COPY: i64 = 1;

/// A record in a file.
#[derive(Debug)]
pub struct FileArbiter {
    vm: VmId,
    path: PathBuf,
    /// The open lock file, while this process has a copy of the guest.
    held: Option<File>,
    /// Whether the record is removed once the machine has ended.
    removed_when_free: bool,
}

/// A record file cannot be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no record", path.display())]
    Record { path: PathBuf, source: crate::handover::RecordError },
    #[error("the machine is in use: it is {record} in {}", path.display())]
    InUse { record: Record, path: PathBuf },
    #[error("the machine is in use: somebody holds the lock on {}", path.display())]
    InUseByNobody { path: PathBuf },
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl FileArbiter {
    /// The record of a machine with a disk: `DISK.ferry`.
    pub fn beside_disk(vm: VmId, disk: &Path) -> Self {
        // Two names of one disk lead to one record.
        let disk = disk.canonicalize().unwrap_or_else(|_| disk.to_owned());
        Self { vm, path: beside(&disk, ".ferry"), held: None, removed_when_free: false }
    }

    /// The record of a machine without a disk of its own: a file in a folder of this host's, which
    /// is removed when the machine ends in order.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn in_folder(vm: VmId, folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.ferry", machine::format_uuid(&vm)));
        Ok(Self { vm, path, held: None, removed_when_free: true })
    }

    /// The same record, of which nothing is held.
    pub(super) fn without_hold(&self) -> Self {
        let Self { vm, path, held: _, removed_when_free } = self;
        Self { vm: *vm, path: path.clone(), held: None, removed_when_free: *removed_when_free }
    }

    /// Where the record is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock_path(&self) -> PathBuf {
        beside(&self.path, ".lock")
    }

    fn error(&self, doing: &'static str, path: PathBuf) -> impl Fn(io::Error) -> Cause + use<> {
        move |source| FileError::Io { doing, path: path.clone(), source }.into()
    }

    /// The lock file, which is the one that others open too.
    fn open_lock(&self) -> Result<File, Cause> {
        let path = self.lock_path();
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(self.error("open", path))
    }

    /// True if a locked file is the one that has the name: it may have been removed meanwhile.
    fn has_name(&self, file: &File) -> bool {
        let named = fs::metadata(self.lock_path());
        let (Ok(open), Ok(named)) = (file.metadata(), named) else { return false };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }

    fn locked(&self, byte: i64, how: Lock, wait: bool) -> Result<Result<File, ()>, Cause> {
        loop {
            let file = self.open_lock()?;
            match lock(&file, byte, how, wait) {
                Ok(()) if self.has_name(&file) => return Ok(Ok(file)),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Err(())),
                Err(error) => return Err(self.error("lock", self.lock_path())(error)),
            }
        }
    }

    fn look(&self) -> Result<Option<Record>, Cause> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("open", self.path.clone())(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(self.error("read", self.path.clone()))?;
        let record = Record::from_text(&bytes)
            .map_err(|source| FileError::Record { path: self.path.clone(), source })?;
        Ok(Some(record))
    }

    /// Everything up to the step that makes a new record the record.
    fn write_new(&self, record: &Record) -> Result<PathBuf, Cause> {
        let path = beside(&self.path, ".new");
        let error = self.error("write", path.clone());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(&error)?;
        let written = file.write_all(record.to_text().as_bytes()).and_then(|()| file.sync_all());
        if let Err(why) = written {
            // It takes room for nothing; what cannot be removed is overwritten the next time.
            let _ = fs::remove_file(&path);
            return Err(error(why));
        }
        Ok(path)
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Arbiter for FileArbiter {
    fn vm(&self) -> VmId {
        self.vm
    }

    fn read(&mut self) -> Result<Option<Record>, Cause> {
        // Renaming is atomic: there is the old record or the new one, and never a part.
        self.look()
    }

    fn compare_and_swap(&mut self, expected: Option<&Record>, new: &Record) -> Swap {
        let _swapping = match self.locked(SWAPPING, Lock::Exclusive, true) {
            Ok(Ok(file)) => file,
            Ok(Err(())) => return Swap::Refused(io::Error::from(io::ErrorKind::WouldBlock).into()),
            Err(error) => return Swap::Refused(error),
        };
        match self.look() {
            Ok(found) if found.as_ref() == expected => {}
            Ok(found) => return Swap::Lost(found),
            Err(error) => return Swap::Refused(error),
        }
        let written = match self.write_new(new) {
            Ok(written) => written,
            Err(error) => return Swap::Refused(error),
        };
        let renamed = fs::rename(&written, &self.path).and_then(|()| self.sync_folder());
        match renamed {
            Ok(()) => Swap::Swapped,
            // Whether the disk holds the old name or the new one nobody can say.
            Err(error) => Swap::Unknown(self.error("replace", self.path.clone())(error)),
        }
    }

    fn hold(&mut self, hold: Hold, _me: &OwnerId) -> Result<(), Cause> {
        if self.held.is_some() {
            return Ok(());
        }
        if let Hold::Alone { .. } = hold {
            match self.locked(COPY, Lock::Exclusive, false)? {
                Ok(file) => {
                    // From here on others may join whom this process gives the guest to.
                    lock(&file, COPY, Lock::Shared, false)
                        .map_err(self.error("lock", self.lock_path()))?;
                    self.held = Some(file);
                    return Ok(());
                }
                Err(()) => {
                    let path = self.path.clone();
                    return Err(match self.look()? {
                        Some(record) => FileError::InUse { record, path }.into(),
                        None => FileError::InUseByNobody { path: self.lock_path() }.into(),
                    });
                }
            }
        }
        match self.locked(COPY, Lock::Shared, false)? {
            Ok(file) => {
                self.held = Some(file);
                Ok(())
            }
            Err(()) => Err(FileError::InUseByNobody { path: self.lock_path() }.into()),
        }
    }

    fn let_go(&mut self) {
        let Some(file) = self.held.take() else { return };
        if !self.removed_when_free {
            return;
        }
        // Only the last one to let go cleans up, and nobody can come while it does.
        let alone = lock(&file, COPY, Lock::Exclusive, false).is_ok();
        let free = matches!(self.look(), Ok(None | Some(Record { state: RecordState::Free, .. })));
        if alone && free {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(self.lock_path());
        }
    }

    fn another(&self) -> Box<dyn Arbiter> {
        Box::new(self.without_hold())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for FileArbiter {
    fn drop(&mut self) {
        self.let_go();
    }
}
