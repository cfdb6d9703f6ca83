//! Typed calls in, bytes out.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use vmstate::{SavedSection, VmState};

use crate::description::Description;
use crate::digest::Digest;
use crate::error::{Part, StreamError, StreamErrorKind};
use crate::ram::RamBlocks;
use crate::reader::missing;
use crate::schemas::Schemas;
use crate::wire::{
    CONFIGURATION, DESCRIPTION, EOF, FIRST_DEVICE_ID, FLAG_CONTINUE, FLAG_EOS, FLAG_MEM_SIZE,
    FLAG_PAGE, FLAG_ZERO, FOOTER, MACHINE_ID, MAGIC, MAX_MACHINE, MAX_MACHINE_TYPE, Machine,
    PAGE_SIZE, RAM, RAM_ID, RAM_VERSION, SECTION_END, SECTION_FULL, SECTION_PART, SECTION_START,
    VERSION,
};

/// Writes a stream to anything that can be written.
///
/// It writes in small pieces and never flushes: give it something that is buffered. Page contents
/// are handed on as they are. What the reader would refuse is refused here, before a byte of it is
/// written; calls out of order too.
pub struct StreamWriter<W> {
    output: W,
    position: u64,
    part: Part,
    schemas: Arc<dyn Schemas>,
    blocks: RamBlocks,
    seen: HashSet<(String, u32)>,
    next_id: u32,
    description: Description,
}

impl<W: Write> StreamWriter<W> {
    /// A writer at the start of a stream, for a machine with these sections. Writes nothing yet.
    pub fn new(output: W, schemas: Arc<dyn Schemas>) -> Self {
        Self {
            output,
            position: 0,
            part: Part::Configuration,
            schemas,
            blocks: RamBlocks::default(),
            seen: HashSet::new(),
            next_id: FIRST_DEVICE_ID,
            description: Description::new(""),
        }
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What the bytes go to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.output
    }

    /// What the bytes went to.
    pub fn into_inner(self) -> W {
        self.output
    }

    /// The header and the name of the machine type.
    ///
    /// # Errors
    /// If it is not due, the name is empty or too long, or the output fails.
    pub fn configuration(&mut self, machine_type: &str) -> Result<(), StreamError> {
        const WHAT: &str = "the machine type";
        self.expect(Part::Configuration, "the configuration")?;
        let length = self.check_name(WHAT, machine_type, MAX_MACHINE_TYPE)?;
        self.put(&MAGIC.to_be_bytes())?;
        self.put(&VERSION.to_be_bytes())?;
        self.put(&[CONFIGURATION])?;
        self.put(&length.to_be_bytes())?;
        self.put(machine_type.as_bytes())?;
        self.description = Description::new(machine_type);
        self.part = Part::Machine;
        Ok(())
    }

    /// The device tree.
    ///
    /// # Errors
    /// If it is not due, it is too large, or the output fails.
    pub fn machine(&mut self, tree: &[u8]) -> Result<(), StreamError> {
        self.expect(Part::Machine, "the machine")?;
        if tree.len() > MAX_MACHINE as usize {
            return Err(self.error(StreamErrorKind::LargeMachine(tree.len())));
        }
        let machine = Machine { tree: tree.to_vec() };
        let section = SavedSection::encode(Machine::NAME, 0, &machine);
        self.full_section(MACHINE_ID, &section, &Machine::schema())?;
        self.part = Part::RamBlocks;
        Ok(())
    }

    /// Name and length in bytes of every RAM block. Pages name them by their place in this list.
    ///
    /// # Errors
    /// If it is not due, a block is not a number of pages, a name is empty, too long or comes
    /// twice, or the output fails.
    pub fn ram_blocks(&mut self, blocks: &[(String, u64)]) -> Result<(), StreamError> {
        const WHAT: &str = "a RAM block";
        self.expect(Part::RamBlocks, "the list of RAM blocks")?;
        let mut list = RamBlocks::default();
        for (name, length) in blocks {
            self.check_name(WHAT, name, u32::from(u8::MAX))?;
            list.push(name.clone(), *length).map_err(|kind| self.error(kind))?;
        }
        if blocks.is_empty() {
            return Err(self.error(StreamErrorKind::NoRamBlocks));
        }
        self.begin_section(SECTION_START, RAM_ID, RAM, 0, RAM_VERSION)?;
        self.put(&(list.total() | FLAG_MEM_SIZE).to_be_bytes())?;
        for (name, length) in blocks {
            self.short_name(name)?;
            self.put(&length.to_be_bytes())?;
        }
        self.put(&FLAG_EOS.to_be_bytes())?;
        self.footer(RAM_ID)?;
        self.seen.insert((RAM.to_owned(), 0));
        self.blocks = list;
        self.part = Part::Ram;
        Ok(())
    }

