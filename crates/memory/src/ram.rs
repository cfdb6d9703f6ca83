//! The mapped RAM of a machine.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::{DirtyBitmap, GuestMemory, PAGE_SIZE, PageLog};

/// RAM below this guest-physical address comes first; what does not fit starts at
/// [`HIGH_MEMORY_START`]. The hole between holds the interrupt controllers and the devices.
pub const LOW_MEMORY_LIMIT: u64 = 0xe000_0000;
/// Guest-physical address of the RAM that does not fit below [`LOW_MEMORY_LIMIT`].
pub const HIGH_MEMORY_START: u64 = 1 << 32;

/// Guest memory could not be had or was asked for wrongly.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A size that is zero or no whole number of pages.
    #[error("memory of {0} bytes is not a whole number of pages")]
    Size(u64),
    /// The host did not give the memory.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// How many bytes were asked for.
        bytes: u64,
        /// What the host said.
        source: vm_memory::mmap::FromRangesError,
    },
    /// An access that is not wholly inside RAM.
    #[error("no RAM at guest address {address:#x} for {length} bytes")]
    Access {
        /// The guest-physical address.
        address: u64,
        /// The length of the access in bytes.
        length: usize,
    },
}

/// A RAM block: what the stream calls by name. Its pages follow each other in page indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamBlock {
    /// The name in the stream.
    pub name: String,
    /// Length in bytes, a whole number of pages.
    pub length: u64,
}

/// Where a piece of RAM lies that is contiguous for the guest and for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// Guest-physical address of its first byte.
    pub guest_start: u64,
    /// Length in bytes, a whole number of pages.
    pub length: u64,
    /// Index of its first page.
    pub first_page: usize,
    /// Host address of its first byte; see [`GuestRam::page_pointer`] for what goes with it.
    pub host: usize,
}

#[derive(Clone, Debug)]
struct Region {
    guest_start: u64,
    length: u64,
    first_page: usize,
    host: usize,
    log: PageLog,
}

#[derive(Debug)]
struct Inner {
    memory: GuestMemory,
    regions: Vec<Region>,
    blocks: Vec<RamBlock>,
    pages: usize,
}

/// All RAM of one machine. Clones are handles on the same memory; the mapping lives as long as any
/// of them.
///
/// Pages are numbered from 0 in the order of their guest-physical addresses, the hole left out.
/// The guest may store at any time, so a page that is read while the guest runs may be torn; the
/// dirty log says which pages have to be read again.
#[derive(Clone, Debug)]
pub struct GuestRam {
    inner: Arc<Inner>,
}

