//! Reads the stream of a QEMU microvm strictly, in one pass: by the layouts that are known, not by
//! the description at its end, so that it can come through a socket. What is not known is an error
//! that names it. Sections come in any order, as newer QEMUs send theirs.
//!
//! This is a state machine without I/O: it is given bytes, and says what they were and what is to
//! be answered.
//!
//! ```text
//! QEMU                                    here
//! --------------------------------------  ---------------------------------------------------
//! header, configuration ---------------->
//! OPEN_RETURN_PATH, PING --------------->  [Event::Blocks] once memory's list has come
//!                       <---------------- PONG
//! memory, in rounds -------------------->  [Event::Page], [Event::Difference], [Event::RoundEnd]
//! (stops the guest)
//! sections, end, description ----------->  [Event::Complete]
//!                                          everything is loaded: [Incoming::accept]
//!                       <---------------- SHUT
//! ends the channel --------------------->  [Incoming::is_released]
//! ```
//!
//! With the return path QEMU keeps the guest, stopped, until it hears SHUT, and lets it go on if
//! the channel breaks before. Without it QEMU is done with the guest as soon as it has written
//! everything: a stream that is complete, and whose channel has ended in order, is the guest.

mod buffer;
mod grammar;
mod pages;

use vmstate::{ByteSource, DecodeErrorKind, SavedSection};

use crate::layout::Layout;
use crate::{MICROVM, PAGE_SIZE};

use buffer::{Buffer, Failure, Reading, refuse};
use grammar::{block_list, block_of, footer, head, subsection};
use pages::Channels;

pub use crate::xbzrle::apply;

/// The largest description that is read over.
const MAX_DESCRIPTION: u32 = 32 << 20;
/// The largest content of a command.
const MAX_COMMAND: u16 = 4096;
/// Most RAM blocks, and capabilities.
const MAX_NAMES: usize = 256;
/// Bytes of the first channel that are kept at most before they are taken in: more than a section.
const ENOUGH: usize = 4 << 20;

const COMMAND: u8 = 0x08;
const COMMANDS: [&str; 12] = [
    "0",
    "OPEN_RETURN_PATH",
    "PING",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_RUN",
    "POSTCOPY_RAM_DISCARD",
    "PACKAGED",
    "ENABLE_COLO",
    "POSTCOPY_RESUME",
    "RECV_BITMAP",
    "SWITCHOVER_START",
];
/// Messages of the return path.
const SHUT: u16 = 1;
const PONG: u16 = 2;

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset} of QEMU's {channel}: {reason}")]
pub struct ReceiveError {
    /// Where, in bytes from its start.
    pub offset: u64,
    /// What it came on.
    pub channel: String,
    /// Why.
    pub reason: String,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The list of RAM blocks: names, and lengths in bytes. Pages name them by their place in it.
    Blocks(&'a [(String, u64)]),
    /// The content of a page.
    Page {
        /// Place of the block in the list.
        block: usize,
        /// Where it is in the block, in bytes.
        offset: u64,
        /// What it holds.
        content: &'a [u8; PAGE_SIZE],
    },
    /// A page has changed; see [`apply`].
    Difference {
        /// Place of the block in the list.
        block: usize,
        /// Where it is in the block, in bytes.
        offset: u64,
        /// What is different from what it held.
        delta: &'a [u8],
    },
    /// A part of memory is over.
    RoundEnd,
    /// Everything is there, to the last byte of the description: these are the sections.
    Complete(Vec<SavedSection>),
}

/// What is expected of a stream.
pub struct Expected {
    /// The sections of the machine.
    pub layouts: Vec<Layout>,
    /// The machine's UUID, which QEMU may be told to name.
    pub uuid: [u8; 16],
    /// Channels of pages (QEMU's capability `multifd`), besides the first one.
    pub channels: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Configuration,
    Items,
    /// Inside a part of memory, the last one or not.
    Memory(bool),
    /// Behind a part of memory: what other channels have of it comes first. QEMU may keep the
    /// footer to itself until it has sent more.
    Barrier(bool),
    /// Behind that.
    Footer,
    Description,
    /// So many bytes of the description are left.
    Skipping(usize),
    /// Complete.
    Over,
}

/// What one step has found.
enum Step {
    Nothing,
    Blocks,
    Page(usize, u64),
    Difference(usize, u64),
    RoundEnd,
    Complete,
}

/// A stream that comes in.
pub struct Incoming {
    expected: Expected,
    buffer: Buffer,
    channels: Channels,
    part: Part,
    blocks: Vec<(String, u64)>,
    /// The block of the record before.
    last: Option<usize>,
    /// Number of the section of memory.
    ram: Option<u32>,
    ram_ended: bool,
    sections: Vec<SavedSection>,
    page: Box<[u8; PAGE_SIZE]>,
    delta: Vec<u8>,
    replies: Vec<u8>,
    return_path: bool,
    accepted: bool,
}

impl Incoming {
    /// A stream of which nothing has come.
    pub fn new(expected: Expected) -> Self {
        Self {
            channels: Channels::new(expected.channels, expected.uuid),
            expected,
            buffer: Buffer::default(),
            part: Part::Configuration,
            blocks: Vec::new(),
            last: None,
            ram: None,
            ram_ended: false,
            sections: Vec::new(),
            page: Box::new([0; PAGE_SIZE]),
            delta: Vec::new(),
            replies: Vec::new(),
            return_path: false,
            accepted: false,
        }
    }

