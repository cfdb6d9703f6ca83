//! The dirty log: three ways in which KVM tells which pages the guest stored to, all of them
//! brought into guest memory's own log.

use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use kvm_ioctls::{VcpuFd, VmFd};
use memory::{GuestRam, PAGE_SIZE, RamRegion};

use crate::{KvmError, calls};

/// How KVM logs the guest's stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyLogKind {
    /// A bitmap that is read and cleared in one step.
    Bitmap,
    /// A bitmap that is read, and cleared afterwards for the pages that were set.
    ClearBitmap,
    /// A ring of page numbers for each vCPU.
    Ring,
}

/// Pages that one call clears: the calls hold KVM's lock, under which the vCPUs wait.
const CLEAR_PAGES: usize = 1 << 18;
/// Entries of a vCPU's ring. A ring that is full makes its vCPU exit and empty it.
pub(crate) const RING_BYTES: u32 = 4096 * size_of::<kvm_dirty_gfn>() as u32;
/// The entry names a page and waits to be collected.
const DIRTY: u32 = 1;
/// The entry was collected.
const RESET: u32 = 2;

/// One vCPU's ring, as the kernel maps it.
pub(crate) struct Ring {
    first: *mut kvm_dirty_gfn,
    entries: usize,
    next: usize,
}

#[expect(unsafe_code, reason = "holds a pointer to a mapping of its own")]
// SAFETY: the mapping belongs to the process, not to a thread, and is reached through `&mut` only.
unsafe impl Send for Ring {}

impl Ring {
    pub(crate) fn of(vcpu: &VcpuFd, bytes: u32) -> Result<Self, KvmError> {
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as u64;
        let first = calls::map(vcpu, bytes as usize, offset)?.cast();
        Ok(Self { first, entries: bytes as usize / size_of::<kvm_dirty_gfn>(), next: 0 })
    }

    /// Hands every entry to `take` and leaves it collected.
    ///
    /// A ring keeps some entries in reserve for what a vCPU stores between the instant when it is
    /// nearly full and its exit. There are hosts whose vCPU stores more than that meanwhile: the
    /// ring then runs over, its oldest entries are lost, and the kernel's place in it is ahead of
    /// ours. A ring without a free entry is taken to have run over.
    fn collect(&mut self, mut take: impl FnMut(u32, u64)) -> Collected {
        let mut count = 0;
        while count < self.entries {
            let Some(ahead) = (0..self.entries).find(|ahead| self.is_dirty(self.next + ahead))
            else {
                break;
            };
            for _ in 0..=ahead {
                // The kernel fills entries in their order, so one before a filled one is filled by
                // now; or it was collected already, at a place that was wrong.
                if self.is_dirty(self.next) {
                    self.hand_back(&mut take);
                } else {
                    self.hand_back(|_, _| {});
                }
            }
            count += ahead + 1;
        }
        match count {
            0 => Collected::Nothing,
            count if count < self.entries => Collected::All,
            _ => Collected::RanOver,
        }
    }

    #[expect(unsafe_code, reason = "memory that the kernel writes")]
    fn flags(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the index is below the number of entries that the mapping holds.
        let entry = unsafe { self.first.add(index % self.entries) };
        // SAFETY: the flags are an aligned word in the mapping, which lives as long as the ring;
        // kernel and process hand the entry over by it.
        unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) }
    }

    fn is_dirty(&self, index: usize) -> bool {
        self.flags(index).load(Ordering::Acquire) & DIRTY != 0
    }

    /// Takes the entry at our place, and hands it back to the kernel.
    #[expect(unsafe_code, reason = "memory that the kernel writes")]
    fn hand_back(&mut self, take: impl FnOnce(u32, u64)) {
        // SAFETY: the place is below the number of entries that the mapping holds.
        let entry = unsafe { self.first.add(self.next) };
        // SAFETY: while the entry is not handed back, the kernel leaves it alone.
        let (slot, offset) = unsafe { ((*entry).slot, (*entry).offset) };
        take(slot & 0xffff, offset);
        self.flags(self.next).store(RESET, Ordering::Release);
        self.next = (self.next + 1) % self.entries;
    }
}

/// What a ring held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    Nothing,
    All,
    /// It has lost entries.
    RanOver,
}

impl Drop for Ring {
    #[expect(unsafe_code, reason = "ends a mapping")]
    fn drop(&mut self) {
        // SAFETY: it is exactly the mapping that `of` made, and nothing points into it.
        unsafe { libc::munmap(self.first.cast(), self.entries * size_of::<kvm_dirty_gfn>()) };
    }
}

/// The log of one VM.
pub(crate) struct DirtyLog {
    pub(crate) kind: DirtyLogKind,
    pub(crate) on: bool,
    pub(crate) rings: Vec<Ring>,
    words: Vec<u64>,
}

impl DirtyLog {
    pub(crate) fn new(kind: DirtyLogKind) -> Self {
        Self { kind, on: false, rings: Vec::new(), words: Vec::new() }
    }

    /// Brings what KVM logged into guest memory's log, and lets KVM log it anew.
    pub(crate) fn harvest(&mut self, vm: &VmFd, ram: &GuestRam) -> Result<(), KvmError> {
        if !self.on {
            return Ok(());
        }
        if self.kind == DirtyLogKind::Ring {
            return self.collect(vm, Some(ram));
        }
        for (slot, region) in ram.regions().enumerate() {
            self.harvest_region(vm, ram, slot as u32, region)?;
        }
        Ok(())
    }

    fn harvest_region(
        &mut self,
        vm: &VmFd,
        ram: &GuestRam,
        slot: u32,
        region: RamRegion,
    ) -> Result<(), KvmError> {
        let pages = region.length as usize / PAGE_SIZE;
        self.words.clear();
        self.words.resize(pages.div_ceil(64), 0);
        calls::get_dirty_log(vm, slot, &mut self.words)?;
        for (index, word) in self.words.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                ram.mark_page(region.first_page + index * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
        if self.kind == DirtyLogKind::Bitmap {
            return Ok(());
        }
        // A page is protected again only after it was marked: a store between the two is in the
        // page by the time anybody reads it.
        for first in (0..pages).step_by(CLEAR_PAGES) {
            let count = CLEAR_PAGES.min(pages - first);
            let words = &mut self.words[first / 64..(first + count).div_ceil(64)];
            if words.iter().any(|word| *word != 0) {
                calls::clear_dirty_log(vm, slot, first as u64, count as u32, words)?;
            }
        }
        Ok(())
    }

    /// Empties the rings, and marks what they name if `ram` is given.
    pub(crate) fn collect(&mut self, vm: &VmFd, ram: Option<&GuestRam>) -> Result<(), KvmError> {
        let firsts: Vec<RamRegion> = ram.map_or_else(Vec::new, |ram| ram.regions().collect());
        let mut any = false;
        for ring in &mut self.rings {
            let collected = ring.collect(|slot, offset| {
                if let (Some(ram), Some(region)) = (ram, firsts.get(slot as usize)) {
                    ram.mark_page(region.first_page + offset as usize);
                }
            });
            any |= collected != Collected::Nothing;
            if let (Collected::RanOver, Some(ram)) = (collected, ram) {
                for page in 0..ram.pages() {
                    ram.mark_page(page);
                }
            }
        }
        if any { calls::reset_dirty_rings(vm) } else { Ok(()) }
    }
}
