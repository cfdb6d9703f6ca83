//! Bytes in, typed events out.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;

use vmstate::{SavedSection, Schema, VmState};

use crate::description::Description;
use crate::digest::Digest;
use crate::error::{Part, StreamError, StreamErrorKind};
use crate::input::Input;
use crate::ram::RamBlocks;
use crate::schemas::Schemas;
use crate::wire::{
    CONFIGURATION, DESCRIPTION, EOF, FIRST_DEVICE_ID, FLAG_CONTINUE, FLAG_EOS, FLAG_MEM_SIZE,
    FLAG_PAGE, FLAG_ZERO, FLAGS, FOOTER, MACHINE_ID, MAGIC, MAX_MACHINE_TYPE, Machine, PAGE_SIZE,
    RAM, RAM_ID, RAM_VERSION, SECTION_END, SECTION_FULL, SECTION_PART, SECTION_START, VERSION,
};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The stream begins, with a machine of this type.
    Configuration {
        /// Name of the machine type, such as `ferry-1`.
        machine_type: String,
    },
    /// The device tree. Whoever reads on past the memory has to call
    /// [`StreamReader::set_schemas`].
    Machine(Vec<u8>),
    /// Name and length in bytes of every RAM block. Pages name them by their place in this list.
    RamBlocks(Vec<(String, u64)>),
    /// The content of a page.
    Page {
        /// Place of the block in the list.
        block: u16,
        /// Where the page is in the block, in bytes.
        offset: u64,
        /// What it holds; the buffer is the reader's and is used again for the next page.
        data: &'a [u8; PAGE_SIZE],
    },
    /// A page that holds nothing but zeroes.
    ZeroPage {
        /// Place of the block in the list.
        block: u16,
        /// Where the page is in the block, in bytes.
        offset: u64,
    },
    /// A round of pages is over.
    RamRoundEnd,
    /// No more pages come.
    RamEnd,
    /// A device section. Its bytes are what its schema says; nobody has validated the state yet.
    Section(SavedSection),
    /// What the sender holds. Every section that the machine needs has come.
    Digest(Digest),
    /// The stream is complete, and its description is that of what was read.
    End,
}

/// An event without the page's content.
enum Step {
    Page { block: u16, offset: u64 },
    Other(Event<'static>),
}

/// Reads a stream from anything that can be read.
///
/// It reads in small pieces: give it something that is buffered. It takes no byte that is not part
/// of the stream, but for the one that [`expect_end_of_input`](Self::expect_end_of_input) looks
/// for.
pub struct StreamReader<R> {
    input: Input<R>,
    part: Part,
    schemas: Option<Arc<dyn Schemas>>,
    blocks: RamBlocks,
    page: Box<[u8; PAGE_SIZE]>,
    seen: HashSet<(String, u32)>,
    next_id: u32,
    description: Description,
}

impl<R: Read> StreamReader<R> {
    /// A reader at the start of a stream.
    pub fn new(input: R) -> Self {
        Self {
            input: Input::new(input),
            part: Part::Configuration,
            schemas: None,
            blocks: RamBlocks::default(),
            page: Box::new([0; PAGE_SIZE]),
            seen: HashSet::new(),
            next_id: FIRST_DEVICE_ID,
            description: Description::new(""),
        }
    }

    /// Says which sections the machine has. Due after [`Event::Machine`] and before the first
    /// section.
    pub fn set_schemas(&mut self, schemas: Arc<dyn Schemas>) {
        self.schemas = Some(schemas);
    }

    /// Bytes of the stream read so far.
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// The reader underneath.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    /// Reads up to the next event.
    ///
    /// # Errors
    /// If what comes is not what may come. The reader is of no use afterwards: every further call
    /// is an error too, as is a call after [`Event::End`].
    #[expect(clippy::should_implement_trait, reason = "an event borrows the reader's page buffer")]
    pub fn next(&mut self) -> Result<Event<'_>, StreamError> {
        let step = self.step();
        match step {
            Ok(Step::Page { block, offset }) => Ok(Event::Page { block, offset, data: &self.page }),
            Ok(Step::Other(event)) => Ok(event),
            Err(error) => {
                self.part = Part::Failed;
                Err(error)
            }
        }
    }