    /// Whether more of a channel is to be given: 0 is the stream itself, the others have pages.
    pub fn wants(&self, channel: usize) -> bool {
        match channel.checked_sub(1) {
            None => self.buffer.waiting().len() < ENOUGH,
            Some(channel) => self.channels.wants(channel),
        }
    }

    /// Gives bytes that came.
    pub fn heard(&mut self, channel: usize, bytes: &[u8]) {
        match channel.checked_sub(1) {
            None => self.buffer.add(bytes),
            Some(channel) => self.channels.heard(channel, bytes),
        }
    }

    /// Says that a channel has ended, in order.
    pub fn ended(&mut self, channel: usize) {
        match channel.checked_sub(1) {
            None => self.buffer.end(),
            Some(channel) => self.channels.ended(channel),
        }
    }

    /// What is to be said to QEMU now.
    pub fn replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Whether QEMU hears what is said to it.
    pub fn has_return_path(&self) -> bool {
        self.return_path
    }

    /// Tells QEMU, if it hears, that everything is loaded. It gives the guest away then.
    ///
    /// # Errors
    /// If QEMU has ended the channel before, and so keeps the guest.
    pub fn accept(&mut self) -> Result<(), ReceiveError> {
        if self.return_path && self.buffer.is_ended() {
            return Err(self.error(0, "QEMU has left before it heard the answer"));
        }
        self.accepted = true;
        self.say(SHUT, 0);
        Ok(())
    }

    /// Tells QEMU, if it hears, that the guest is not taken.
    pub fn refuse(&mut self) {
        self.say(SHUT, 1);
    }

    /// Whether QEMU has given the guest away.
    pub fn is_released(&self) -> bool {
        self.part == Part::Over && self.accepted && self.buffer.is_ended()
    }

    fn say(&mut self, message: u16, value: u32) {
        if self.return_path {
            self.replies.extend(message.to_be_bytes());
            self.replies.extend(4u16.to_be_bytes());
            self.replies.extend(value.to_be_bytes());
        }
    }

    fn error(&self, at: u64, reason: impl Into<String>) -> ReceiveError {
        ReceiveError {
            offset: self.buffer.position() + at,
            channel: "stream".to_owned(),
            reason: reason.into(),
        }
    }

