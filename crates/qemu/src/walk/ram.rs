//! Memory, as QEMU sends it: the list of RAM blocks, and records about pages. What stands in a page
//! is kept as a digest.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::error::{WalkError, WalkErrorKind};
use super::input::Input;
use super::{Block, MAX_BLOCKS, Page};
use crate::xbzrle;

const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;
const COMPRESSED: u64 = 0x100;
const MULTIFD_FLUSH: u64 = 0x200;

/// What is known of memory while it is read.
pub(super) struct Ram {
    pub(super) blocks: Vec<Block>,
    page_size: u64,
    /// The block of the record before; it outlives sections.
    last: Option<usize>,
    /// Each block's record has the block's guest-physical address: said by a capability.
    addresses: bool,
}

impl Ram {
    pub(super) fn new(page_size: u64, addresses: bool) -> Self {
        Self { blocks: Vec::new(), page_size, last: None, addresses }
    }

    /// Reads the records of one section, to its end record.
    pub(super) fn read<R: Read + Seek>(&mut self, input: &mut Input<R>) -> Result<(), WalkError> {
        loop {
            let at = input.position();
            let failed = |kind: WalkErrorKind| WalkError { offset: at, section: None, kind };
            let word = input.u64()?;
            let (offset, flags) = (word & !(self.page_size - 1), word & (self.page_size - 1));
            match flags & !CONTINUE {
                EOS if word == EOS => return Ok(()),
                MEM_SIZE if flags == MEM_SIZE => self.block_list(input, offset)?,
                MULTIFD_FLUSH if word == MULTIFD_FLUSH => {}
                kind @ (ZERO | PAGE | XBZRLE | COMPRESSED) => {
                    let block = self.block(input, flags & CONTINUE != 0, at)?;
                    let Block { name, length, .. } = &self.blocks[block];
                    if offset >= *length {
                        let (block, length) = (name.clone(), *length);
                        return Err(failed(WalkErrorKind::PageOutside { block, offset, length }));
                    }
                    let page = self.page(input, kind, at)?;
                    let block = &mut self.blocks[block];
                    block.records += 1;
                    block.pages.insert(offset / self.page_size, page);
                }
                _ => return Err(failed(WalkErrorKind::RamFlags(flags))),
            }
        }
    }

    fn block_list<R: Read + Seek>(
        &mut self,
        input: &mut Input<R>,
        total: u64,
    ) -> Result<(), WalkError> {
        let mut sum: u64 = 0;
        while sum < total {
            let at = input.position();
            let failed = |kind: WalkErrorKind| WalkError { offset: at, section: None, kind };
            let name = input.short_text()?;
            let length = input.u64()?;
            let address = if self.addresses { Some(input.u64()?) } else { None };
            sum = match sum.checked_add(length) {
                Some(sum) if sum <= total => sum,
                _ => return Err(failed(WalkErrorKind::BlocksTooLong { block: name, total })),
            };
            if self.blocks.len() == MAX_BLOCKS {
                return Err(failed(WalkErrorKind::ManyBlocks));
            }
            if self.blocks.iter().any(|block| block.name == name) {
                return Err(failed(WalkErrorKind::BlockTwice(name)));
            }
            let pages = BTreeMap::new();
            self.blocks.push(Block { name, length, address, records: 0, pages });
        }
        Ok(())
    }

    fn block<R: Read + Seek>(
        &mut self,
        input: &mut Input<R>,
        same: bool,
        at: u64,
    ) -> Result<usize, WalkError> {
        let failed = |kind: WalkErrorKind| WalkError { offset: at, section: None, kind };
        if same {
            return self.last.ok_or_else(|| failed(WalkErrorKind::NoBlockBefore));
        }
        let name = input.short_text()?;
        let found = self.blocks.iter().position(|block| block.name == name);
        let index = found.ok_or_else(|| failed(WalkErrorKind::UnknownBlock(name)))?;
        self.last = Some(index);
        Ok(index)
    }

    fn page<R: Read + Seek>(
        &self,
        input: &mut Input<R>,
        kind: u64,
        at: u64,
    ) -> Result<Page, WalkError> {
        let failed = |kind: WalkErrorKind| WalkError { offset: at, section: None, kind };
        match kind {
            ZERO => match input.u8()? {
                0 => Ok(Page::Zero),
                other => Err(failed(WalkErrorKind::FilledPage(other))),
            },
            PAGE => {
                let content = input.bytes(self.page_size)?;
                if content.iter().all(|byte| *byte == 0) {
                    return Ok(Page::Zero);
                }
                let mut digest = [0; 16];
                digest.copy_from_slice(&blake3::hash(&content).as_bytes()[..16]);
                Ok(Page::Content(digest))
            }
            XBZRLE => {
                let (mark, length) = (input.u8()?, input.u16()?);
                let delta = input.bytes(length.into())?;
                if mark != 1 || !xbzrle::fits(&delta, self.page_size) {
                    return Err(failed(WalkErrorKind::Delta));
                }
                Ok(Page::Unchecked)
            }
            _ => {
                let length = input.u32()?;
                input.bytes(length.into())?;
                Ok(Page::Unchecked)
            }
        }
    }
}
