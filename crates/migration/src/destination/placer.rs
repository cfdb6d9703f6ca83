//! Hashing guest memory behind the pages that are placed in it, on a thread of its own. It hashes
//! what the memory holds, not what was received.

use crate::time::JoinHandle;
use std::time::Duration;

use memory::{GuestRam, PAGE_SIZE};

use crate::digest::{PageDigests, ZERO_PAGE, is_zero};
use crate::error::Failure;
use crate::queue::Queue;

/// Pages that are handed over at once.
const BATCH: usize = 256;
/// Batches under way.
const DEPTH: usize = 32;
/// For ever, for a thread that is ended through its queue.
const IDLE: Duration = Duration::from_secs(3600 * 24);
/// A hash of all that is under way takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Marks a page number whose page holds nothing but zeroes.
const ZERO: usize = 1 << (usize::BITS - 1);

pub(super) struct Placer {
    ram: GuestRam,
    batch: Vec<usize>,
    queue: Queue<Vec<usize>>,
    spare: Queue<Vec<usize>>,
    thread: Option<JoinHandle<PageDigests>>,
    pub(super) pages: u64,
    pub(super) zero_pages: u64,
}

fn hashing_failed() -> Failure {
    Failure::Channel(std::io::Error::other("the hashing thread has failed"))
}

impl Placer {
    pub(super) fn start(ram: GuestRam) -> Result<Self, Failure> {
        let (queue, spare): (Queue<Vec<usize>>, _) = (Queue::new(DEPTH), Queue::new(DEPTH + 2));
        let (from, emptied, memory) = (queue.clone(), spare.clone(), ram.clone());
        let hash = move || {
            let mut digests = PageDigests::new(memory.pages());
            let mut content = [0; PAGE_SIZE];
            while let Ok(batch) = from.pop(IDLE) {
                for page in &batch {
                    if page & ZERO != 0 {
                        digests.set_zero(page & !ZERO);
                    } else {
                        memory.read_page(*page, &mut content);
                        digests.set(*page, &content);
                    }
                }
                // No room among the spare lists only means that there are enough.
                let _ = emptied.push(batch, Duration::ZERO);
            }
            digests
        };
        let thread = crate::time::spawn("migration-hash", hash).map_err(Failure::Channel)?;
        let batch = Vec::with_capacity(BATCH);
        Ok(Self { ram, batch, queue, spare, thread: Some(thread), pages: 0, zero_pages: 0 })
    }

    /// Puts a page into guest memory.
    pub(super) fn place(&mut self, page: usize, content: &[u8; PAGE_SIZE]) -> Result<(), Failure> {
        self.ram.write_page(page, content);
        self.pages += 1;
        self.hash(page)
    }

    /// Makes a page of guest memory hold nothing. One that holds nothing is not stored to, so that
    /// it takes no memory of the host.
    pub(super) fn place_zero(&mut self, page: usize) -> Result<(), Failure> {
        let mut content = [0; PAGE_SIZE];
        self.ram.read_page(page, &mut content);
        if !is_zero(&content) {
            self.ram.write_page(page, &ZERO_PAGE);
        }
        self.zero_pages += 1;
        self.hash(page | ZERO)
    }

    fn hash(&mut self, page: usize) -> Result<(), Failure> {
        self.batch.push(page);
        if self.batch.len() == BATCH { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.pop(Duration::ZERO).unwrap_or_default();
        next.clear();
        let batch = std::mem::replace(&mut self.batch, next);
        self.queue.push(batch, LIMIT).map_err(|_| hashing_failed())
    }

    /// Comes back when everything that was placed is hashed.
    pub(super) fn drain(&mut self) -> Result<(), Failure> {
        self.hand_over()?;
        self.queue.drain(LIMIT).map_err(|_| hashing_failed())
    }

    /// The digests of all pages.
    pub(super) fn finish(&mut self) -> Result<PageDigests, Failure> {
        self.hand_over()?;
        self.queue.close();
        let thread = self.thread.take().ok_or_else(hashing_failed)?;
        thread.join().map_err(|_| hashing_failed())
    }
}

impl Drop for Placer {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}
