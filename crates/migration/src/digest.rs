//! The digest over memory, machine and sections. Both sides keep a table of page digests while
//! memory flows, so that only what changed last has to be hashed while the guest stands still.
//!
//! ```text
//! page    = first 16 bytes of BLAKE3(the page's 4096 bytes)
//! block   = BLAKE3(be64 length of name, name, be64 length of block, digests of its pages in order)
//! section = BLAKE3(be64 length of name, name, be32 instance, be32 version, be64 length of data, data)
//! machine = BLAKE3(be64 length of type, type, be64 length of tree, device tree)
//! records = CRC-32 of, for each record of memory, be64 offset (plus 1 for "zeroes"), be64 block;
//!           and of "round" at the end of each round
//! state   = BLAKE3("ferry state 1\n", machine, be32 records, be32 count, blocks in order,
//!           be32 count, sections in order)
//! ```

use memory::{GuestRam, PAGE_SIZE};
use vmstate::SavedSection;

use crate::handover::Digest;

const DOMAIN: &[u8] = b"ferry state 1\n";

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

    /// The first page whose content is not what was noted, and how many there are.
    pub(crate) fn differing(&self, ram: &GuestRam) -> Option<(usize, usize)> {
        let mut content = [0; PAGE_SIZE];
        let mut differing = (0..self.pages.len()).filter(|page| {
            ram.read_page(*page, &mut content);
            let digest = if is_zero(&content) { self.zero } else { page_digest(&content) };
            digest != self.pages[*page]
        });
        let first = differing.next()?;
        Some((first, 1 + differing.count()))
    }

    /// The digest of each RAM block, in order.
    pub(crate) fn blocks(&self, ram: &GuestRam) -> Vec<Digest> {
        let mut first = 0;
        ram.blocks()
            .iter()
            .map(|block| {
                let pages = block.length as usize / PAGE_SIZE;
                let mut hasher = blake3::Hasher::new();
                hash_counted(&mut hasher, block.name.as_bytes());
                hasher.update(&block.length.to_be_bytes());
                hasher.update(self.pages[first..first + pages].as_flattened());
                first += pages;
                hasher.finalize().into()
            })
            .collect()
    }
}

fn hash_counted(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

/// The digest of one section.
pub(crate) fn section_digest(section: &SavedSection) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hash_counted(&mut hasher, section.name.as_bytes());
    hasher.update(&section.instance.to_be_bytes());
    hasher.update(&section.version.to_be_bytes());
    hash_counted(&mut hasher, &section.data);
    hasher.finalize().into()
}

/// The digest of the machine configuration.
pub(crate) fn machine_digest(machine_type: &str, machine: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hash_counted(&mut hasher, machine_type.as_bytes());
    hash_counted(&mut hasher, machine);
    hasher.finalize().into()
}

/// A checksum over the records of memory in the order of the stream: which pages came, in what
/// form. The page digests do not see a record that says "zeroes" of the wrong page, if both pages
/// hold nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordLog(crc32fast::Hasher);

impl RecordLog {
    /// Notes one record.
    pub(crate) fn record(&mut self, zero: bool, block: usize, offset: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(offset | u64::from(zero)).to_be_bytes());
        bytes[8..].copy_from_slice(&(block as u64).to_be_bytes());
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

/// The digests of the parts of a state, kept apart so that a difference can be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateDigests {
    machine: Digest,
    /// Of the records of memory.
    records: u32,
    /// Of each RAM block, in order.
    blocks: Vec<Digest>,
    /// Of each section, in order.
    sections: Vec<Digest>,
}

impl StateDigests {
    pub(crate) fn new(
        machine: Digest,
        records: &RecordLog,
        blocks: Vec<Digest>,
        sections: &[SavedSection],
    ) -> Self {
        let sections = sections.iter().map(section_digest).collect();
        Self { machine, records: records.value(), blocks, sections }
    }

