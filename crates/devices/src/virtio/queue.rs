//! A split virtqueue (virtio 1.2, section 2.7): virtio-queue walks the rings, and this file adds what it leaves to its user: it says when a chain is malformed instead
//! of passing it off as short, and honours the driver's wish for no interrupts.

use std::sync::atomic::Ordering;

use memory::GuestMemory;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmstate::VmState;

/// The driver broke the rules of the ring; the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The size of the queue is none that the device allows.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// What the driver asked for.
        size: u16,
        /// The largest size that the device offers.
        max: u16,
    },
    /// A ring is not aligned.
    #[error("queue is set up wrongly")]
    Setup(#[source] virtio_queue::Error),
    /// A ring is not inside RAM.
    #[error("a ring of the queue is not in memory")]
    Outside,
    /// A ring cannot be used.
    #[error("ring cannot be used")]
    Ring(#[source] virtio_queue::Error),
    /// A chain has no end, or leaves its table.
    #[error("descriptor chain at {head} does not end")]
    Endless {
        /// Index of the chain's first descriptor.
        head: u16,
    },
    /// A buffer is not inside RAM.
    #[error(
        "descriptor chain at {head} has a buffer at {address:#x} of {length} bytes that is not in memory"
    )]
    Buffer {
        /// Index of the chain's first descriptor.
        head: u16,
        /// Guest-physical address of the buffer.
        address: u64,
        /// Length of the buffer in bytes.
        length: u32,
    },
    /// A buffer for the device to read follows one for it to write (section 2.7.4.2).
    #[error("descriptor chain at {head} has its buffers out of order")]
    Order {
        /// Index of the chain's first descriptor.
        head: u16,
    },
    /// A chain does not have the parts that the device's requests have.
    #[error("descriptor chain at {head} is no request: {reason}")]
    Request {
        /// Index of the chain's first descriptor.
        head: u16,
        /// What it lacks.
        reason: &'static str,
    },
}

/// Saved state of one virtqueue.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue", version = 1)]
pub struct QueueState {
    /// Number of descriptors, as the driver chose it.
    pub size: u16,
    /// The driver has handed the queue to the device.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptor_table: u64,
    /// Guest-physical address of the available ring (driver area).
    pub available_ring: u64,
    /// Guest-physical address of the used ring (device area).
    pub used_ring: u64,
    /// Index of the next entry of the available ring that the device will look at.
    pub next_available: u16,
    /// Index of the next entry of the used ring that the device will fill.
    pub next_used: u16,
    /// The driver has told of requests that the device has not come to.
    pub unfinished: bool,
}

/// A piece of guest memory, known to be inside RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    length: u32,
}

/// A request: the buffers of one descriptor chain.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.length)).sum()
}

/// The parts of guest memory that `length` bytes from `offset` on in `segments` lie in.
fn pieces(
    segments: &[Segment],
    mut offset: u64,
    length: usize,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    let mut left = length;
    segments.iter().filter_map(move |segment| {
        let skipped = offset.min(u64::from(segment.length));
        offset -= skipped;
        let here = (u64::from(segment.length) - skipped).min(left as u64) as usize;
        left -= here;
        (here != 0).then_some((GuestAddress(segment.address + skipped), here))
    })
}