    /// Begins a round of pages.
    ///
    /// # Errors
    /// If it is not due, or the output fails.
    pub fn begin_ram_part(&mut self) -> Result<(), StreamError> {
        self.begin_ram(SECTION_PART, Part::Pages, "a round of pages")
    }

    /// Ends a round of pages.
    ///
    /// # Errors
    /// If it is not due, or the output fails.
    pub fn end_ram_part(&mut self) -> Result<(), StreamError> {
        self.end_ram(Part::Pages, Part::Ram, "the end of a round of pages")
    }

    /// Begins the last round of pages. Nothing may store to memory any more.
    ///
    /// # Errors
    /// If it is not due, or the output fails.
    pub fn begin_ram_end(&mut self) -> Result<(), StreamError> {
        self.begin_ram(SECTION_END, Part::LastPages, "the last round of pages")
    }

    /// Ends the last round of pages.
    ///
    /// # Errors
    /// If it is not due, or the output fails.
    pub fn end_ram_end(&mut self) -> Result<(), StreamError> {
        self.end_ram(Part::LastPages, Part::Devices, "the end of RAM")
    }

    /// The content of a page, `offset` bytes into the block.
    ///
    /// # Errors
    /// If no round has begun, there is no such page, or the output fails.
    pub fn page(
        &mut self,
        block: u16,
        offset: u64,
        content: &[u8; PAGE_SIZE],
    ) -> Result<(), StreamError> {
        self.record(block, offset, FLAG_PAGE)?;
        self.put(content)
    }

    /// A page that holds nothing but zeroes, `offset` bytes into the block.
    ///
    /// # Errors
    /// If no round has begun, there is no such page, or the output fails.
    pub fn zero_page(&mut self, block: u16, offset: u64) -> Result<(), StreamError> {
        self.record(block, offset, FLAG_ZERO)?;
        self.put(&[0])
    }

    /// A device section.
    ///
    /// # Errors
    /// If it is not due, the machine has no such section, it was written already, its bytes are
    /// not what its schema says, or the output fails.
    pub fn section(&mut self, section: &SavedSection) -> Result<(), StreamError> {
        self.expect(Part::Devices, "a device section")?;
        let (name, instance) = (section.name.as_str(), section.instance);
        let known = match name {
            Machine::NAME | RAM | Digest::NAME => None,
            _ => self.schemas.schema(name, instance).cloned(),
        };
        let Some(schema) = known else {
            return Err(self.error(StreamErrorKind::UnknownSection).in_section(name, instance));
        };
        self.full_section(self.next_id, section, &schema)?;
        self.next_id += 1;
        Ok(())
    }

    /// What this side holds.
    ///
    /// # Errors
    /// If it is not due, a section that the machine needs was not written, or the output fails.
    pub fn digest(&mut self, digest: &Digest) -> Result<(), StreamError> {
        self.expect(Part::Devices, "the digest")?;
        let missing = missing(&*self.schemas, &self.seen);
        if !missing.is_empty() {
            return Err(self.error(StreamErrorKind::MissingSections(missing)));
        }
        let section = SavedSection::encode(Digest::NAME, 0, digest);
        self.full_section(self.next_id, &section, &Digest::schema())?;
        self.part = Part::End;
        Ok(())
    }

    /// The end mark and the description of what was written.
    ///
    /// # Errors
    /// If it is not due, or the output fails.
    pub fn end(&mut self) -> Result<(), StreamError> {
        self.expect(Part::End, "the end")?;
        let description = self.description.finish();
        self.put(&[EOF, DESCRIPTION])?;
        self.put(&(description.len() as u32).to_be_bytes())?;
        self.put(description.as_bytes())?;
        self.part = Part::Over;
        Ok(())
    }

