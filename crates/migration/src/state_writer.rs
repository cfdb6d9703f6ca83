//! The state stream on its way out, with the digest that it ends with.

use std::io::Write;

use memory::{DirtyBitmap, GuestRam, PAGE_SIZE};
use stream::{StreamError, StreamWriter};
use vmstate::SavedSection;

use crate::digest::{PageDigests, RecordLog, SectionsDigest, is_zero, state_digest, total_digest};
use crate::handover::Digest;
use crate::migratable::SharedSchemas;
use crate::postcopy::Session;

/// Writes one state stream, and hashes it as `docs/migration.md` says, so that it can end with its
/// digest. What is written when is the caller's: the order is that of the stream.
pub struct StateWriter<W> {
    writer: StreamWriter<W>,
    digests: PageDigests,
    records: RecordLog,
    sections: SectionsDigest,
}

impl<W: Write> StateWriter<W> {
    /// For a machine with these sections and so many pages of memory.
    pub fn new(output: W, schemas: SharedSchemas, pages: usize) -> Self {
        Self {
            writer: StreamWriter::new(output, schemas),
            digests: PageDigests::new(pages),
            records: RecordLog::default(),
            sections: SectionsDigest::default(),
        }
    }

    /// What is written to.
    pub fn output(&mut self) -> &mut W {
        self.writer.get_mut()
    }

    /// Machine type and device tree.
    ///
    /// # Errors
    /// If the output fails.
    pub fn machine(&mut self, machine_type: &str, tree: &[u8]) -> Result<(), StreamError> {
        self.sections = SectionsDigest::new(machine_type, tree);
        self.writer.configuration(machine_type)?;
        self.writer.machine(tree)
    }

    /// The blocks of memory.
    ///
    /// # Errors
    /// If the output fails.
    pub fn ram_blocks(&mut self, ram: &GuestRam) -> Result<(), StreamError> {
        let blocks: Vec<_> =
            ram.blocks().iter().map(|block| (block.name.clone(), block.length)).collect();
        self.writer.ram_blocks(&blocks)
    }

    /// Begins a round of pages.
    ///
    /// # Errors
    /// If the output fails.
    pub fn begin_round(&mut self) -> Result<(), StreamError> {
        self.writer.begin_ram_part()
    }

    /// A page: its number among all, the place of its block in the list, where it is in the block,
    /// and what it holds. True if that is nothing but zeroes.
    ///
    /// # Errors
    /// If there is no such page, or the output fails.
    pub fn page(
        &mut self,
        page: usize,
        block: u16,
        offset: u64,
        content: &[u8; PAGE_SIZE],
    ) -> Result<bool, StreamError> {
        let zero = is_zero(content);
        self.records.record(zero, block, offset);
        if zero {
            self.digests.set_zero(page);
            self.writer.zero_page(block, offset)?;
        } else {
            self.digests.set(page, content);
            self.writer.page(block, offset, content)?;
        }
        Ok(zero)
    }

    /// Ends a round.
    ///
    /// # Errors
    /// If the output fails.
    pub fn end_round(&mut self) -> Result<(), StreamError> {
        self.records.round_end();
        self.writer.end_ram_part()
    }

    /// Ends memory.
    ///
    /// # Errors
    /// If the output fails.
    pub fn end_memory(&mut self) -> Result<(), StreamError> {
        self.writer.begin_ram_end()?;
        self.writer.end_ram_end()
    }

    /// The first page whose content is not what was written last, and how many there are; see
    /// [`PageDigests::differing`].
    pub(crate) fn differing(
        &self,
        ram: &GuestRam,
        missing: Option<&DirtyBitmap>,
    ) -> Option<(usize, usize)> {
        self.digests.differing(ram, missing)
    }

    /// Everything after memory: the sections, the digest, the end. Gives the digest over all.
    ///
    /// # Errors
    /// If a section does not fit its schema, or the output fails.
    pub fn finish(
        &mut self,
        ram: &GuestRam,
        sections: &[SavedSection],
    ) -> Result<Digest, StreamError> {
        self.finish_in_part(ram, sections, None)
    }

    /// As [`Self::finish`], where some pages may come after the hand-over.
    pub(crate) fn finish_in_part(
        &mut self,
        ram: &GuestRam,
        sections: &[SavedSection],
        missing: Option<&(Session, DirtyBitmap)>,
    ) -> Result<Digest, StreamError> {
        for section in sections {
            self.writer.section(section)?;
        }
        let memory = match missing {
            None => self.digests.memory(ram, &self.records),
            Some((session, missing)) => {
                self.digests.memory_in_part(ram, &self.records, session, missing)
            }
        };
        let digest = state_digest(memory, self.sections.finish(sections));
        self.writer.digest(&digest)?;
        self.writer.end()?;
        Ok(total_digest(&digest))
    }
}
