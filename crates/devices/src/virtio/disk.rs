//! What backs a disk on this host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

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
    /// Takes the lock that says that this process uses the disk, without waiting for it.
    ///
    /// # Errors
    /// `WouldBlock` if another process uses the disk.
    fn lock(&mut self) -> io::Result<()>;
    /// Gives the lock back.
    ///
    /// # Errors
    /// If the host says that it cannot be given back.
    fn unlock(&mut self) -> io::Result<()>;
}

/// A raw disk image: a whole file or block device.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    sectors: u64,
    read_only: bool,
}

impl FileDisk {
    /// Opens an image; it is not locked yet. Bytes past the last whole sector are left alone.
    ///
    /// # Errors
    /// If the file cannot be opened so, or its length cannot be told.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        // The length of a block device is where its end is.
        let length = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, sectors: length / SECTOR_SIZE, read_only })
    }
}

impl BlockBackend for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    /// Takes the lock of `flock(2)`: shared by all readers of a disk that is read only, exclusive
    /// otherwise.
    fn lock(&mut self) -> io::Result<()> {
        let operation = if self.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        Ok(flock(&self.file, operation)?)
    }

    fn unlock(&mut self) -> io::Result<()> {
        Ok(flock(&self.file, FlockOperation::Unlock)?)
    }
}