    /// The digest over everything.
    pub(crate) fn total(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN).update(&self.machine).update(&self.records.to_be_bytes());
        for part in [&self.blocks, &self.sections] {
            hasher.update(&u32::try_from(part.len()).expect("both lists are short").to_be_bytes());
            hasher.update(part.as_flattened());
        }
        hasher.finalize().into()
    }

    /// The body of the digest section: machine, be32 records, then blocks and sections, each as
    /// be32 count and digests.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { machine, records, blocks, sections } = self;
        let mut bytes = machine.to_vec();
        bytes.extend(records.to_be_bytes());
        for list in [blocks, sections] {
            bytes.extend(u32::try_from(list.len()).expect("both lists are short").to_be_bytes());
            bytes.extend_from_slice(list.as_flattened());
        }
        bytes
    }

    /// Reads the body of the digest section.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (machine, rest) = bytes.split_first_chunk()?;
        let (machine, mut bytes) = (*machine, rest);
        let records = be32(&mut bytes)?;
        let blocks = digests(&mut bytes)?;
        let sections = digests(&mut bytes)?;
        bytes.is_empty().then_some(Self { machine, records, blocks, sections })
    }

    /// What differs from what the source says it holds, by name.
    pub(crate) fn difference(
        &self,
        theirs: &Self,
        ram: &GuestRam,
        sections: &[SavedSection],
    ) -> Option<String> {
        if self == theirs {
            return None;
        }
        let differs = |ours: &[Digest], theirs: &[Digest]| {
            ours.iter().zip(theirs).position(|(one, other)| one != other)
        };
        Some(if self.machine != theirs.machine {
            "the machine section is not the one that was sent".to_owned()
        } else if let Some(block) = differs(&self.blocks, &theirs.blocks) {
            format!("RAM block `{}` does not hold what was sent", ram.blocks()[block].name)
        } else if let Some(section) = differs(&self.sections, &theirs.sections) {
            let SavedSection { name, instance, .. } = &sections[section];
            format!("section `{name}` {instance} is not the one that was sent")
        } else if self.records != theirs.records {
            "the records of memory are not those that were sent".to_owned()
        } else {
            format!(
                "{} RAM blocks and {} sections were sent, and {} and {} are held",
                theirs.blocks.len(),
                theirs.sections.len(),
                self.blocks.len(),
                self.sections.len()
            )
        })
    }
}

fn be32(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*first))
}

fn digests(bytes: &mut &[u8]) -> Option<Vec<Digest>> {
    let count = be32(bytes)? as usize;
    // The count is believed only as far as there are bytes.
    let length = count.checked_mul(size_of::<Digest>())?;
    let (list, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let (list, _) = list.as_chunks();
    Some(list.to_vec())
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
        let empty = digests.blocks(&ram);
        assert_eq!(digests.differing(&ram), None);
        let page = [7; PAGE_SIZE];
        ram.write_page(3, &page);
        ram.write_page(6, &page);
        assert_eq!(digests.differing(&ram), Some((3, 2)));
        digests.set(3, &page);
        digests.set(6, &page);
        assert_eq!(digests.differing(&ram), None);
        assert_ne!(digests.blocks(&ram), empty);
        ram.write_page(3, &ZERO_PAGE);
        ram.write_page(6, &ZERO_PAGE);
        digests.set_zero(3);
        digests.set(6, &ZERO_PAGE);
        assert_eq!(digests.blocks(&ram), empty);
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
        let mut log = RecordLog::default();
        log.record(true, 0, 0x1000);
        let sections = [section("serial", b"ab"), section("rtc", b"c")];
        let ours = StateDigests::new([1; 32], &log, vec![[2; 32]], &sections);
        let difference = |theirs: &StateDigests| ours.difference(theirs, &ram, &sections);
        assert_eq!(difference(&ours), None);
        let bytes = ours.encode();
        assert_eq!(StateDigests::decode(&bytes).as_ref(), Some(&ours));
        for cut in 0..bytes.len() {
            assert_eq!(StateDigests::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(StateDigests::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let named = |theirs: &StateDigests| {
            assert_ne!(theirs.total(), ours.total());
            difference(theirs).unwrap()
        };
        let other = StateDigests { machine: [9; 32], ..ours.clone() };
        assert!(named(&other).contains("machine section"));
        let other = StateDigests { blocks: vec![[9; 32]], ..ours.clone() };
        assert!(named(&other).contains("RAM block `ram`"));
        let other = [section("serial", b"ab"), section("rtc", b"d")];
        let other = StateDigests::new([1; 32], &log, vec![[2; 32]], &other);
        assert!(named(&other).contains("section `rtc` 0"));
        let other = StateDigests::new([1; 32], &log, vec![[2; 32]], &sections[..1]);
        assert!(named(&other).contains("1 sections were sent, and 1 and 2 are held"));
        let mut other = log.clone();
        other.record(true, 0, 0x2000);
        let other = StateDigests::new([1; 32], &other, vec![[2; 32]], &sections);
        assert!(named(&other).contains("the records of memory"));
        // A boundary between name and data that moves is another section.
        assert_ne!(section_digest(&section("a", b"bc")), section_digest(&section("ab", b"c")));
    }
}
