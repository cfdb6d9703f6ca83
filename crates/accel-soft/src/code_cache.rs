//! Decoded blocks by guest-physical address, shared by all vCPUs of a machine, and the pages that
//! hold them.
//!
//! A store to a page with code goes through [`CodeCache::stored`] (from a vCPU) or shows as a hit
//! of the page watch (from a device); either drops the page's blocks if the bytes are code. A vCPU
//! keeps blocks in its jump cache only for as long as [`CodeCache::generation`] stays what it was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{GuestRam, PAGE_SIZE};

use crate::block::Block;
use crate::core::Mode;

/// Bytes of a page that one bit of a page's code mask stands for.
const GRANULE: usize = PAGE_SIZE / 64;

#[derive(Default)]
struct Page {
    blocks: HashMap<(u16, Mode), Arc<Block>>,
    /// Granules that hold decoded bytes.
    mask: u64,
    /// Blocks of other pages whose last instruction ends here.
    straddlers: Vec<(usize, (u16, Mode))>,
}

#[derive(Default)]
pub(crate) struct CodeCache {
    pages: Mutex<HashMap<usize, Page>>,
    /// One bit a page: it is in `pages`.
    is_code: Vec<AtomicU64>,
    /// Grows when blocks are dropped.
    generation: AtomicU64,
    /// Grows when a page becomes code, so that every vCPU drops its write translations.
    watch_generation: AtomicU64,
}

fn granules(offset: usize, length: usize) -> u64 {
    let first = offset / GRANULE;
    let last = (offset + length.max(1) - 1).min(PAGE_SIZE - 1) / GRANULE;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl CodeCache {
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            is_code: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            ..Self::default()
        }
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<usize, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn is_code(&self, page: usize) -> bool {
        self.is_code[page / 64].load(Ordering::Acquire) & 1 << (page % 64) != 0
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn watch_generation(&self) -> u64 {
        self.watch_generation.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, page: usize, offset: u16, mode: Mode) -> Option<Arc<Block>> {
        self.pages().get(&page)?.blocks.get(&(offset, mode)).cloned()
    }

    /// Makes a page one whose stores are noticed. Must come before its bytes are decoded.
    pub(crate) fn watch(&self, ram: &GuestRam, page: usize) {
        if self.is_code(page) {
            return;
        }
        self.pages().entry(page).or_default();
        self.is_code[page / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
        ram.watch(page);
        self.watch_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Keeps a block that starts at an offset of a watched page.
    pub(crate) fn insert(&self, page: usize, offset: u16, block: &Arc<Block>) {
        let key = (offset, block.mode);
        let mut pages = self.pages();
        let home = pages.entry(page).or_default();
        let here = block.length.min(PAGE_SIZE - usize::from(offset));
        home.mask |= granules(usize::from(offset), here);
        home.blocks.insert(key, Arc::clone(block));
        if let Some(second) = block.second_page {
            let other = pages.entry(second).or_default();
            other.mask |= granules(0, block.length - here);
            if !other.straddlers.contains(&(page, key)) {
                other.straddlers.push((page, key));
            }
        }
    }

    /// Notes a store by a vCPU to a page with code. True if it changed code.
    pub(crate) fn stored(&self, ram: &GuestRam, page: usize, offset: usize, length: usize) -> bool {
        let mask = self.pages().get(&page).map_or(0, |page| page.mask);
        if mask & granules(offset, length) == 0 {
            return false;
        }
        self.drop_page(ram, page);
        true
    }

    /// Drops every block of a page, and the watch on it.
    pub(crate) fn drop_page(&self, ram: &GuestRam, page: usize) {
        let mut pages = self.pages();
        if let Some(dropped) = pages.remove(&page) {
            for (home, key) in dropped.straddlers {
                if let Some(home) = pages.get_mut(&home) {
                    home.blocks.remove(&key);
                }
            }
        }
        self.is_code[page / 64].fetch_and(!(1 << (page % 64)), Ordering::AcqRel);
        ram.unwatch(page);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}