    /// What came next; `None` if more bytes are needed to tell.
    ///
    /// # Errors
    /// If any byte is not what a microvm with these sections sends.
    #[expect(clippy::should_implement_trait, reason = "an event borrows from the stream")]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, ReceiveError> {
        if !self.blocks.is_empty() {
            let page = self.channels.next(&self.blocks, self.ram_ended);
            match page {
                // The borrow checker does not see that an early return ends the loan.
                Ok(Some(pages::Page { block, offset, content })) => {
                    self.page.copy_from_slice(content);
                    return Ok(Some(Event::Page { block, offset, content: &self.page }));
                }
                Ok(None) => {}
                Err((channel, offset, reason)) => {
                    let channel = format!("channel of pages {channel}");
                    return Err(ReceiveError { offset, channel, reason });
                }
            }
        }
        loop {
            let step = match self.step() {
                Ok(step) => step,
                Err(Failure::Refused { at, reason }) => return Err(self.error(at, reason)),
                Err(Failure::Short) if self.buffer.is_ended() => {
                    let left = self.buffer.waiting().len() as u64;
                    return Err(self.error(left, "it is cut short"));
                }
                Err(Failure::Short) => return Ok(None),
            };
            return Ok(Some(match step {
                Step::Nothing => continue,
                Step::Blocks => Event::Blocks(&self.blocks),
                Step::Page(block, offset) => Event::Page { block, offset, content: &self.page },
                Step::Difference(block, offset) => {
                    Event::Difference { block, offset, delta: &self.delta }
                }
                Step::RoundEnd => Event::RoundEnd,
                Step::Complete => Event::Complete(std::mem::take(&mut self.sections)),
            }));
        }
    }

    fn step(&mut self) -> Result<Step, Failure> {
        match self.part {
            Part::Configuration => self.configuration(),
            Part::Items => self.item(),
            Part::Memory(last) => self.record(last),
            Part::Barrier(last) => {
                if self.channels.any() && !self.channels.pass() {
                    return Err(Failure::Short);
                }
                self.ram_ended = last;
                self.part = Part::Footer;
                Ok(Step::RoundEnd)
            }
            Part::Footer => {
                let ram = self.ram.unwrap_or_default();
                self.buffer.item(|source| footer(source, ram, "ram"))?;
                self.part = Part::Items;
                Ok(Step::Nothing)
            }
            Part::Description => {
                let length = self.buffer.item(|source| {
                    if source.u8()? != 0x06 {
                        return refuse(
                            "there is no description behind the end: do not suppress it \
                             (-machine suppress-vmdesc=off)",
                        );
                    }
                    match source.u32()? {
                        length if length > MAX_DESCRIPTION => {
                            refuse(format!("the description has {length} bytes"))
                        }
                        length => Ok(length),
                    }
                })?;
                self.part = Part::Skipping(length as usize);
                Ok(Step::Nothing)
            }
            // An older or a newer QEMU words it as it likes; what it describes is known.
            Part::Skipping(left) => {
                let now = left.min(self.buffer.waiting().len());
                self.buffer.take(now);
                self.part = Part::Skipping(left - now);
                if left > now {
                    return Err(Failure::Short);
                }
                // Without a return path the end of the channel says that there is no more.
                if !self.return_path && !self.buffer.is_ended() {
                    self.nothing_follows()?;
                    return Err(Failure::Short);
                }
                self.nothing_follows()?;
                self.part = Part::Over;
                Ok(Step::Complete)
            }
            Part::Over => {
                self.nothing_follows()?;
                Err(Failure::Short)
            }
        }
    }

    fn nothing_follows(&self) -> Result<(), Failure> {
        if self.buffer.waiting().is_empty() {
            return Ok(());
        }
        Err(Failure::Refused { at: 0, reason: "bytes follow behind its end".to_owned() })
    }

