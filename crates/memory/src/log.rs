//! The dirty log and the watch, one bit a page each, shared by everything that stores to guest
//! memory.
//!
//! A store by a device goes through vm-memory, which calls [`PageLog::mark_dirty`]. The software
//! CPU marks a page when it takes a write translation for it. The watch is the accelerator's: it
//! names the pages that hold decoded code, so that a device's store to one is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::{DirtyBitmap, PAGE_SIZE};

#[derive(Debug, Default)]
struct Bits {
    dirty: Vec<AtomicU64>,
    watched: Vec<AtomicU64>,
    hit: Vec<AtomicU64>,
    any_hit: AtomicBool,
    pages: usize,
}

/// The log of one mapped region. Clones share the bits.
#[derive(Clone, Debug, Default)]
pub struct PageLog {
    bits: Arc<Bits>,
}

fn words(pages: usize) -> Vec<AtomicU64> {
    (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

impl PageLog {
    /// Marks one page (an index within the region) as dirty, and as hit if it is watched.
    #[inline]
    pub fn mark_page(&self, page: usize) {
        let (word, bit) = (page / 64, 1u64 << (page % 64));
        let Some(dirty) = self.bits.dirty.get(word) else { return };
        if dirty.load(Ordering::Relaxed) & bit == 0 {
            dirty.fetch_or(bit, Ordering::Release);
        }
        if self.bits.watched[word].load(Ordering::Relaxed) & bit != 0 {
            self.bits.hit[word].fetch_or(bit, Ordering::Release);
            self.bits.any_hit.store(true, Ordering::Release);
        }
    }

    /// Takes the dirty pages and leaves none set.
    pub fn harvest(&self) -> DirtyBitmap {
        let words = self.bits.dirty.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect();
        DirtyBitmap::from_words(words, self.bits.pages)
    }

    /// True if the page is marked dirty.
    pub fn is_dirty(&self, page: usize) -> bool {
        self.bits
            .dirty
            .get(page / 64)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (page % 64)) != 0)
    }

    /// Starts to watch a page.
    pub fn watch(&self, page: usize) {
        if let Some(word) = self.bits.watched.get(page / 64) {
            word.fetch_or(1 << (page % 64), Ordering::AcqRel);
        }
    }

    /// Ends the watch on a page.
    pub fn unwatch(&self, page: usize) {
        if let Some(word) = self.bits.watched.get(page / 64) {
            word.fetch_and(!(1 << (page % 64)), Ordering::AcqRel);
        }
    }

    /// True if a watched page was stored to since the last [`Self::take_hits`].
    #[inline]
    pub fn any_hit(&self) -> bool {
        self.bits.any_hit.load(Ordering::Acquire)
    }

    /// The watched pages that were stored to since the last call.
    pub fn take_hits(&self) -> Vec<usize> {
        if !self.bits.any_hit.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let words = self.bits.hit.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect();
        DirtyBitmap::from_words(words, self.bits.pages).iter().collect()
    }
}

impl Bitmap for PageLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        for page in offset / PAGE_SIZE..=offset.saturating_add(len - 1) / PAGE_SIZE {
            if page >= self.bits.pages {
                break;
            }
            self.mark_page(page);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.is_dirty(offset / PAGE_SIZE)
    }

    fn slice_at(&self, offset: usize) -> PageLogSlice {
        PageLogSlice { log: self.clone(), base: offset }
    }
}

impl WithBitmapSlice<'_> for PageLog {
    type S = PageLogSlice;
}

impl NewBitmap for PageLog {
    fn with_len(len: usize) -> Self {
        let pages = len.div_ceil(PAGE_SIZE);
        Self {
            bits: Arc::new(Bits {
                dirty: words(pages),
                watched: words(pages),
                hit: words(pages),
                any_hit: AtomicBool::new(false),
                pages,
            }),
        }
    }
}

/// A part of a [`PageLog`], as vm-memory hands it to whoever writes a part of the region.
#[derive(Clone, Debug)]
pub struct PageLogSlice {
    log: PageLog,
    base: usize,
}

impl PageLogSlice {
    /// The whole log that this is a part of.
    pub(crate) fn log(&self) -> PageLog {
        self.log.clone()
    }
}

impl Bitmap for PageLogSlice {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark_dirty(self.base.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.dirty_at(self.base.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log.clone(), base: self.base.saturating_add(offset) }
    }
}

impl WithBitmapSlice<'_> for PageLogSlice {
    type S = Self;
}

impl BitmapSlice for PageLogSlice {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_marks_every_page_that_it_touches() {
        let log = PageLog::with_len(10 * PAGE_SIZE);
        log.mark_dirty(PAGE_SIZE - 1, 2);
        log.slice_at(5 * PAGE_SIZE).mark_dirty(0, 0);
        log.slice_at(8 * PAGE_SIZE).mark_dirty(4095, 100_000);
        assert_eq!(log.harvest().iter().collect::<Vec<_>>(), [0, 1, 8, 9]);
        assert!(log.harvest().is_empty());
    }

    #[test]
    fn only_watched_pages_are_hits() {
        let log = PageLog::with_len(4 * PAGE_SIZE);
        log.watch(2);
        log.mark_dirty(0, PAGE_SIZE);
        assert!(!log.any_hit());
        log.mark_dirty(2 * PAGE_SIZE + 7, 1);
        assert!(log.any_hit());
        assert_eq!(log.take_hits(), [2]);
        assert!(!log.any_hit() && log.take_hits().is_empty());
        log.unwatch(2);
        log.mark_dirty(2 * PAGE_SIZE, 1);
        assert!(!log.any_hit());
    }
}
