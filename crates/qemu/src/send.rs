//! Writes the stream of a microvm as QEMU 7.2 does, so that a QEMU takes it.

use std::io::{self, Write};

use vmstate::{DecodeError, SavedSection};

use crate::layout::Layout;
use crate::{MICROVM, PAGE_SIZE};

const RAM: u32 = 2;
const FIRST_DEVICE: u32 = 4;

/// A stream cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The output failed.
    #[error("QEMU's stream cannot be written")]
    Io(#[from] io::Error),
    /// A section is not what QEMU's is.
    #[error(transparent)]
    Section(#[from] DecodeError),
    /// A section that QEMU's machine does not have.
    #[error("section {name:?} instance {instance} is none of a microvm's")]
    Unknown {
        /// Its name.
        name: String,
        /// Its instance.
        instance: u32,
    },
    /// A page that is not there.
    #[error("there is no page at {offset:#x} of RAM block {block}")]
    NoPage {
        /// The block's place in the list.
        block: usize,
        /// Where the page would be, in bytes.
        offset: u64,
    },
}

/// Writes a stream: header, RAM blocks, pages in rounds, sections, the end.
pub struct Sender<W> {
    output: W,
    blocks: Vec<(String, u64)>,
    last: Option<usize>,
    described: Vec<String>,
}

impl<W: Write> Sender<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// If the output fails.
    pub fn new(mut output: W) -> Result<Self, SendError> {
        output.write_all(b"QEVM\0\0\0\x03\x07")?;
        output.write_all(&(MICROVM.len() as u32).to_be_bytes())?;
        output.write_all(MICROVM.as_bytes())?;
        Ok(Self { output, blocks: Vec::new(), last: None, described: Vec::new() })
    }

    /// What is written to.
    pub fn output(&mut self) -> &mut W {
        &mut self.output
    }

    /// Asks QEMU to answer on the same channel. Comes before memory.
    ///
    /// # Errors
    /// If the output fails.
    pub fn open_return_path(&mut self) -> Result<(), SendError> {
        Ok(self.output.write_all(&[0x08, 0, 1, 0, 0])?)
    }

    /// Asks QEMU to answer with this number once it has taken in everything so far.
    ///
    /// # Errors
    /// If the output fails.
    pub fn ping(&mut self, number: u32) -> Result<(), SendError> {
        self.output.write_all(&[0x08, 0, 2, 0, 4])?;
        self.output.write_all(&number.to_be_bytes())?;
        Ok(self.output.flush()?)
    }

    /// Names the RAM blocks, with their lengths in bytes.
    ///
    /// # Errors
    /// If the output fails.
    pub fn begin_memory(&mut self, blocks: &[(String, u64)]) -> Result<(), SendError> {
        self.blocks = blocks.to_vec();
        self.head(0x01, RAM, "ram", 0, 4)?;
        let total: u64 = blocks.iter().map(|(_, length)| length).sum();
        self.output.write_all(&(total | 0x04).to_be_bytes())?;
        for (name, length) in blocks {
            self.name(name)?;
            self.output.write_all(&length.to_be_bytes())?;
        }
        self.ram_end()
    }

    fn name(&mut self, name: &str) -> Result<(), SendError> {
        let length =
            u8::try_from(name.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.output.write_all(&[length])?;
        Ok(self.output.write_all(name.as_bytes())?)
    }

    fn head(
        &mut self,
        kind: u8,
        id: u32,
        name: &str,
        instance: u32,
        version: u32,
    ) -> Result<(), SendError> {
        self.output.write_all(&[kind])?;
        self.output.write_all(&id.to_be_bytes())?;
        self.name(name)?;
        self.output.write_all(&instance.to_be_bytes())?;
        Ok(self.output.write_all(&version.to_be_bytes())?)
    }

    fn footer(&mut self, id: u32) -> Result<(), SendError> {
        self.output.write_all(&[0x7e])?;
        Ok(self.output.write_all(&id.to_be_bytes())?)
    }

    fn ram_end(&mut self) -> Result<(), SendError> {
        self.output.write_all(&0x10u64.to_be_bytes())?;
        self.footer(RAM)
    }

    /// Begins a round of pages; `last` says that the guest stands still.
    ///
    /// # Errors
    /// If the output fails.
    pub fn begin_round(&mut self, last: bool) -> Result<(), SendError> {
        self.output.write_all(&[if last { 0x03 } else { 0x02 }])?;
        Ok(self.output.write_all(&RAM.to_be_bytes())?)
    }

    /// The content of a page of the block at this place of the list.
    ///
    /// # Errors
    /// If there is no such page, or the output fails.
    pub fn page(
        &mut self,
        block: usize,
        offset: u64,
        content: &[u8; PAGE_SIZE],
    ) -> Result<(), SendError> {
        let (name, length) = match self.blocks.get(block) {
            Some((name, length)) => (name.clone(), *length),
            None => return Err(SendError::NoPage { block, offset }),
        };
        if offset >= length || !offset.is_multiple_of(PAGE_SIZE as u64) {
            return Err(SendError::NoPage { block, offset });
        }
        let zero = *content == [0; PAGE_SIZE];
        let same = self.last.replace(block) == Some(block);
        let flags = if zero { 0x02 } else { 0x08 } | if same { 0x20 } else { 0 };
        self.output.write_all(&(offset | flags).to_be_bytes())?;
        if !same {
            self.name(&name)?;
        }
        Ok(self.output.write_all(if zero { &[0] } else { content })?)
    }

    /// Ends a round.
    ///
    /// # Errors
    /// If the output fails.
    pub fn end_round(&mut self) -> Result<(), SendError> {
        self.ram_end()
    }

    /// All sections.
    ///
    /// # Errors
    /// If a section is not one of these layouts', before any is written, or the output fails.
    pub fn sections(
        &mut self,
        sections: &[SavedSection],
        layouts: &[Layout],
    ) -> Result<(), SendError> {
        for SavedSection { name, instance, version, data } in sections {
            let layout = layouts.iter().find(|of| of.name == *name && of.instance == *instance);
            let Some(layout) = layout else {
                return Err(SendError::Unknown { name: name.clone(), instance: *instance });
            };
            let values = layout.schema.values(*version, data)?;
            self.described.push(layout.schema.describe(name, *instance, &values));
        }
        for (id, section) in (FIRST_DEVICE..).zip(sections) {
            let SavedSection { name, instance, version, data } = section;
            self.head(0x04, id, name, *instance, *version)?;
            self.output.write_all(data)?;
            self.footer(id)?;
        }
        Ok(())
    }

    /// The end mark, with which QEMU may run the guest, and the description. Gives the output back.
    ///
    /// # Errors
    /// If the output fails.
    pub fn finish(mut self) -> Result<W, SendError> {
        let description =
            format!("{{\"page_size\":{PAGE_SIZE},\"devices\":[{}]}}", self.described.join(","));
        self.output.write_all(&[0x00, 0x06])?;
        self.output.write_all(&(description.len() as u32).to_be_bytes())?;
        self.output.write_all(description.as_bytes())?;
        self.output.flush()?;
        Ok(self.output)
    }
}