    fn error(&self, kind: StreamErrorKind) -> StreamError {
        StreamError::new(self.position, kind)
    }

    fn expect(&self, part: Part, what: &'static str) -> Result<(), StreamError> {
        if self.part == part {
            return Ok(());
        }
        Err(self.error(StreamErrorKind::OutOfOrder { expected: self.part, what }))
    }

    /// Writes bytes. After a failure nobody knows how many went out: nothing more may follow.
    fn put(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if let Err(error) = self.output.write_all(bytes) {
            self.part = Part::Failed;
            return Err(self.error(StreamErrorKind::Io(error)));
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn check_name(&self, what: &'static str, name: &str, max: u32) -> Result<u32, StreamError> {
        let length = name.len() as u64;
        match u32::try_from(length) {
            Ok(0) => Err(self.error(StreamErrorKind::NoName(what))),
            Ok(length) if length <= max => Ok(length),
            _ => Err(self.error(StreamErrorKind::LongName { what, length, max })),
        }
    }

    /// A name that was checked, behind its length.
    fn short_name(&mut self, name: &str) -> Result<(), StreamError> {
        self.put(&[name.len() as u8])?;
        self.put(name.as_bytes())
    }

    fn begin_section(
        &mut self,
        ty: u8,
        id: u32,
        name: &str,
        instance: u32,
        version: u32,
    ) -> Result<(), StreamError> {
        self.put(&[ty])?;
        self.put(&id.to_be_bytes())?;
        self.short_name(name)?;
        self.put(&instance.to_be_bytes())?;
        self.put(&version.to_be_bytes())
    }

    fn footer(&mut self, id: u32) -> Result<(), StreamError> {
        self.put(&[FOOTER])?;
        self.put(&id.to_be_bytes())
    }

    /// Checks a whole section, and writes it.
    fn full_section(
        &mut self,
        id: u32,
        section: &SavedSection,
        schema: &vmstate::Schema,
    ) -> Result<(), StreamError> {
        let SavedSection { name, instance, version, data } = section;
        self.check_name("a section", name, u32::from(u8::MAX))?;
        let values = schema
            .values(*version, data)
            .map_err(|error| StreamError::body(self.position, name, *instance, error))?;
        if !self.seen.insert((name.clone(), *instance)) {
            let error = self.error(StreamErrorKind::RepeatedSection);
            return Err(error.in_section(name, *instance));
        }
        self.begin_section(SECTION_FULL, id, name, *instance, *version)?;
        self.put(data)?;
        self.footer(id)?;
        self.description.push(name, *instance, schema, &values);
        Ok(())
    }

    fn begin_ram(&mut self, ty: u8, part: Part, what: &'static str) -> Result<(), StreamError> {
        self.expect(Part::Ram, what)?;
        self.put(&[ty])?;
        self.put(&RAM_ID.to_be_bytes())?;
        self.part = part;
        Ok(())
    }

    fn end_ram(&mut self, part: Part, next: Part, what: &'static str) -> Result<(), StreamError> {
        self.expect(part, what)?;
        self.put(&FLAG_EOS.to_be_bytes())?;
        self.footer(RAM_ID)?;
        self.part = next;
        Ok(())
    }

    /// The start of a record about a page, in one piece.
    fn record(&mut self, block: u16, offset: u64, flag: u64) -> Result<(), StreamError> {
        if !matches!(self.part, Part::Pages | Part::LastPages) {
            let kind = StreamErrorKind::OutOfOrder { expected: self.part, what: "a page" };
            return Err(self.error(kind));
        }
        let named = match self.blocks.touch(block, offset) {
            Ok(named) => named,
            Err(kind) => return Err(StreamError::new(self.position, kind)),
        };
        let mut bytes = [0; 8 + 1 + u8::MAX as usize];
        let length = match named {
            None => {
                bytes[..8].copy_from_slice(&(offset | flag | FLAG_CONTINUE).to_be_bytes());
                8
            }
            Some(name) => {
                bytes[..8].copy_from_slice(&(offset | flag).to_be_bytes());
                bytes[8] = name.len() as u8;
                bytes[9..9 + name.len()].copy_from_slice(name.as_bytes());
                9 + name.len()
            }
        };
        self.put(&bytes[..length])
    }
}
