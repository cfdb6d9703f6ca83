//! virtio-blk (virtio 1.2, section 5.2): one queue, requests served one after the other before the
//! guest's notification ends.

use memory::GuestMemory;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_GEOMETRY, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SCSI, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vmstate::VmState;

use super::disk::{BlockBackend, SECTOR_SIZE};
use super::legacy::{LegacyDevice, VirtioLegacyState};
use super::queue::{Chain, QueueError, Virtqueue};
use super::registers::ANY_LAYOUT;
use super::state::VirtioMmioState;
use super::{Transport, VirtioDevice};

const HEADER_SIZE: usize = 16;
const ID_SIZE: usize = VIRTIO_BLK_ID_BYTES as usize;
/// Bytes of a request that are moved at once.
const CHUNK_SIZE: usize = 128 << 10;
/// Length of the configuration space: up to the block size.
const CONFIG_SIZE: usize = 24;
/// The same as in QEMU 7.2: up to whether zeroes may be written by discarding.
const QEMU_CONFIG_SIZE: usize = 57;
/// Where the configuration space says whether the host may keep writes in its cache.
const WRITEBACK: usize = 32;
/// Bytes of the one range that a request to discard or to write zeroes has.
const RANGE_SIZE: u64 = 16;
/// Sectors that QEMU lets one such request name.
const QEMU_RANGE_SECTORS: u32 = (1 << 22) - 1;

/// Whose disk it is that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// That of `ferry-1`.
    Ferry1,
    /// That of QEMU 7.2, whose configuration space is state: geometry and topology follow from
    /// QEMU's image, and the guest can set whether writes are cached.
    Qemu,
}

/// What the guest sees of a disk; it follows from the machine configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Capacity in sectors of 512 bytes.
    pub sectors: u64,
    /// The guest cannot write.
    pub read_only: bool,
    /// The identifier that the guest can ask for, at most 20 bytes.
    pub id: String,
    /// Features and configuration space.
    pub kind: BlockKind,
}

/// A disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// What backs the disk is not as large as the machine says.
    #[error("disk has {actual} sectors, the machine has one of {expected}")]
    Capacity {
        /// Sectors in the machine configuration.
        expected: u64,
        /// Sectors of the backend.
        actual: u64,
    },
    /// An identifier that does not fit its field.
    #[error("disk identifier {0:?} is longer than 20 bytes")]
    Id(String),
}

/// Saved state of a virtio-blk slot.
///
/// Requests in flight have no place in it: every request is finished, with its status, before the
/// notification that started it ends, and what was made available and not notified is in the ring.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-blk", version = 1)]
pub struct VirtioBlockState {
    /// The transport.
    pub transport: VirtioMmioState,
    /// There if the slot has the legacy interface, and only then; never in `ferry-1`.
    #[vmstate(subsection = "legacy")]
    pub legacy: Option<VirtioLegacyState>,
}

/// A virtio-blk device.
pub struct VirtioBlock {
    kind: BlockKind,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_SIZE],
    config: Vec<u8>,
    backend: Box<dyn BlockBackend>,
    /// Where bytes are on their way between the backend and guest memory.
    chunk: Vec<u8>,
}

impl std::fmt::Debug for VirtioBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioBlock")
            .field("sectors", &self.sectors)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// How a request ended.
struct Outcome {
    status: u32,
    /// Bytes of the data part that were written, from its start on.
    written: u64,
}

impl Outcome {
    const IO_ERROR: Self = Self { status: VIRTIO_BLK_S_IOERR, written: 0 };
    const UNSUPPORTED: Self = Self { status: VIRTIO_BLK_S_UNSUPP, written: 0 };

    fn done(written: u64) -> Self {
        Self { status: VIRTIO_BLK_S_OK, written }
    }
}

impl VirtioBlock {
    /// A disk as the machine configuration has it, backed by `backend`.
    ///
    /// # Errors
    /// If the backend's capacity is another one: it is then most likely another disk.
    pub fn new(config: BlockConfig, backend: Box<dyn BlockBackend>) -> Result<Self, BlockError> {
        let BlockConfig { sectors, read_only, id, kind } = config;
        if backend.sectors() != sectors {
            return Err(BlockError::Capacity { expected: sectors, actual: backend.sectors() });
        }
        let mut id_field = [0; ID_SIZE];
        match id_field.get_mut(..id.len()) {
            Some(field) => field.copy_from_slice(id.as_bytes()),
            None => return Err(BlockError::Id(id)),
        }
        let config = match kind {
            BlockKind::Ferry1 => {
                // A request has a header and a status besides its segments.
                config_space(CONFIG_SIZE, sectors, u32::from(Transport::FERRY_1.queue_size) - 2)
            }
            BlockKind::Qemu => {
                // Of QEMU's default queue of 256, half.
                let mut config = config_space(QEMU_CONFIG_SIZE, sectors, 254);
                // min_io_size, wce, num_queues; of discarding and of writing zeroes the largest
                // range, how many of them, and the alignment or whether they may be discarded.
                config[26] = 1;
                config[WRITEBACK] = 1;
                config[34] = 1;
                for at in [36, 48] {
                    config[at..at + 4].copy_from_slice(&QEMU_RANGE_SECTORS.to_le_bytes());
                    config[at + 4] = 1;
                    config[at + 8] = 1;
                }
                config
            }
        };
        let chunk = vec![0; CHUNK_SIZE];
        Ok(Self { kind, sectors, read_only, id: id_field, config, backend, chunk })
    }

