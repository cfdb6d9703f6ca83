//! The digest over machine, memory and sections. Both sides keep a table of page digests while
//! memory flows, so that only what changed last has to be hashed while the guest stands still.
//!
//! ```text
//! page     = first 16 bytes of BLAKE3(the page's 4096 bytes)
//! records  = CRC-32 of, for each record of memory in the order of the stream, be64 offset (plus 1
//!            for "zeroes") and be64 block; and of "round" at the end of each round
//! memory   = BLAKE3("ferry memory 1\n", be32 records, and for each block: be64 length of name, name,
//!            be64 length of block, digests of its pages in order)
//! sections = BLAKE3(the bytes that `stream` gives for the machine and for each section, in order)
//! state    = BLAKE3("ferry state 1\n", memory, sections)
//! ```

use memory::{DirtyBitmap, GuestRam, PAGE_SIZE};
use stream::{BLAKE3, digest_input, machine_digest_input};
use vmstate::SavedSection;

use crate::handover::Digest;
use crate::postcopy::Session;

const MEMORY: &[u8] = b"ferry memory 1\n";
const MEMORY_IN_PART: &[u8] = b"ferry memory in part 1\n";
const STATE: &[u8] = b"ferry state 1\n";

/// Part of a page's BLAKE3 that the table keeps. Finding a second page for one of 128 bits is out
/// of reach; a chance hit is one in 2^128.
pub(crate) type PageDigest = [u8; 16];

/// A page with nothing in it.
pub(crate) static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// True if the page holds nothing but zeroes. Stops at the first other byte.
pub(crate) fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    // One word decides for almost every page that is not zero.
    page[..8] == ZERO_PAGE[..8] && *page == ZERO_PAGE
}

pub(crate) fn page_digest(page: &[u8]) -> PageDigest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(page).as_bytes()[..16]);
    digest
}

/// The digests of all pages of memory.
#[derive(Debug)]
pub(crate) struct PageDigests {
    pages: Vec<PageDigest>,
    zero: PageDigest,
}

impl PageDigests {
    /// A table for memory that holds nothing but zeroes.
    pub(crate) fn new(pages: usize) -> Self {
        let zero = page_digest(&ZERO_PAGE);
        Self { pages: vec![zero; pages], zero }
    }

    /// Notes what a page holds.
    pub(crate) fn set(&mut self, page: usize, content: &[u8; PAGE_SIZE]) {
        self.pages[page] = page_digest(content);
    }

    /// Notes that a page holds nothing.
    pub(crate) fn set_zero(&mut self, page: usize) {
        self.pages[page] = self.zero;
    }

    /// The first page whose content is not what was noted, and how many there are. Pages that
    /// come later are not looked at.
    pub(crate) fn differing(
        &self,
        ram: &GuestRam,
        missing: Option<&DirtyBitmap>,
    ) -> Option<(usize, usize)> {
        let mut content = [0; PAGE_SIZE];
        let here = |page: &usize| missing.is_none_or(|missing| !missing.contains(*page));
        let mut differing = (0..self.pages.len()).filter(here).filter(|page| {
            ram.read_page(*page, &mut content);
            let digest = if is_zero(&content) { self.zero } else { page_digest(&content) };
            digest != self.pages[*page]
        });
        let first = differing.next()?;
        Some((first, 1 + differing.count()))
    }

    /// The digest of memory without the pages that come later, of which pages these are, and of
    /// the records that made the others. It begins unlike any digest of all memory.
    pub(crate) fn memory_in_part(
        &mut self,
        ram: &GuestRam,
        records: &RecordLog,
        session: &Session,
        missing: &DirtyBitmap,
    ) -> Digest {
        for page in missing.iter() {
            self.pages[page] = [0; 16];
        }
        let set = missing.encode();
        let mut hasher = blake3::Hasher::new();
        hasher.update(MEMORY_IN_PART).update(session);
        hasher.update(&(set.len() as u64).to_be_bytes()).update(&set);
        self.finish_memory(hasher, ram, records)
    }

    /// The digest of all memory, and of the records that made it.
    pub(crate) fn memory(&self, ram: &GuestRam, records: &RecordLog) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(MEMORY);
        self.finish_memory(hasher, ram, records)
    }

    fn finish_memory(
        &self,
        mut hasher: blake3::Hasher,
        ram: &GuestRam,
        records: &RecordLog,
    ) -> Digest {
        let mut first = 0;
        hasher.update(&records.value().to_be_bytes());
        for block in ram.blocks() {
            let pages = block.length as usize / PAGE_SIZE;
            hasher.update(&(block.name.len() as u64).to_be_bytes());
            hasher.update(block.name.as_bytes());
            hasher.update(&block.length.to_be_bytes());
            hasher.update(self.pages[first..first + pages].as_flattened());
            first += pages;
        }
        hasher.finalize().into()
    }
}

/// A checksum over the records of memory in the order of the stream: which pages came, in what
/// form. The page digests do not see a record that says "zeroes" of the wrong page, if both pages
/// hold nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordLog(crc32fast::Hasher);

impl RecordLog {
    /// Notes one record.
    pub(crate) fn record(&mut self, zero: bool, block: u16, offset: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(offset | u64::from(zero)).to_be_bytes());
        bytes[8..].copy_from_slice(&u64::from(block).to_be_bytes());
        self.0.update(&bytes);
    }

    /// Notes the end of a round.
    pub(crate) fn round_end(&mut self) {
        self.0.update(b"round");
    }

    /// The checksum so far.
    pub(crate) fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

/// The digest of machine type, device tree and device sections.
#[derive(Clone, Debug, Default)]
pub(crate) struct SectionsDigest(blake3::Hasher);

