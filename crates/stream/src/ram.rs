//! The RAM blocks of a stream, as writer and reader both keep them.

use std::collections::HashMap;

use crate::error::StreamErrorKind;
use crate::wire::{FLAGS, MAX_RAM_BLOCKS, PAGE_SIZE};

/// The list of RAM blocks, checked as it grows.
#[derive(Debug, Default)]
pub(crate) struct RamBlocks {
    list: Vec<(String, u64)>,
    indices: HashMap<String, u16>,
    total: u64,
    /// The block of the record before.
    last: Option<u16>,
}

impl RamBlocks {
    /// Adds a block.
    pub(crate) fn push(&mut self, name: String, length: u64) -> Result<(), StreamErrorKind> {
        if self.list.len() == MAX_RAM_BLOCKS {
            return Err(StreamErrorKind::ManyRamBlocks);
        }
        if length == 0 || length & FLAGS != 0 {
            return Err(StreamErrorKind::RamBlockLength { name, length });
        }
        // The largest total whose low bits are free for the flags.
        let Some(total) = self.total.checked_add(length) else {
            let total = u64::MAX;
            return Err(StreamErrorKind::RamBlocksTooLong { name, length, total });
        };
        let index = self.list.len() as u16;
        if self.indices.insert(name.clone(), index).is_some() {
            return Err(StreamErrorKind::RepeatedRamBlock(name));
        }
        self.list.push((name, length));
        self.total = total;
        Ok(())
    }

    /// Bytes of all blocks.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn list(&self) -> &[(String, u64)] {
        &self.list
    }

    pub(crate) fn index_of(&self, name: &str) -> Option<u16> {
        self.indices.get(name).copied()
    }

    /// The block of the record before.
    pub(crate) fn last(&self) -> Option<u16> {
        self.last
    }

    /// Notes a record about a page. Gives the block's name if the record needs it: if the record
    /// before was about another block.
    pub(crate) fn touch(
        &mut self,
        block: u16,
        offset: u64,
    ) -> Result<Option<&str>, StreamErrorKind> {
        let Some((name, length)) = self.list.get(usize::from(block)) else {
            return Err(StreamErrorKind::NoRamBlock(block));
        };
        if offset & FLAGS != 0 {
            return Err(StreamErrorKind::PageOffset(offset));
        }
        // Both are whole pages: a page that begins within the block ends within it.
        if offset >= *length {
            let (block, length) = (name.clone(), *length);
            return Err(StreamErrorKind::PageOutside { block, offset, length });
        }
        Ok(if self.last.replace(block) == Some(block) { None } else { Some(name) })
    }
}

const _: () = assert!(PAGE_SIZE.is_power_of_two() && MAX_RAM_BLOCKS <= 1 << 16);