    /// What backs the disk.
    pub fn backend_mut(&mut self) -> &mut dyn BlockBackend {
        &mut *self.backend
    }

    fn serve(&mut self, chain: &Chain, memory: &GuestMemory) -> Result<u32, QueueError> {
        let mut header = [0; HEADER_SIZE];
        if chain.read(memory, 0, &mut header) != HEADER_SIZE {
            return Err(chain.malformed("its header is short"));
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([a, b, c, d]);
        let sector = u64::from_le_bytes(sector);
        let Some(room) = chain.writable_length().checked_sub(1) else {
            return Err(chain.malformed("it has no place for its status"));
        };
        let outcome = match kind {
            VIRTIO_BLK_T_IN => self.read(chain, memory, sector, room),
            VIRTIO_BLK_T_OUT => {
                self.write(chain, memory, sector, chain.readable_length() - HEADER_SIZE as u64)
            }
            VIRTIO_BLK_T_FLUSH => match self.backend.flush() {
                Ok(()) => Outcome::done(0),
                Err(_) => Outcome::IO_ERROR,
            },
            VIRTIO_BLK_T_GET_ID => {
                let length = room.min(ID_SIZE as u64) as usize;
                Outcome::done(chain.write(memory, 0, &self.id[..length]) as u64)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if self.kind == BlockKind::Qemu => {
                self.range_request(chain, memory, kind == VIRTIO_BLK_T_WRITE_ZEROES)
            }
            _ => Outcome::UNSUPPORTED,
        };
        chain.write(memory, room, &[outcome.status as u8]);
        // The length speaks of the bytes from the start on; it counts the status only if nothing
        // before it was left out.
        let written = if outcome.written == room { room + 1 } else { outcome.written };
        Ok(u32::try_from(written).expect("a chain is shorter than 4 GiB"))
    }

    /// Byte offset of a request that is inside the disk.
    fn place(&self, sector: u64, length: u64) -> Option<u64> {
        let end = sector.checked_add(length / SECTOR_SIZE)?;
        let inside = length.is_multiple_of(SECTOR_SIZE) && end <= self.sectors;
        if inside { sector.checked_mul(SECTOR_SIZE) } else { None }
    }

    fn read(&mut self, chain: &Chain, memory: &GuestMemory, sector: u64, length: u64) -> Outcome {
        let Some(start) = self.place(sector, length) else { return Outcome::IO_ERROR };
        let mut done = 0;
        while done < length {
            let part = &mut self.chunk[..(length - done).min(CHUNK_SIZE as u64) as usize];
            if self.backend.read_at(start + done, part).is_err() {
                return Outcome { status: VIRTIO_BLK_S_IOERR, written: done };
            }
            chain.write(memory, done, part);
            done += part.len() as u64;
        }
        Outcome::done(done)
    }

    fn write(&mut self, chain: &Chain, memory: &GuestMemory, sector: u64, length: u64) -> Outcome {
        let place = self.place(sector, length).filter(|_| !self.read_only);
        let Some(start) = place else { return Outcome::IO_ERROR };
        let mut done = 0;
        while done < length {
            let part = &mut self.chunk[..(length - done).min(CHUNK_SIZE as u64) as usize];
            chain.read(memory, HEADER_SIZE as u64 + done, part);
            if self.backend.write_at(start + done, part).is_err() {
                return Outcome::IO_ERROR;
            }
            done += part.len() as u64;
        }
        self.written()
    }

    /// What was written is past a loss of power, where the guest has switched the cache off.
    fn written(&mut self) -> Outcome {
        let cached = self.config.get(WRITEBACK).is_none_or(|writeback| *writeback != 0);
        if cached || self.backend.flush().is_ok() { Outcome::done(0) } else { Outcome::IO_ERROR }
    }

    /// A request to write zeroes to a range of sectors, or one to say that nobody needs them, which
    /// changes nothing here, as in a QEMU that is not told otherwise (section 5.2.6).
    fn range_request(&mut self, chain: &Chain, memory: &GuestMemory, zeroes: bool) -> Outcome {
        let mut range = [0; RANGE_SIZE as usize];
        if chain.readable_length() != HEADER_SIZE as u64 + RANGE_SIZE {
            return Outcome::UNSUPPORTED;
        }
        chain.read(memory, HEADER_SIZE as u64, &mut range);
        let [sector @ .., a, b, c, d, e, f, g, h] = range;
        let (sector, count) = (u64::from_le_bytes(sector), u32::from_le_bytes([a, b, c, d]));
        let flags = u32::from_le_bytes([e, f, g, h]);
        let allowed = if zeroes { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Outcome::UNSUPPORTED;
        }
        let length = u64::from(count) * SECTOR_SIZE;
        let place = self.place(sector, length).filter(|_| !self.read_only);
        let Some(start) = place.filter(|_| count <= QEMU_RANGE_SECTORS) else {
            return Outcome::IO_ERROR;
        };
        if !zeroes {
            return Outcome::done(0);
        }
        self.chunk.fill(0);
        let mut done = 0;
        while done < length {
            let part = &self.chunk[..(length - done).min(CHUNK_SIZE as u64) as usize];
            if self.backend.write_at(start + done, part).is_err() {
                return Outcome::IO_ERROR;
            }
            done += part.len() as u64;
        }
        self.written()
    }
}

/// The beginning of a configuration space (section 5.2.4): capacity, size_max, seg_max, geometry
/// (cylinders, heads, sectors), blk_size.
fn config_space(length: usize, sectors: u64, segments: u32) -> Vec<u8> {
    let mut config = vec![0; length];
    config[..8].copy_from_slice(&sectors.to_le_bytes());
    config[12..16].copy_from_slice(&segments.to_le_bytes());
    config[20..24].copy_from_slice(&(SECTOR_SIZE as u32).to_le_bytes());
    config
}

impl VirtioDevice for VirtioBlock {
    type State = VirtioBlockState;
    const NAME: &'static str = "virtio-blk";
    const DEVICE_ID: u32 = 2;
    const QUEUES: usize = 1;

    fn features(&self) -> u64 {
        let read_only = if self.read_only { 1 << VIRTIO_BLK_F_RO } else { 0 };
        let both = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        let own = match self.kind {
            BlockKind::Ferry1 => 0,
            BlockKind::Qemu => {
                1 << VIRTIO_BLK_F_GEOMETRY
                    | 1 << VIRTIO_BLK_F_TOPOLOGY
                    | 1 << VIRTIO_BLK_F_CONFIG_WCE
                    | 1 << VIRTIO_BLK_F_DISCARD
                    | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
        };
        both | own | read_only
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn takes_config(&self, saved: &[u8]) -> bool {
        match self.kind {
            BlockKind::Ferry1 => saved == self.config,
            // Capacity and sizes follow from the machine, the rest is as the guest has seen it.
            BlockKind::Qemu => {
                let follows = |config: &[u8]| [&config[..16], &config[20..24]].concat();
                saved.len() == self.config.len()
                    && follows(saved) == follows(&self.config)
                    && saved[WRITEBACK] <= 1
            }
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = offset == WRITEBACK as u64;
        if let (BlockKind::Qemu, true, &[writeback]) = (self.kind, at, data) {
            self.config[WRITEBACK] = u8::from(writeback != 0);
        }
    }

    fn process(
        &mut self,
        index: usize,
        queues: &mut [Virtqueue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        queues[index].serve(memory, |chain| self.serve(chain, memory))
    }

    fn driver_runs(&mut self, features: u64) {
        // A driver that cannot ask for a flush gets none of its writes from a cache. One that can
        // set the cache has its own way.
        if self.kind == BlockKind::Qemu && features & 1 << VIRTIO_BLK_F_CONFIG_WCE == 0 {
            self.config[WRITEBACK] = u8::from(features & 1 << VIRTIO_BLK_F_FLUSH != 0);
        }
    }

    fn reset(&mut self) {
        if self.kind == BlockKind::Qemu {
            self.config[WRITEBACK] = 1;
        }
    }

    fn save(&self, transport: VirtioMmioState) -> VirtioBlockState {
        // The configuration space is in the transport's part.
        let Self { kind: _, sectors: _, read_only: _, id: _, config: _, backend: _, chunk: _ } =
            self;
        VirtioBlockState { transport, legacy: None }
    }

    fn transport(state: &VirtioBlockState) -> &VirtioMmioState {
        let VirtioBlockState { transport, legacy: _ } = state;
        transport
    }

    fn legacy(state: &VirtioBlockState) -> Option<&VirtioLegacyState> {
        let VirtioBlockState { transport: _, legacy } = state;
        legacy.as_ref()
    }

    fn check(&self, _state: &VirtioBlockState) -> Result<(), String> {
        Ok(())
    }

    fn restore(&mut self, state: &VirtioBlockState) {
        let VirtioBlockState { transport, legacy: _ } = state;
        self.config.clone_from(&transport.config);
    }
}

impl LegacyDevice for VirtioBlock {
    /// As in QEMU, which keeps the size of its default configuration whatever the driver may choose.
    const QUEUE_SIZE: u16 = 256;

    fn legacy_features(&self) -> u64 {
        // QEMU says that it takes SCSI commands, each of which it answers as unsupported, and does
        // not say that it takes any layout, which it does.
        let own = self.features() | 1 << VIRTIO_BLK_F_SCSI;
        own | Transport::LEGACY.features & !ANY_LAYOUT
    }

    fn put_legacy(state: &mut VirtioBlockState, legacy: VirtioLegacyState) {
        state.legacy = Some(legacy);
    }
}