impl GuestRam {
    /// Maps `bytes` of zeroed RAM as one block named `ram`.
    ///
    /// # Errors
    /// If `bytes` is zero or no whole number of pages, or the host has no room.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let low = bytes.min(LOW_MEMORY_LIMIT);
        let high = HIGH_MEMORY_START..HIGH_MEMORY_START.saturating_add(bytes - low);
        Self::with_ranges(&[0..low, high])
    }

    /// The same with RAM at these guest-physical addresses, which ascend. Empty ranges count for
    /// nothing.
    ///
    /// # Errors
    /// If there is none, or a range is no whole number of pages, or the host has no room.
    pub fn with_ranges(ranges: &[Range<u64>]) -> Result<Self, MemoryError> {
        let length = |range: &Range<u64>| range.end.saturating_sub(range.start);
        let bytes = ranges.iter().map(length).sum();
        let page = PAGE_SIZE as u64;
        let whole = |range: &Range<u64>| {
            range.start.is_multiple_of(page) && length(range).is_multiple_of(page)
        };
        if bytes == 0 || !ranges.iter().all(whole) {
            return Err(MemoryError::Size(bytes));
        }
        let ranges: Vec<_> = ranges
            .iter()
            .filter(|range| length(range) != 0)
            .map(|range| (GuestAddress(range.start), length(range) as usize))
            .collect();
        let memory = GuestMemory::from_ranges(&ranges)
            .map_err(|source| MemoryError::Map { bytes, source })?;
        let mut first_page = 0;
        let regions = memory
            .iter()
            .map(|region: &GuestRegionMmap<PageLog>| {
                let host = region
                    .get_host_address(MemoryRegionAddress(0))
                    .expect("a mapped region has a first byte");
                let mapped = Region {
                    guest_start: region.start_addr().0,
                    length: region.len(),
                    first_page,
                    host: host as usize,
                    log: log_of(region),
                };
                first_page += region.len() as usize / PAGE_SIZE;
                mapped
            })
            .collect();
        let blocks = vec![RamBlock { name: "ram".to_owned(), length: bytes }];
        let ram = Self { inner: Arc::new(Inner { memory, regions, blocks, pages: first_page }) };
        // First touches, as a migration makes them at the destination, then cost a fraction. A
        // host that gives none is no error.
        let _ = ram.advise_huge_pages(true);
        Ok(ram)
    }

    /// The regions as vm-memory and virtio-queue use them; stores through it are logged.
    pub fn mmap(&self) -> &GuestMemory {
        &self.inner.memory
    }

    /// The RAM blocks, in the order of the stream.
    pub fn blocks(&self) -> &[RamBlock] {
        &self.inner.blocks
    }

    /// The regions, by ascending guest-physical address, for an accelerator that maps them whole.
    pub fn regions(&self) -> impl Iterator<Item = RamRegion> + '_ {
        self.inner.regions.iter().map(|region| RamRegion {
            guest_start: region.guest_start,
            length: region.length,
            first_page: region.first_page,
            host: region.host,
        })
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.inner.pages
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        (self.inner.pages * PAGE_SIZE) as u64
    }

    fn region_of_address(&self, address: u64) -> Option<&Region> {
        self.inner
            .regions
            .iter()
            .find(|region| address.wrapping_sub(region.guest_start) < region.length)
    }

    fn region_of_page(&self, page: usize) -> &Region {
        assert!(page < self.inner.pages, "page {page} of {}", self.inner.pages);
        self.inner
            .regions
            .iter()
            .rev()
            .find(|region| page >= region.first_page)
            .expect("the first region starts at page 0")
    }

    /// The index of the page that holds a guest-physical address.
    #[inline]
    pub fn page_of(&self, address: u64) -> Option<usize> {
        let region = self.region_of_address(address)?;
        Some(region.first_page + ((address - region.guest_start) as usize / PAGE_SIZE))
    }

    /// The guest-physical address at which a page starts.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn address_of(&self, page: usize) -> u64 {
        let region = self.region_of_page(page);
        region.guest_start + ((page - region.first_page) * PAGE_SIZE) as u64
    }

    /// The host address of the page of RAM that holds a guest-physical address, for an accelerator.
    /// The pointer is good for the page's 4096 bytes for as long as a handle on this memory lives;
    /// stores through it must be marked by [`Self::mark_page`].
    #[inline]
    pub fn page_pointer(&self, address: u64) -> Option<*mut u8> {
        let region = self.region_of_address(address)?;
        let offset = (address - region.guest_start) as usize & !(PAGE_SIZE - 1);
        Some((region.host + offset) as *mut u8)
    }

    /// Marks one page as dirty.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    #[inline]
    pub fn mark_page(&self, page: usize) {
        let region = self.region_of_page(page);
        region.log.mark_page(page - region.first_page);
    }

    /// True if the page is marked dirty.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn is_dirty(&self, page: usize) -> bool {
        let region = self.region_of_page(page);
        region.log.is_dirty(page - region.first_page)
    }

    /// Takes the dirty pages and leaves none set. Every vCPU must drop its write translations
    /// before it stores again, or later stores go unseen.
    pub fn harvest(&self) -> DirtyBitmap {
        let mut all = DirtyBitmap::none(self.inner.pages);
        for region in &self.inner.regions {
            for page in region.log.harvest().iter() {
                all.insert(region.first_page + page);
            }
        }
        all
    }

    /// Watches a page: stores to it through vm-memory become hits.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn watch(&self, page: usize) {
        let region = self.region_of_page(page);
        region.log.watch(page - region.first_page);
    }

    /// Ends the watch on a page.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn unwatch(&self, page: usize) {
        let region = self.region_of_page(page);
        region.log.unwatch(page - region.first_page);
    }

    /// True if a watched page was stored to since the last [`Self::take_hits`].
    #[inline]
    pub fn any_hit(&self) -> bool {
        self.inner.regions.iter().any(|region| region.log.any_hit())
    }

    /// The watched pages that were stored to since the last call.
    pub fn take_hits(&self) -> Vec<usize> {
        let hits = |region: &Region| -> Vec<usize> {
            region.log.take_hits().iter().map(|page| region.first_page + page).collect()
        };
        self.inner.regions.iter().flat_map(hits).collect()
    }

    /// Copies a page out.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn read_page(&self, page: usize, into: &mut [u8; PAGE_SIZE]) {
        self.read(self.address_of(page), into).expect("a page index is inside RAM");
    }

    /// Copies a page in, and marks it dirty.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn write_page(&self, page: usize, from: &[u8; PAGE_SIZE]) {
        self.write(self.address_of(page), from).expect("a page index is inside RAM");
    }

    /// Copies bytes out of RAM.
    ///
    /// # Errors
    /// If any of them is not RAM.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let length = into.len();
        self.inner
            .memory
            .read_slice(into, GuestAddress(address))
            .map_err(|_| MemoryError::Access { address, length })
    }

    /// Copies bytes into RAM, and marks their pages dirty.
    ///
    /// # Errors
    /// If any of them is not RAM.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        self.inner
            .memory
            .write_slice(from, GuestAddress(address))
            .map_err(|_| MemoryError::Access { address, length: from.len() })
    }
}