impl Chain {
    /// Bytes that the device may read.
    pub fn readable_length(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    pub fn writable_length(&self) -> u64 {
        total(&self.writable)
    }

    /// Reads from the device-readable part; returns how many bytes there were from `offset` on.
    pub fn read(&self, memory: &GuestMemory, offset: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        for (address, length) in pieces(&self.readable, offset, into.len()) {
            memory
                .read_slice(&mut into[done..done + length], address)
                .expect("the buffers of a chain are in memory");
            done += length;
        }
        done
    }

    /// Writes to the device-writable part; returns how many bytes there was room for from `offset`
    /// on.
    pub fn write(&self, memory: &GuestMemory, offset: u64, from: &[u8]) -> usize {
        let mut done = 0;
        for (address, length) in pieces(&self.writable, offset, from.len()) {
            memory
                .write_slice(&from[done..done + length], address)
                .expect("the buffers of a chain are in memory");
            done += length;
        }
        done
    }

    /// An error that says that the chain is no request of the device.
    pub fn malformed(&self, reason: &'static str) -> QueueError {
        QueueError::Request { head: self.head, reason }
    }
}

/// One virtqueue, as the device sees it.
///
/// Every request is finished before the call that took it ends, so between two calls none is in
/// flight: `next_available` and `next_used` are equal unless the device needs a reset.
#[derive(Debug)]
pub struct Virtqueue {
    max_size: u16,
    /// What the driver has set up; the indices are those of `ring`.
    setup: QueueState,
    ring: Queue,
    /// Something was used and the driver has not been told yet.
    used: bool,
}

impl Virtqueue {
    /// A queue that is not set up, of `size` descriptors until the driver chooses.
    ///
    /// # Panics
    /// If `max_size` is not a power of two up to 32768; it is a constant of the device.
    pub(super) fn new(max_size: u16, size: u16) -> Self {
        let ring = Queue::new(max_size).expect("the largest queue size is a power of two");
        let setup = QueueState { size, ..QueueState::default() };
        Self { max_size, setup, ring, used: false }
    }

    /// The ring of a queue in this state, if it can be one.
    fn ring_of(
        state: &QueueState,
        max_size: u16,
        memory: &GuestMemory,
    ) -> Result<Queue, QueueError> {
        let mut ring = Queue::new(max_size).expect("the largest queue size is a power of two");
        ring.set_next_avail(state.next_available);
        ring.set_next_used(state.next_used);
        if !state.ready {
            return Ok(ring);
        }
        ring.try_set_size(state.size)
            .map_err(|_| QueueError::Size { size: state.size, max: max_size })?;
        let set_up = |ring: &mut Queue| -> Result<(), virtio_queue::Error> {
            ring.try_set_desc_table_address(GuestAddress(state.descriptor_table))?;
            ring.try_set_avail_ring_address(GuestAddress(state.available_ring))?;
            ring.try_set_used_ring_address(GuestAddress(state.used_ring))
        };
        set_up(&mut ring).map_err(QueueError::Setup)?;
        ring.set_ready(true);
        // virtio-queue takes an available ring at address 0 for one that was never set up.
        if state.available_ring == 0 || !ring.is_valid(memory) {
            return Err(QueueError::Outside);
        }
        Ok(ring)
    }

    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    pub(super) fn is_ready(&self) -> bool {
        self.setup.ready
    }

    /// What the driver has set up, to be changed; it is looked at when the queue is made ready.
    pub(super) fn setup_mut(&mut self) -> Option<&mut QueueState> {
        (!self.setup.ready).then_some(&mut self.setup)
    }

    /// The driver hands the queue over, or takes it back.
    pub(super) fn set_ready(
        &mut self,
        ready: bool,
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        let state = QueueState { ready, unfinished: false, ..self.save() };
        self.ring = Self::ring_of(&state, self.max_size, memory)?;
        self.setup = state;
        Ok(())
    }

    /// What the driver has set up.
    pub(super) fn setup(&self) -> &QueueState {
        &self.setup
    }

    /// The driver of the legacy interface lays the queue out, in use or not: the device goes on
    /// with the indices that it has. If `setup` cannot be a queue, this one is none from then on.
    pub(super) fn lay_out(
        &mut self,
        setup: QueueState,
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        let state = QueueState {
            next_available: self.ring.next_avail(),
            next_used: self.ring.next_used(),
            ..setup
        };
        match Self::ring_of(&state, self.max_size, memory) {
            Ok(ring) => {
                (self.ring, self.setup) = (ring, state);
                Ok(())
            }
            Err(error) => {
                self.setup = QueueState { ready: false, ..state };
                Err(error)
            }
        }
    }

    /// Whether the driver and the device tell each other at which index they want to hear
    /// (section 2.7.10).
    pub(super) fn set_event_index(&mut self, on: bool) {
        self.ring.set_event_idx(on);
    }