    fn configuration(&mut self) -> Result<Step, Failure> {
        let uuid = self.expected.uuid;
        self.buffer.item(|source| {
            let magic = source.u32()?;
            if magic != 0x5145_564d {
                return refuse(format!("it begins with {magic:#010x}, and not as a migration"));
            }
            let version = source.u32()?;
            if version != 3 {
                return refuse(format!("version {version} of the stream format is not supported"));
            }
            if source.u8()? != 0x07 {
                return refuse("the configuration is missing");
            }
            let length = source.u32()?;
            if length > 255 {
                return refuse(format!("the name of the machine type has {length} bytes"));
            }
            let mut name = vec![0; length as usize];
            source.read_exact(&mut name)?;
            if name != MICROVM.as_bytes() {
                let name = String::from_utf8_lossy(&name);
                return refuse(format!("machine type {name:?} is not {MICROVM:?}"));
            }
            loop {
                // At the end of what is there nobody knows what comes next.
                match source.peek()? {
                    Some(0x05) => subsection(source, uuid)?,
                    Some(_) => return Ok(()),
                    None => return Err(Reading::Short),
                }
            }
        })?;
        self.part = Part::Items;
        Ok(Step::Nothing)
    }

    fn item(&mut self) -> Result<Step, Failure> {
        let Some(kind) = self.buffer.waiting().first() else { return Err(Failure::Short) };
        match *kind {
            0x00 => {
                self.buffer.take(1);
                self.complete()?;
                self.part = Part::Description;
                Ok(Step::Nothing)
            }
            0x01 => self.ram_start(),
            kind @ (0x02 | 0x03) => {
                let (ram, ended) = (self.ram, self.ram_ended);
                self.buffer.item(|source| {
                    source.u8()?;
                    match source.u32()? {
                        id if ram == Some(id) && !ended => Ok(()),
                        id => refuse(format!("a part of section number {id}, which is no memory")),
                    }
                })?;
                self.part = Part::Memory(kind == 0x03);
                Ok(Step::Nothing)
            }
            0x04 => self.section(),
            COMMAND => self.command(),
            other => Err(Failure::Refused {
                at: 0,
                reason: format!("{other:#04x} is the type of no section"),
            }),
        }
    }

    fn command(&mut self) -> Result<Step, Failure> {
        let (begun, opened) = (self.ram.is_some(), self.return_path);
        let (number, content) = self.buffer.item(|source| {
            source.u8()?;
            let (number, length) = (source.u16()?, source.u16()?);
            if length > MAX_COMMAND {
                return refuse(format!("command {number} has {length} bytes"));
            }
            let mut content = vec![0; length.into()];
            source.read_exact(&mut content)?;
            match (number, content.len()) {
                (1, 0) if !begun && !opened => {}
                (2, 4) if opened => {}
                (3, _) => {
                    return refuse(
                        "post-copy is not supported: turn the capability postcopy-ram off at the \
                         source",
                    );
                }
                _ => {
                    let name = COMMANDS.get(usize::from(number)).unwrap_or(&"unknown");
                    return refuse(format!(
                        "command {number} ({name}) of {length} bytes is not supported here"
                    ));
                }
            }
            Ok((number, content))
        })?;
        match *content {
            [] => self.return_path = true,
            [one, two, three, four] => self.say(PONG, u32::from_be_bytes([one, two, three, four])),
            _ => unreachable!("{number} was let through with no other length"),
        }
        Ok(Step::Nothing)
    }

    fn ram_start(&mut self) -> Result<Step, Failure> {
        let again = self.ram.is_some();
        let (id, blocks) = self.buffer.item(|source| {
            source.u8()?;
            let (id, name, instance, version) = head(source)?;
            if (name.as_str(), instance, version) != ("ram", 0, 4) || again {
                return refuse(format!(
                    "section {name:?} instance {instance} version {version} comes in parts, and \
                     is not the memory of a microvm"
                ));
            }
            let total = source.u64()?;
            if total & 0xfff != 0x04 {
                return refuse(format!("the list of RAM blocks begins with {total:#x}"));
            }
            let blocks = block_list(source, total & !0xfff)?;
            if source.u64()? != 0x10 {
                return refuse("the list of RAM blocks does not end");
            }
            Ok((id, blocks))
        })?;
        self.ram = Some(id);
        self.blocks = blocks;
        // Channels of pages begin by coming as far as this.
        self.part = Part::Barrier(false);
        Ok(Step::Blocks)
    }