impl GuestRam {
    /// Start and length of each region in this process.
    pub(crate) fn host_ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        self.inner.regions.iter().map(|region| (region.host, region.length as usize))
    }

    /// Where a page lies in this process.
    pub(crate) fn host_address(&self, page: usize) -> usize {
        let region = self.region_of_page(page);
        region.host + (page - region.first_page) * PAGE_SIZE
    }

    /// The page that holds an address of this process.
    pub(crate) fn page_at_host(&self, address: usize) -> Option<usize> {
        self.inner.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.host);
            (offset < region.length as usize).then(|| region.first_page + offset / PAGE_SIZE)
        })
    }

    /// Says whether the host may back memory with huge pages.
    pub(crate) fn advise_huge_pages(&self, wanted: bool) -> io::Result<()> {
        let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        let advise = |(start, length)| advise(start, length, advice);
        match self.host_ranges().try_for_each(advise) {
            // A kernel without them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Gives pages back to the host: they hold nothing, or are missing where somebody catches
    /// faults.
    pub(crate) fn drop_pages(&self, pages: &DirtyBitmap) -> io::Result<()> {
        let mut pages = pages.iter().map(|page| self.host_address(page)).peekable();
        while let Some(start) = pages.next() {
            let mut end = start + PAGE_SIZE;
            while let Some(next) = pages.next_if_eq(&end) {
                end = next + PAGE_SIZE;
            }
            advise(start, end - start, libc::MADV_DONTNEED)?;
        }
        Ok(())
    }
}

/// Advice on a range of guest memory, which it must lie in.
#[expect(unsafe_code, reason = "madvise is a system call on a raw range")]
fn advise(start: usize, length: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the callers take the range from the regions' own mappings, and guest memory is only
    // ever reached through raw pointers and volatile accesses: nobody relies on what it holds.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, length, advice) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The log behind a region: vm-memory only hands out slices of it.
fn log_of(region: &GuestRegionMmap<PageLog>) -> PageLog {
    region.bitmap().log()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_no_pages_are_refused() {
        assert!(matches!(GuestRam::new(0), Err(MemoryError::Size(0))));
        assert!(matches!(GuestRam::new(4097), Err(MemoryError::Size(4097))));
    }

    #[test]
    fn memory_past_the_hole_keeps_its_page_numbers() {
        let ram = GuestRam::new(LOW_MEMORY_LIMIT + 8 * PAGE_SIZE as u64).unwrap();
        let first_high = LOW_MEMORY_LIMIT as usize / PAGE_SIZE;
        assert_eq!(ram.page_of(HIGH_MEMORY_START), Some(first_high));
        assert_eq!(ram.address_of(first_high + 3), HIGH_MEMORY_START + 3 * PAGE_SIZE as u64);
        assert_eq!(ram.page_of(LOW_MEMORY_LIMIT), None);
        ram.write(HIGH_MEMORY_START + 4095, &[1, 2]).unwrap();
        assert_eq!(ram.harvest().iter().collect::<Vec<_>>(), [first_high, first_high + 1]);
        assert!(ram.write(LOW_MEMORY_LIMIT - 1, &[1, 2]).is_err());
    }

    #[test]
    fn a_hole_has_no_page_numbers() {
        let ram = GuestRam::with_ranges(&[0..0xf_0000, 0x10_0000..0x12_0000]).unwrap();
        assert_eq!(ram.pages(), 0xf0 + 0x20);
        assert_eq!(ram.page_of(0xf_0000), None);
        assert_eq!(ram.page_of(0x10_0000), Some(0xf0));
        assert!(ram.write(0xe_fff0, &[0; 32]).is_err());
        assert!(GuestRam::with_ranges(&[0..0, 7..7]).is_err());
        assert!(GuestRam::with_ranges(&[0..4096, 8192..8193]).is_err());
    }

    #[test]
    fn a_stored_page_reads_back_and_is_dirty() {
        let ram = GuestRam::new(16 * PAGE_SIZE as u64).unwrap();
        let page = [7; PAGE_SIZE];
        ram.watch(5);
        ram.write_page(5, &page);
        let mut back = [0; PAGE_SIZE];
        ram.read_page(5, &mut back);
        assert_eq!(back, page);
        assert!(ram.is_dirty(5) && !ram.is_dirty(4));
        assert_eq!(ram.take_hits(), [5]);
        ram.mark_page(4);
        assert_eq!(ram.harvest().count(), 2);
    }
}
