//! What backs a disk on this host.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, fadvise, flock};

/// Bytes in a sector, the unit of virtio-blk requests and capacities (virtio 1.2, section 5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// The bytes of a disk. Offsets are in bytes from the start of the disk; the device asks for no
/// byte outside its own capacity.
pub trait BlockBackend: Send {
    /// Capacity in sectors of 512 bytes.
    fn sectors(&self) -> u64;
    /// Reads all of `data` from `offset` on.
    ///
    /// # Errors
    /// If not all of it could be read.
    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` from `offset` on.
    ///
    /// # Errors
    /// If not all of it could be written.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes all that was written last past a loss of power.
    ///
    /// # Errors
    /// If that could not be assured.
    fn flush(&mut self) -> io::Result<()>;
    /// Opens the disk and takes the lock that says that this process uses it, without waiting for it.
    /// Nothing is read or written before. If it is locked already nothing changes.
    ///
    /// # Errors
    /// `WouldBlock` if another process uses the disk; others if it is not what it was.
    fn lock(&mut self) -> io::Result<()>;
    /// Gives the lock back and closes the disk.
    ///
    /// # Errors
    /// If the host says that it cannot be given back.
    fn unlock(&mut self) -> io::Result<()>;
}

/// A raw disk image: a whole file or block device. It is open while this process has its lock, and
/// not before: what another host has written meanwhile is then read from it and from no cache.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    sectors: u64,
    read_only: bool,
    file: Option<File>,
}

impl FileDisk {
    /// Looks at an image, which can be opened so; it is not open or locked yet. Bytes past the last
    /// whole sector are left alone.
    ///
    /// # Errors
    /// If the file cannot be opened so, or its length cannot be told.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let sectors = sectors(&open(path, read_only)?)?;
        Ok(Self { path: path.to_owned(), sectors, read_only, file: None })
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("the disk is not this process's"))
    }
}

fn open(path: &Path, read_only: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(!read_only).open(path)
}

fn sectors(file: &File) -> io::Result<u64> {
    // The length of a block device is where its end is.
    let mut file = file;
    Ok(file.seek(SeekFrom::End(0))? / SECTOR_SIZE)
}

/// Drops what this host has cached of a block device: another host may have written to it. A file
/// system sees to that itself when a file is opened.
fn forget_cached(file: &File) -> io::Result<()> {
    if file.metadata()?.file_type().is_block_device() {
        fadvise(file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

impl BlockBackend for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file()?.read_exact_at(data, offset)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) if !self.read_only => file.sync_data(),
            // Nothing was written.
            _ => Ok(()),
        }
    }

    /// Opens the image and takes the lock of `flock(2)`: shared by all readers of a disk that is read
    /// only, exclusive otherwise.
    fn lock(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let operation = if self.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        let file = open(&self.path, self.read_only)?;
        flock(&file, operation)?;
        let now = sectors(&file)?;
        if now != self.sectors {
            let was = self.sectors;
            return Err(io::Error::other(format!("it has {now} sectors, and had {was}")));
        }
        forget_cached(&file)?;
        self.file = Some(file);
        Ok(())
    }

    /// Gives the lock back and closes the image.
    fn unlock(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some(file) => Ok(flock(&file, FlockOperation::Unlock)?),
            None => Ok(()),
        }
    }
}