    fn record(&mut self, end: bool) -> Result<Step, Failure> {
        enum Record {
            Page,
            Difference,
            End,
        }
        let (blocks, last) = (&self.blocks, &mut self.last);
        let (page, delta) = (&mut self.page, &mut self.delta);
        let found = self.buffer.item(|source| {
            let word = source.u64()?;
            let (offset, flags) = (word & !0xfff, word & 0xfff);
            if word == 0x10 {
                return Ok((Record::End, 0, 0));
            }
            match flags & !0x20 {
                0x02 | 0x08 | 0x40 => {}
                0x100 => {
                    return refuse("memory is compressed: turn the capability compress off");
                }
                _ => {
                    return refuse(format!(
                        "a RAM record with flags {flags:#05x}: pages, pages of zeroes and XBZRLE \
                         are supported"
                    ));
                }
            }
            let block = block_of(source, blocks, last, flags & 0x20 != 0)?;
            let (name, length) = &blocks[block];
            if offset >= *length {
                return refuse(format!("a page at {offset:#x} of RAM block {name:?}"));
            }
            match flags & !0x20 {
                0x02 => {
                    let fill = source.u8()?;
                    if fill != 0 {
                        return refuse(format!("a page of zeroes is filled with {fill:#04x}"));
                    }
                    page.fill(0);
                }
                0x08 => source.read_exact(&mut page[..])?,
                _ => {
                    let (mark, length) = (source.u8()?, source.u16()?);
                    if mark != 1 || usize::from(length) > PAGE_SIZE {
                        return refuse("an XBZRLE record is malformed");
                    }
                    delta.resize(length.into(), 0);
                    source.read_exact(delta)?;
                    return Ok((Record::Difference, block, offset));
                }
            }
            Ok((Record::Page, block, offset))
        })?;
        Ok(match found {
            (Record::Page, block, offset) => Step::Page(block, offset),
            (Record::Difference, block, offset) => Step::Difference(block, offset),
            (Record::End, ..) => {
                self.part = Part::Barrier(end);
                Step::Nothing
            }
        })
    }

    fn section(&mut self) -> Result<Step, Failure> {
        let (ended, layouts) = (self.ram_ended, &self.expected.layouts);
        let sections = &self.sections;
        let section = self.buffer.item(|source| {
            source.u8()?;
            let (id, name, instance, version) = head(source)?;
            if !ended {
                return refuse(format!("section {name:?} comes before the end of memory"));
            }
            let known = layouts.iter().find(|of| of.name == name && of.instance == instance);
            let Some(layout) = known else {
                return refuse(format!(
                    "section {name:?} instance {instance} is of a device that this machine does \
                     not have"
                ));
            };
            if sections.iter().any(|of| of.name == name && of.instance == instance) {
                return refuse(format!("section {name:?} instance {instance} comes twice"));
            }
            let data =
                layout.schema.read_body(version, source).map_err(|error| match error.kind() {
                    DecodeErrorKind::Truncated | DecodeErrorKind::Io(_) => Reading::Short,
                    _ => Reading::Refused(error.in_section(&name, instance).to_string()),
                })?;
            footer(source, id, &name)?;
            Ok(SavedSection { name, instance, version, data })
        })?;
        self.sections.push(section);
        Ok(Step::Nothing)
    }

    fn complete(&self) -> Result<(), Failure> {
        let missing = |layout: &&Layout| {
            let same = |of: &SavedSection| of.name == layout.name && of.instance == layout.instance;
            !self.sections.iter().any(same)
        };
        let missing: Vec<_> = self
            .expected
            .layouts
            .iter()
            .filter(missing)
            .map(|layout| format!("{:?} {}", layout.name, layout.instance))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::Refused { at: 0, reason: format!("missing: {}", missing.join(", ")) })
    }
}