    /// Makes sure that nothing follows the stream. On a connection that stays open this waits for
    /// its end.
    ///
    /// # Errors
    /// If a byte follows, or the stream is not over yet.
    pub fn expect_end_of_input(&mut self) -> Result<(), StreamError> {
        if self.part != Part::Over {
            return Err(self.error(StreamErrorKind::CutShort));
        }
        self.input.expect_end()
    }

    fn error(&self, kind: StreamErrorKind) -> StreamError {
        StreamError::new(self.position(), kind)
    }

    fn step(&mut self) -> Result<Step, StreamError> {
        let event = match self.part {
            Part::Configuration => self.configuration()?,
            Part::Machine => self.machine()?,
            Part::RamBlocks => self.ram_blocks()?,
            Part::Ram => {
                self.begin_ram()?;
                return self.record();
            }
            Part::Pages | Part::LastPages => return self.record(),
            Part::Devices => self.device()?,
            Part::End => self.end()?,
            Part::Over | Part::Failed => return Err(self.error(StreamErrorKind::ReadAfterEnd)),
        };
        Ok(Step::Other(event))
    }

    fn expect_type(&mut self, expected: u8) -> Result<(), StreamError> {
        let at = self.position();
        let found = self.input.u8()?;
        if found == expected { Ok(()) } else { Err(self.unexpected(at, found)) }
    }

    fn unexpected(&self, at: u64, found: u8) -> StreamError {
        StreamError::new(at, StreamErrorKind::UnexpectedType { expected: self.part, found })
    }