    /// The next request, if the driver has made one available.
    ///
    /// # Errors
    /// If the ring or the chain is malformed.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, QueueError> {
        if !self.setup.ready {
            return Ok(None);
        }
        let size = usize::from(self.setup.size);
        let Some(descriptors) = self.ring.iter(memory).map_err(QueueError::Ring)?.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut ended = false;
        // A chain, indirect or not, has at most as many descriptors as the queue (2.7.5.3.1).
        for descriptor in descriptors.take(size) {
            ended = !descriptor.has_next();
            let (address, length) = (descriptor.addr().0, descriptor.len());
            if length != 0 && !memory.check_range(GuestAddress(address), length as usize) {
                return Err(QueueError::Buffer { head, address, length });
            }
            let segment = Segment { address, length };
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(QueueError::Order { head });
            }
        }
        // virtio-queue ends a chain that it cannot follow as if it were whole.
        if ended { Ok(Some(chain)) } else { Err(QueueError::Endless { head }) }
    }

    /// Leaves the request that was taken last in the ring after all, as if it had not been looked
    /// at.
    pub(super) fn put_back(&mut self, _chain: Chain) {
        self.ring.set_next_avail(self.ring.next_avail().wrapping_sub(1));
    }

    /// Gives a request back to the driver, with the number of bytes that were written from the
    /// start of its device-writable part on.
    ///
    /// # Errors
    /// If the used ring cannot be written.
    pub fn push(
        &mut self,
        memory: &GuestMemory,
        chain: Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        self.ring.add_used(memory, chain.head, written).map_err(QueueError::Ring)?;
        self.used = true;
        Ok(())
    }

    /// Asks the driver to tell of new requests. True if there are some by now, of which it may have
    /// told already.
    ///
    /// # Errors
    /// If the rings cannot be accessed.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !self.setup.ready || !self.ring.event_idx_enabled() {
            // The used ring's flags stay 0, hence the driver tells of everything.
            return Ok(false);
        }
        self.ring.enable_notification(memory).map_err(QueueError::Ring)
    }

    /// Takes requests and gives them back until there is none left, but not many more than the
    /// queue has room for: a driver can let the device's own stores make new requests available
    /// for ever. What is left then is served when the board next advances the slot. `serve` returns
    /// how many bytes it wrote.
    ///
    /// # Errors
    /// If the driver broke a rule, or `serve` says so; later requests are left in the ring.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        mut serve: impl FnMut(&Chain) -> Result<u32, QueueError>,
    ) -> Result<(), QueueError> {
        self.setup.unfinished = false;
        for _ in 0..=self.setup.size {
            let Some(chain) = self.pop(memory)? else {
                if self.listen(memory)? {
                    continue;
                }
                return Ok(());
            };
            let written = serve(&chain)?;
            self.push(memory, chain, written)?;
        }
        self.setup.unfinished = true;
        Ok(())
    }

    /// True if [`Self::serve`] has left requests that the driver has told of.
    pub(super) fn is_unfinished(&self) -> bool {
        self.setup.unfinished
    }

    /// True if requests were given back since the last call and the driver wants an interrupt.
    /// With `on_empty` it wants one in any case if no request is left.
    pub(super) fn take_interrupt(
        &mut self,
        memory: &GuestMemory,
        on_empty: bool,
    ) -> Result<bool, QueueError> {
        if !std::mem::take(&mut self.used) {
            return Ok(false);
        }
        if on_empty {
            let end = self.ring.avail_idx(memory, Ordering::Acquire).map_err(QueueError::Ring)?;
            if end.0 == self.ring.next_avail() {
                return Ok(true);
            }
        }
        if self.ring.event_idx_enabled() {
            return self.ring.needs_notification(memory).map_err(QueueError::Ring);
        }
        let flags: u16 = memory
            .load(GuestAddress(self.ring.avail_ring()), Ordering::Acquire)
            .map_err(|_| QueueError::Outside)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    pub(super) fn save(&self) -> QueueState {
        let Self { max_size: _, setup, ring, used: _ } = self;
        QueueState {
            next_available: ring.next_avail(),
            next_used: ring.next_used(),
            ..setup.clone()
        }
    }

    /// The queue that was saved, for a device that offers `max_size`.
    pub(super) fn restored(
        state: &QueueState,
        max_size: u16,
        memory: &GuestMemory,
    ) -> Result<Self, QueueError> {
        let ring = Self::ring_of(state, max_size, memory)?;
        Ok(Self { max_size, setup: state.clone(), ring, used: false })
    }
}
