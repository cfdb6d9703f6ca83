//! The software translation caches: linear page to host pointer, for reads, for writes and for
//! instruction fetches apart, once for the supervisor and once for the user.
//!
//! A write entry exists only for a page whose leaf entry is marked dirty in the guest's tables,
//! that is marked in the dirty log, and that holds no decoded code. A tag carries a generation in
//! its low bits, so that dropping everything is one addition.

const ENTRIES: usize = 1024;
const PAGE_MASK: u64 = !0xfff;
const GENERATIONS: u64 = 0xfff;

#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    /// Host address less linear address; for fetches, guest-physical page address.
    addend: u64,
}

/// No linear page has this tag: its generation is 0, which is never in use.
const EMPTY: Entry = Entry { tag: 0, addend: 0 };

/// What a translation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read = 0,
    Write = 1,
    Fetch = 2,
}

pub(crate) struct Tlbs {
    entries: Box<[[[Entry; ENTRIES]; 3]; 2]>,
    user: usize,
    generation: u64,
    fetch_generation: u64,
    /// Linear range that large pages cover, so that INVLPG in it drops everything.
    large_low: u64,
    large_high: u64,
}

impl Tlbs {
    pub(crate) fn new() -> Self {
        let entries = vec![[[EMPTY; ENTRIES]; 3]; 2]
            .into_boxed_slice()
            .try_into()
            .unwrap_or_else(|_| unreachable!("two sets"));
        Self {
            entries,
            user: 0,
            generation: 1,
            fetch_generation: 0,
            large_low: u64::MAX,
            large_high: 0,
        }
    }

    pub(crate) fn set_user(&mut self, user: bool) {
        self.user = usize::from(user);
    }

    /// Changes whenever a translation for fetches may have been dropped.
    #[inline(always)]
    pub(crate) fn fetch_generation(&self) -> u64 {
        self.fetch_generation
    }

    /// The addend for an access to `size` bytes at `linear`, if they lie in one page that is known.
    #[inline(always)]
    pub(crate) fn find(&self, access: Access, linear: u64, size: usize) -> Option<u64> {
        let entry =
            &self.entries[self.user & 1][access as usize][(linear >> 12) as usize % ENTRIES];
        // An access over the page's end has the next page's number here, and misses.
        let tag = (linear.wrapping_add(size as u64 - 1) & PAGE_MASK) | self.generation;
        (entry.tag == tag).then_some(entry.addend)
    }

    pub(crate) fn insert(&mut self, access: Access, linear: u64, addend: u64, large: Option<u64>) {
        let tag = linear & PAGE_MASK | self.generation;
        self.entries[self.user & 1][access as usize][(linear >> 12) as usize % ENTRIES] =
            Entry { tag, addend };
        if let Some(size) = large {
            let start = linear & !(size - 1);
            self.large_low = self.large_low.min(start);
            self.large_high = self.large_high.max(start + (size - 1));
        }
    }

    /// Drops every translation.
    pub(crate) fn flush(&mut self) {
        self.large_low = u64::MAX;
        self.large_high = 0;
        self.fetch_generation += 1;
        if self.generation == GENERATIONS {
            self.entries.iter_mut().flatten().flatten().for_each(|entry| *entry = EMPTY);
            self.generation = 1;
        } else {
            self.generation += 1;
        }
    }

    /// Drops the translations of one page.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        if (self.large_low..=self.large_high).contains(&linear) {
            self.flush();
            return;
        }
        self.fetch_generation += 1;
        for kind in self.entries.iter_mut().flatten() {
            let entry = &mut kind[(linear >> 12) as usize % ENTRIES];
            if entry.tag & PAGE_MASK == linear & PAGE_MASK {
                *entry = EMPTY;
            }
        }
    }
}