    fn configuration(&mut self) -> Result<Event<'static>, StreamError> {
        let magic = self.input.u32()?;
        if magic != MAGIC {
            return Err(StreamError::new(0, StreamErrorKind::Magic(magic)));
        }
        let version = self.input.u32()?;
        if version != VERSION {
            return Err(StreamError::new(4, StreamErrorKind::Version(version)));
        }
        self.expect_type(CONFIGURATION)?;
        let at = self.position();
        let length = self.input.u32()?;
        const WHAT: &str = "the machine type";
        if length > MAX_MACHINE_TYPE {
            let (length, max) = (u64::from(length), MAX_MACHINE_TYPE);
            return Err(StreamError::new(
                at,
                StreamErrorKind::LongName { what: WHAT, length, max },
            ));
        }
        let machine_type = self.input.name(WHAT, length)?;
        self.description = Description::new(&machine_type);
        self.part = Part::Machine;
        Ok(Event::Configuration { machine_type })
    }

    fn expect_id(&mut self, expected: u32) -> Result<(), StreamError> {
        let at = self.position();
        let found = self.input.u32()?;
        if found == expected {
            return Ok(());
        }
        Err(StreamError::new(at, StreamErrorKind::SectionId { expected, found }))
    }

    /// Number, name and instance at the start of a section, and where its name begins.
    fn begin_section(&mut self, id: u32) -> Result<(String, u32, u64), StreamError> {
        self.expect_id(id)?;
        let at = self.position();
        let name = self.input.short_name("a section")?;
        let instance = self.input.u32()?;
        Ok((name, instance, at))
    }

    /// The start of a section that is always there.
    fn begin_known_section(
        &mut self,
        id: u32,
        name: &'static str,
        version: u32,
    ) -> Result<(), StreamError> {
        let (found, instance, at) = self.begin_section(id)?;
        if (found.as_str(), instance) != (name, 0) {
            let error = StreamError::new(at, StreamErrorKind::ExpectedSection(name));
            return Err(error.in_section(&found, instance));
        }
        let at = self.position();
        let found = self.input.u32()?;
        if found != version {
            let kind = StreamErrorKind::SectionVersion { expected: version, found };
            return Err(StreamError::new(at, kind).in_section(name, 0));
        }
        Ok(())
    }

    fn footer(&mut self, id: u32, name: &str, instance: u32) -> Result<(), StreamError> {
        let in_section = |error: StreamError| error.in_section(name, instance);
        let at = self.position();
        let mark = self.input.u8().map_err(in_section)?;
        if mark != FOOTER {
            return Err(in_section(StreamError::new(at, StreamErrorKind::NoFooter(mark))));
        }
        let at = self.position();
        let found = self.input.u32().map_err(in_section)?;
        if found != id {
            let kind = StreamErrorKind::FooterId { expected: id, found };
            return Err(in_section(StreamError::new(at, kind)));
        }
        Ok(())
    }

    /// Body and footer of a section.
    fn body(
        &mut self,
        id: u32,
        name: String,
        instance: u32,
        version: u32,
        schema: &Schema,
    ) -> Result<SavedSection, StreamError> {
        let start = self.position();
        let (data, values) = schema
            .read(version, &mut self.input)
            .map_err(|error| StreamError::body(start, &name, instance, error))?;
        self.footer(id, &name, instance)?;
        self.description.push(&name, instance, schema, &values);
        Ok(SavedSection { name, instance, version, data })
    }

    /// What a section of a type that this crate knows holds.
    fn decode<T: VmState>(start: u64, section: &SavedSection) -> Result<T, StreamError> {
        let SavedSection { name, instance, version: _, data: _ } = section;
        section.decode().map_err(|error| StreamError::body(start, name, *instance, error))
    }

    fn machine(&mut self) -> Result<Event<'static>, StreamError> {
        self.expect_type(SECTION_FULL)?;
        self.begin_known_section(MACHINE_ID, Machine::NAME, Machine::VERSION)?;
        let start = self.position();
        let schema = Machine::schema();
        let section =
            self.body(MACHINE_ID, Machine::NAME.to_owned(), 0, Machine::VERSION, &schema)?;
        let Machine { tree } = Self::decode(start, &section)?;
        self.seen.insert((section.name, 0));
        self.part = Part::RamBlocks;
        Ok(Event::Machine(tree))
    }

    fn ram_blocks(&mut self) -> Result<Event<'static>, StreamError> {
        self.expect_type(SECTION_START)?;
        self.begin_known_section(RAM_ID, RAM, RAM_VERSION)?;
        self.block_list().map_err(|error| error.in_section(RAM, 0))?;
        self.footer(RAM_ID, RAM, 0)?;
        self.seen.insert((RAM.to_owned(), 0));
        self.part = Part::Ram;
        Ok(Event::RamBlocks(self.blocks.list().to_vec()))
    }

    fn block_list(&mut self) -> Result<(), StreamError> {
        let at = self.position();
        let word = self.input.u64()?;
        if word & FLAGS != FLAG_MEM_SIZE {
            return Err(StreamError::new(at, StreamErrorKind::RamTotal(word)));
        }
        let total = word & !FLAGS;
        if total == 0 {
            return Err(StreamError::new(at, StreamErrorKind::NoRamBlocks));
        }
        while self.blocks.total() < total {
            let at = self.position();
            let name = self.input.short_name("a RAM block")?;
            let length = self.input.u64()?;
            if length > total - self.blocks.total() {
                let kind = StreamErrorKind::RamBlocksTooLong { name, length, total };
                return Err(StreamError::new(at, kind));
            }
            self.blocks.push(name, length).map_err(|kind| StreamError::new(at, kind))?;
        }
        let at = self.position();
        let word = self.input.u64()?;
        if word & FLAGS != FLAG_EOS {
            return Err(StreamError::new(at, StreamErrorKind::RamFlags(word & FLAGS)));
        }
        Self::check_end_of_ram(at, word)
    }

    fn check_end_of_ram(at: u64, word: u64) -> Result<(), StreamError> {
        match word & !FLAGS {
            0 => Ok(()),
            offset => Err(StreamError::new(at, StreamErrorKind::RamEndOffset(offset))),
        }
    }

    fn begin_ram(&mut self) -> Result<(), StreamError> {
        let at = self.position();
        let part = match self.input.u8()? {
            SECTION_PART => Part::Pages,
            SECTION_END => Part::LastPages,
            found => return Err(self.unexpected(at, found)),
        };
        self.expect_id(RAM_ID).map_err(|error| error.in_section(RAM, 0))?;
        self.part = part;
        Ok(())
    }

    fn record(&mut self) -> Result<Step, StreamError> {
        self.page_record().map_err(|error| error.in_section(RAM, 0))
    }

    fn page_record(&mut self) -> Result<Step, StreamError> {
        let at = self.position();
        let word = self.input.u64()?;
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        let refused = |kind| StreamError::new(at, kind);
        match flags & !FLAG_CONTINUE {
            FLAG_PAGE => {
                let block = self.block_of(at, flags)?;
                self.blocks.touch(block, offset).map_err(refused)?;
                self.input.fill(&mut *self.page)?;
                Ok(Step::Page { block, offset })
            }
            FLAG_ZERO => {
                let block = self.block_of(at, flags)?;
                self.blocks.touch(block, offset).map_err(refused)?;
                let at = self.position();
                match self.input.u8()? {
                    0 => Ok(Step::Other(Event::ZeroPage { block, offset })),
                    other => Err(StreamError::new(at, StreamErrorKind::FilledPage(other))),
                }
            }
            FLAG_EOS if flags == FLAG_EOS => {
                Self::check_end_of_ram(at, word)?;
                self.footer(RAM_ID, RAM, 0)?;
                Ok(Step::Other(if self.part == Part::LastPages {
                    self.part = Part::Devices;
                    Event::RamEnd
                } else {
                    self.part = Part::Ram;
                    Event::RamRoundEnd
                }))
            }
            _ => Err(refused(StreamErrorKind::RamFlags(flags))),
        }
    }

    fn block_of(&mut self, at: u64, flags: u64) -> Result<u16, StreamError> {
        if flags & FLAG_CONTINUE != 0 {
            let last = self.blocks.last();
            return last.ok_or_else(|| StreamError::new(at, StreamErrorKind::NoPageBefore));
        }
        let at = self.position();
        let name = self.input.short_name("a RAM block")?;
        self.blocks
            .index_of(&name)
            .ok_or_else(|| StreamError::new(at, StreamErrorKind::UnknownRamBlock(name)))
    }

    fn device(&mut self) -> Result<Event<'static>, StreamError> {
        self.expect_type(SECTION_FULL)?;
        let id = self.next_id;
        let (name, instance, at) = self.begin_section(id)?;
        let refused = |kind| Err(StreamError::new(at, kind).in_section(&name, instance));
        if self.seen.contains(&(name.clone(), instance)) {
            return refused(StreamErrorKind::RepeatedSection);
        }
        let Some(schemas) = &self.schemas else {
            return refused(StreamErrorKind::NoSchemas);
        };
        let is_digest = (name.as_str(), instance) == (Digest::NAME, 0);
        let schema = if is_digest {
            let missing = missing(&**schemas, &self.seen);
            if !missing.is_empty() {
                return Err(StreamError::new(at, StreamErrorKind::MissingSections(missing)));
            }
            Some(Digest::schema())
        } else {
            schemas.schema(&name, instance).cloned()
        };
        let Some(schema) = schema else {
            return refused(StreamErrorKind::UnknownSection);
        };
        let version = self.input.u32()?;
        let start = self.position();
        let section = self.body(id, name, instance, version, &schema)?;
        if is_digest {
            let digest = Self::decode(start, &section)?;
            self.part = Part::End;
            return Ok(Event::Digest(digest));
        }
        self.seen.insert((section.name.clone(), instance));
        self.next_id += 1;
        Ok(Event::Section(section))
    }

    fn end(&mut self) -> Result<Event<'static>, StreamError> {
        self.expect_type(EOF)?;
        self.expect_type(DESCRIPTION)?;
        let at = self.position();
        let found = self.input.u32()?;
        let expected = self.description.finish();
        if found as usize != expected.len() {
            let kind = StreamErrorKind::DescriptionLength { expected: expected.len(), found };
            return Err(StreamError::new(at, kind));
        }
        for expected in expected.as_bytes().chunks(PAGE_SIZE) {
            let at = self.position();
            let found = &mut self.page[..expected.len()];
            self.input.fill(found)?;
            let same = expected.iter().zip(&*found).take_while(|(one, other)| one == other).count();
            if same < expected.len() {
                let around = |bytes: &[u8]| {
                    let near = &bytes[same.saturating_sub(40)..bytes.len().min(same + 40)];
                    near.escape_ascii().to_string()
                };
                let kind = StreamErrorKind::Description {
                    expected: around(expected),
                    found: around(found),
                };
                return Err(StreamError::new(at + same as u64, kind));
            }
        }
        self.part = Part::Over;
        Ok(Event::End)
    }
}

/// The sections that a machine needs and that are not among those seen.
pub(crate) fn missing(schemas: &dyn Schemas, seen: &HashSet<(String, u32)>) -> Vec<(String, u32)> {
    schemas.expected().into_iter().filter(|section| !seen.contains(section)).collect()
}
