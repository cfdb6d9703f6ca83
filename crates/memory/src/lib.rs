//! Guest memory: the mapped RAM of one machine, its RAM blocks as the stream names them, the dirty
//! log that accelerator and devices share, the watch on pages whose stores somebody must hear of
//! (decoded code), and pages that are missing, for which whoever touches them waits. It never knows
//! a device, a channel or a CPU, and never decides when to look at the log: whoever harvests it
//! must do so while no vCPU holds a stale write translation.

mod bitmap;
mod encoding;
mod log;
mod ram;
mod userfault;

pub use bitmap::DirtyBitmap;
pub use encoding::BitmapError;
pub use log::{PageLog, PageLogSlice};
pub use ram::{GuestRam, HIGH_MEMORY_START, LOW_MEMORY_LIMIT, MemoryError, RamBlock, RamRegion};
pub use userfault::{MissingPages, Userfault, UserfaultError};
/// The mapped regions, as vm-memory and virtio-queue see them.
pub type GuestMemory = vm_memory::GuestMemoryMmap<PageLog>;

/// Bytes in a page of guest memory, the unit of the dirty log and of the stream.
pub const PAGE_SIZE: usize = 4096;