impl SectionsDigest {
    /// Begins with the machine.
    pub(crate) fn new(machine_type: &str, machine: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        machine_digest_input(machine_type, machine, &mut |bytes| {
            hasher.update(bytes);
        });
        Self(hasher)
    }

    /// Ends with the sections.
    pub(crate) fn finish(&self, sections: &[SavedSection]) -> Digest {
        let mut hasher = self.0.clone();
        for section in sections {
            digest_input(section, &mut |bytes| {
                hasher.update(bytes);
            });
        }
        hasher.finalize().into()
    }
}

/// The digest section.
pub(crate) fn state_digest(memory: Digest, sections: Digest) -> stream::Digest {
    stream::Digest { algorithm: BLAKE3, memory, sections }
}

/// One digest over both parts, for the hand-over's messages.
pub(crate) fn total_digest(digest: &stream::Digest) -> Digest {
    let stream::Digest { algorithm: _, memory, sections } = digest;
    let mut hasher = blake3::Hasher::new();
    hasher.update(STATE).update(memory).update(sections);
    hasher.finalize().into()
}

/// What differs between what is held here and what the source says it holds, by name.
pub(crate) fn difference(
    ours: &stream::Digest,
    theirs: &stream::Digest,
    ram: &GuestRam,
) -> Option<String> {
    if ours.memory != theirs.memory {
        let names: Vec<_> = ram.blocks().iter().map(|block| format!("`{}`", block.name)).collect();
        Some(format!("memory (RAM block {}) does not hold what was sent", names.join(", ")))
    } else if ours.sections != theirs.sections {
        Some("the machine or a device section is not the one that was sent".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, data: &[u8]) -> SavedSection {
        SavedSection { name: name.to_owned(), instance: 0, version: 1, data: data.to_vec() }
    }

    #[test]
    fn the_table_follows_memory_and_finds_what_it_was_not_told() {
        let ram = GuestRam::new(8 * PAGE_SIZE as u64).unwrap();
        let mut digests = PageDigests::new(8);
        let log = RecordLog::default();
        let empty = digests.memory(&ram, &log);
        assert_eq!(digests.differing(&ram, None), None);
        let page = [7; PAGE_SIZE];
        ram.write_page(3, &page);
        ram.write_page(6, &page);
        assert_eq!(digests.differing(&ram, None), Some((3, 2)));
        digests.set(3, &page);
        digests.set(6, &page);
        assert_eq!(digests.differing(&ram, None), None);
        assert_ne!(digests.memory(&ram, &log), empty);
        ram.write_page(3, &ZERO_PAGE);
        ram.write_page(6, &ZERO_PAGE);
        digests.set_zero(3);
        digests.set(6, &ZERO_PAGE);
        assert_eq!(digests.memory(&ram, &log), empty);
    }

    #[test]
    fn missing_pages_count_by_their_numbers_only() {
        let ram = GuestRam::new(8 * PAGE_SIZE as u64).unwrap();
        let log = RecordLog::default();
        let set = |pages: &[usize]| {
            let mut set = DirtyBitmap::none(8);
            pages.iter().for_each(|page| set.insert(*page));
            set
        };
        let digest = |page: usize, session: u8, missing: &[usize]| {
            let mut digests = PageDigests::new(8);
            digests.set(page, &[7; PAGE_SIZE]);
            digests.memory_in_part(&ram, &log, &[session; 32], &set(missing))
        };
        let one = digest(3, 1, &[3, 4]);
        assert_eq!(one, digest(4, 1, &[3, 4]), "what they held does not count");
        let all = PageDigests::new(8).memory(&ram, &log);
        for other in [digest(3, 2, &[3, 4]), digest(3, 1, &[3]), digest(5, 1, &[3, 4]), all] {
            assert_ne!(one, other);
        }
        ram.write_page(3, &[9; PAGE_SIZE]);
        assert_eq!(PageDigests::new(8).differing(&ram, Some(&set(&[3]))), None);
        assert_eq!(PageDigests::new(8).differing(&ram, Some(&set(&[4]))), Some((3, 1)));
    }

    #[test]
    fn only_zeroes_are_zero() {
        let mut page = ZERO_PAGE;
        assert!(is_zero(&page));
        for at in [0, 7, 8, 2000, PAGE_SIZE - 1] {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }

    #[test]
    fn a_difference_is_named() {
        let ram = GuestRam::new(PAGE_SIZE as u64).unwrap();
        let pages = PageDigests::new(1);
        let mut log = RecordLog::default();
        log.record(true, 0, 0x1000);
        let machine = SectionsDigest::new("ferry-1", b"tree");
        let sections = [section("serial", b"ab"), section("rtc", b"c")];
        let ours = state_digest(pages.memory(&ram, &log), machine.finish(&sections));
        assert_eq!(difference(&ours, &ours, &ram), None);
        let named = |theirs: &stream::Digest| {
            assert_ne!(total_digest(theirs), total_digest(&ours));
            difference(&ours, theirs, &ram).unwrap()
        };
        // A record about another page, though both pages hold nothing.
        let mut other = RecordLog::default();
        other.record(true, 0, 0x2000);
        let memory = pages.memory(&ram, &other);
        assert!(named(&state_digest(memory, ours.sections)).contains("RAM block `ram`"));
        let others = [
            machine.finish(&sections[..1]),
            machine.finish(&[section("serial", b"ab"), section("rtc", b"d")]),
            machine.finish(&[section("seriala", b"b"), section("rtc", b"c")]),
            SectionsDigest::new("ferry-1t", b"ree").finish(&sections),
        ];
        for sections in others {
            let theirs = state_digest(ours.memory, sections);
            assert!(named(&theirs).contains("a device section"));
        }
    }
}
